"""The topology, and the broker in memory, which must behave as the real one does where tests rely on it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.broker import (
    BrokerUnavailable,
    Delivery,
    Route,
    control_route,
    delay_route,
    progress_route,
    report_route,
    step_route,
)
from shared.broker.memory import MemoryBroker
from shared.broker.topology import CONTROL_EXCHANGE, DEAD_QUEUE, EVENTS_EXCHANGE, PARKING_QUEUE, REPORTS_QUEUE, topology
from shared.contracts.messages import Cancel, StepMessage, StepProgress, StepStarted
from shared.contracts.steps import STEPS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT: dict[str, Any] = {
    "task_id": 1,
    "run_id": "r",
    "at": NOW,
    "step_id": "s",
    "step": "inspect",
    "attempt": 1,
    "worker": "w",
}
MESSAGE = StepMessage(
    task_id=1, run_id="r", at=NOW, step_id="s", step="inspect", attempt=1, seq=1, position=1, total=1, config={}
)
QUEUE = STEPS["inspect"].queue


class Taker:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[Delivery] = []
        self.some = asyncio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        self.taken.append(delivery)
        self.some.set()


def test_every_step_has_a_queue_whose_dead_letters_are_kept() -> None:
    queues = {queue.name: queue for queue in topology().queues}
    for step in STEPS.values():
        queue = queues[step.queue]
        assert queue.bindings == (step_route(step.name),)
        assert queue.arguments["x-dead-letter-exchange"] == "stdweb.dead"
        assert queue.arguments["x-delivery-limit"] == 20
        assert int(queue.arguments["x-consumer-timeout"]) > step.time_limit_s * 1000
    assert {DEAD_QUEUE, REPORTS_QUEUE} < queues.keys()


def test_what_the_gateway_puts_back_while_the_store_is_away_is_not_dropped() -> None:
    """It does so each second; a quorum queue without a limit of its own drops after 20 deliveries from 4.0 on."""
    week_s = 7 * 86_400
    for queue in topology((5.0,)).queues:
        waits_for_its_time = queue.name.startswith("delay.")  # nobody takes from it
        if queue.kind == "quorum" and not waits_for_its_time:
            assert "x-delivery-limit" in queue.arguments, queue.name
        if queue.name in {REPORTS_QUEUE, DEAD_QUEUE, PARKING_QUEUE}:
            assert int(queue.arguments["x-delivery-limit"]) > week_s


async def test_at_most_prefetch_messages_are_held_until_acknowledged() -> None:
    broker, taker = MemoryBroker(), Taker()
    for _ in range(3):
        await broker.publish(step_route("inspect"), MESSAGE, message_id="s")
    assert (await broker.depth(QUEUE)).messages == 3
    await broker.consume(QUEUE, taker, prefetch=2)
    await broker.settled()
    assert len(taker.taken) == 2
    await taker.taken[0].ack()
    await taker.taken[0].ack()  # once more changes nothing
    await broker.settled()
    assert len(taker.taken) == 3
    assert StepMessage.model_validate_json(taker.taken[2].body) == MESSAGE


async def test_rejected_messages_die_and_requeued_ones_come_again() -> None:
    broker, taker, dead = MemoryBroker(), Taker(), Taker()
    await broker.consume(QUEUE, taker, prefetch=1)
    await broker.consume(DEAD_QUEUE, dead, prefetch=1)
    await broker.publish(step_route("inspect"), MESSAGE, message_id="s", headers={"x-tries": 2})
    await broker.settled()
    await taker.taken[0].requeue()
    await broker.settled()
    assert len(taker.taken) == 2
    await taker.taken[1].reject()
    await broker.settled()
    (letter,) = dead.taken
    assert (letter.routing_key, letter.message_id, letter.headers["x-tries"]) == ("inspect", "s", 2)


async def test_a_delayed_message_comes_back_under_its_key() -> None:
    broker, taker = MemoryBroker((0.02,)), Taker()
    await broker.consume(QUEUE, taker, prefetch=1)
    await broker.publish(delay_route("inspect", 0.02), MESSAGE, message_id="s")
    assert not taker.taken
    await asyncio.wait_for(taker.some.wait(), 5)
    assert taker.taken[0].routing_key == "inspect"


async def test_reports_and_progress_and_control_go_where_they_should() -> None:
    broker, reports, progress, control = MemoryBroker(), Taker(), Taker(), Taker()
    await broker.consume(REPORTS_QUEUE, reports, prefetch=10)
    await broker.listen(EVENTS_EXCHANGE, ["progress.*"], progress)
    await broker.listen(CONTROL_EXCHANGE, [""], control)
    started, sign = StepStarted(**REPORT), StepProgress(**REPORT, fraction=0.5)
    await broker.publish(report_route(started), started, message_id="s-1-started")
    await broker.tell(progress_route(sign), sign)
    await broker.tell(control_route(), Cancel(task_id=1, run_id="r", at=NOW))
    await broker.settled()
    assert [len(taker.taken) for taker in (reports, progress, control)] == [1, 1, 1]


async def test_without_confirmation_publishing_raises() -> None:
    broker = MemoryBroker()
    with pytest.raises(BrokerUnavailable):
        await broker.publish(Route("stdweb.steps", "unknown"), MESSAGE, message_id="s")
    broker.away = True
    with pytest.raises(BrokerUnavailable):
        await broker.publish(step_route("inspect"), MESSAGE, message_id="s")
    await broker.tell(step_route("inspect"), MESSAGE)
    broker.away = False
    assert (await broker.depth(QUEUE)).messages == 0
