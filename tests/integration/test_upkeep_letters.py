"""Dead letters on a real broker: looked at, run again, deleted."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import aio_pika
import pytest

from services.gateway.domain.errors import Invalid
from services.gateway.domain.runs import Request
from services.gateway.listener import DEAD, Listener
from services.gateway.model import Task, now
from services.gateway.upkeep import Site, letters
from shared.broker import Delivery
from shared.broker.topology import DEAD_QUEUE, PARKING_QUEUE
from shared.contracts import states
from shared.contracts.messages import StepMessage
from shared.contracts.steps import STEPS
from tests.support.gateway import until as until_true
from tests.support.rabbit import TestBroker
from tests.support.service import until


class Watched(Site):
    """An installation whose coordinator the test listens with."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.broker.ready()
        self.seen: list[StepMessage] = []
        return self


@pytest.fixture
async def care(mongo_url: str, rabbit: TestBroker, tmp_path: Path) -> AsyncIterator[Watched]:
    async with Watched(mongo_url, tmp_path, rabbit.new_url()) as site:
        yield site


async def new_task(care: Site) -> Task:
    task_id, at = await care.tasks.next_id(), now()
    care.root.task(task_id).create()
    task = Task(task_id, "a.fits", "", "ann", (), created=at, modified=at, state=states.UPLOADED)
    await care.tasks.insert(task)
    return task


async def refuse(care: Watched) -> None:
    """Play a worker that refuses what it gets, and the gateway that hears of it."""

    async def take(delivery: Delivery) -> None:
        care.seen.append(StepMessage.model_validate_json(delivery.body))
        await delivery.reject()

    for step in STEPS.values():
        await care.broker.consume(step.queue, take, prefetch=1)
    listener = Listener(care.broker, care.coordinator, None)  # type: ignore[arg-type] - nobody follows
    await care.broker.consume(DEAD_QUEUE, listener._dead, prefetch=1)


async def died(care: Watched, *chains: list[str]) -> list[Task]:
    """Start chains that no worker takes, and wait until they have ended."""
    tasks = []
    for steps in chains:
        task = await new_task(care)
        await care.coordinator.process(task, Request("ann", steps))
        tasks.append(task)
    await parked(care, len(chains))
    return tasks


async def parked(care: Watched, count: int) -> None:
    async def enough() -> bool:
        return (await care.broker.depth(PARKING_QUEUE)).messages == count

    await until_true(enough, timeout_s=30)


async def test_letters_are_listed_as_often_as_one_likes(care: Watched) -> None:
    await refuse(care)
    first, second = await died(care, ["inspect", "photometry"], ["photometry"])
    for _ in range(25):  # brokers may drop what was delivered 20 times
        found = {letter.message.task_id: letter for letter in await letters.listed(care)}
        assert set(found) == {first.id, second.id}
    one = found[first.id]
    assert (one.message.step, one.steps, one.obstacle) == ("inspect", ("inspect", "photometry"), "")
    assert one.reason == "a worker refused it"
    assert one.age_s is not None
    assert 0 <= one.age_s < 60
    await parked(care, 2)


async def test_the_rest_of_a_chain_runs_again_once(care: Watched) -> None:
    await refuse(care)
    first, second = await died(care, ["inspect", "photometry"], ["photometry"])
    found = {letter.message.task_id: letter for letter in await letters.listed(care)}
    (handled,) = await letters.requeue(care, [found[first.id].id[:12]])
    assert handled.problem == ""
    await until(lambda: len(care.seen) == 3)
    again = care.seen[-1]
    assert (again.task_id, again.step, again.total) == (first.id, "inspect", 2)
    assert again.run_id != found[first.id].message.run_id
    await parked(care, 2)  # it was refused again; its first letter is gone
    assert {letter.id for letter in await letters.listed(care)} == {again.step_id, found[second.id].id}


async def test_what_may_not_run_again_is_said_and_stays(care: Watched) -> None:
    await refuse(care)
    gone, since, changed, fine = await died(care, *[["inspect"]] * 4)
    seen = await care.tasks.get(gone.id)
    assert seen is not None
    await care.tasks.delete(seen)
    later = await care.tasks.get(since.id)
    assert later is not None
    await care.coordinator.process(later, Request("ann", ["photometry"]))
    await parked(care, 5)
    await care.store.collection("tasks").update_one({"_id": changed.id}, {"$set": {"state": states.UPLOADED}})
    handled = await letters.requeue(care, [])
    told = {(one.letter.message.task_id, one.letter.message.step): one.problem for one in handled}
    assert told == {
        (gone.id, "inspect"): "its task was deleted",
        (since.id, "inspect"): "the task has run since, or its image has changed",
        (changed.id, "inspect"): "the image of the task has changed since",
        (since.id, "photometry"): "",
        (fine.id, "inspect"): "",
    }
    await parked(care, 5)  # three that stayed, and two that were refused again
    assert len(await letters.drop(care, [])) == 5
    assert await letters.listed(care) == []


async def kill(care: Watched, body: bytes) -> None:
    """Send what a worker refuses because it cannot read it."""
    connection = await aio_pika.connect(care._amqp_url)
    async with connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(aio_pika.Message(body), STEPS["inspect"].queue)


async def test_what_is_no_message_of_a_step_is_kept_as_it_came(care: Watched) -> None:
    async def reject(delivery: Delivery) -> None:
        await delivery.reject()

    await care.broker.consume(STEPS["inspect"].queue, reject, prefetch=1)
    listener = Listener(care.broker, care.coordinator, None)  # type: ignore[arg-type] - nobody follows
    await care.broker.consume(DEAD_QUEUE, listener._dead, prefetch=1)
    counted = DEAD.labels("none")._value.get()
    bodies = {b'{"version": 99}', b"\xff\x1b[2J", b""}
    for body in bodies:
        await kill(care, body)
    await parked(care, 3)
    found = await letters.listed(care)
    assert {letter.body for letter in found} == bodies
    assert DEAD.labels("none")._value.get() == counted + 3
    for letter in found:
        assert (letter.message, letter.steps, letter.reason) == (None, (), "a worker refused it")
        assert letter.age_s is not None
        assert 0 <= letter.age_s < 60
    (kept,) = await letters.requeue(care, [found[0].id[:12]])
    assert kept.problem == "it is no message of a step, or of another version"
    await parked(care, 3)
    assert (await letters.found(care, found[1].id)).body == found[1].body
    assert [one.letter.body for one in await letters.drop(care, [found[2].id])] == [found[2].body]
    await parked(care, 2)


async def test_ids_of_none_or_several_are_refused(care: Watched) -> None:
    await refuse(care)
    await died(care, ["inspect"], ["inspect"])
    for start, said in (("", "there are several"), ("nothing", "there is no dead letter")):
        with pytest.raises(Invalid, match=said):
            await letters.drop(care, [start])
    await parked(care, 2)
