"""Queues that cannot be had, as those of a cluster's node that is down: everything else goes on.

With one node there is no such node: a queue that was deleted answers alike, and one that another connection keeps for
itself cannot be declared either.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from shared.broker import Broker, BrokerUnavailable, Delivery, NoAnswer, Route, connect, step_route
from shared.broker.topology import REPLIES_EXCHANGE
from shared.contracts.rpc import PREVIEW_RENDER, Refusal, Request
from shared.contracts.steps import STEPS
from tests.support.rabbit import TestBroker, step_message
from tests.support.relay import Relay

QUEUE = STEPS["inspect"].queue
REQUEST = Request(at=datetime(2026, 1, 1, tzinfo=UTC), request_id="r1")
STEP = step_message(1)
DEADLINE_S = 60


@pytest.fixture
def url(rabbit: TestBroker) -> str:
    return rabbit.new_url()


@pytest.fixture
async def admin(url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()


async def answer(body: bytes) -> Refusal:
    return Refusal(code="asked", error=Request.model_validate_json(body).request_id)


async def answered(broker: Broker) -> None:
    """Ask until there is an answer."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                reply = await broker.call(PREVIEW_RENDER, REQUEST)
            except (BrokerUnavailable, NoAnswer):
                await asyncio.sleep(0.05)
            else:
                assert Refusal.model_validate_json(reply).error == "r1"
                return


async def declare_again(url: str) -> None:
    """Do what a gateway does that starts."""
    gateway = connect(url, "another", settle_s=5)
    await asyncio.wait_for(gateway.ready(), DEADLINE_S)
    await gateway.close()


async def test_a_worker_whose_queue_of_requests_is_away_goes_on_with_its_steps(
    url: str, admin: AbstractChannel
) -> None:
    gateway = connect(url, "gateway", settle_s=5)
    await gateway.ready()
    async with Relay(url) as relay:
        worker = connect(relay.url, "worker", settle_s=5, declares=False)
        arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        await worker.consume(QUEUE, arrived.put, prefetch=1)
        await worker.serve(PREVIEW_RENDER, answer, prefetch=1)
        await answered(gateway)

        await admin.queue_delete(PREVIEW_RENDER.queue)
        relay.cut()
        with pytest.raises(BrokerUnavailable, match="NO_ROUTE"):
            await gateway.call(PREVIEW_RENDER, REQUEST)
        await gateway.publish(step_route("inspect"), STEP, message_id="s1")
        assert (await asyncio.wait_for(arrived.get(), DEADLINE_S)).message_id == "s1"

        await declare_again(url)
        await answered(gateway)
        await worker.close()
    await gateway.close()


async def test_who_lost_the_queue_for_answers_is_told_and_takes_another(url: str, admin: AbstractChannel) -> None:
    gateway = connect(url, "gateway", settle_s=5)
    await gateway.ready()
    asked: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    requests = await admin.get_queue(PREVIEW_RENDER.queue)
    tag = await requests.consume(asked.put)
    call = asyncio.create_task(gateway.call(PREVIEW_RENDER, REQUEST))
    request = await asyncio.wait_for(asked.get(), DEADLINE_S)
    assert request.reply_to is not None

    await admin.exchange_delete(REPLIES_EXCHANGE)  # else the queue could be made anew
    await admin.queue_delete(request.reply_to)
    with pytest.raises(NoAnswer, match="was lost"):
        await asyncio.wait_for(call, PREVIEW_RENDER.time_limit_s / 2)
    await gateway.publish(step_route("inspect"), STEP, message_id="s1")

    await request.ack()
    await requests.cancel(tag)
    await declare_again(url)
    await gateway.serve(PREVIEW_RENDER, answer, prefetch=1)
    await answered(gateway)
    await gateway.close()


async def test_a_gateway_starts_without_a_queue_that_is_away_and_makes_it_later(url: str) -> None:
    keeper = await aio_pika.connect(url)
    await (await keeper.channel()).declare_queue(PREVIEW_RENDER.queue, exclusive=True)
    gateway = connect(url, "gateway", settle_s=5)
    await asyncio.wait_for(gateway.ready(), DEADLINE_S)
    await gateway.publish(step_route("inspect"), STEP, message_id="s1")
    with pytest.raises(BrokerUnavailable):
        await gateway.depth(PREVIEW_RENDER.queue)

    await keeper.close()
    worker = connect(url, "worker", settle_s=5, declares=False)
    await asyncio.wait_for(worker.serve(PREVIEW_RENDER, answer, prefetch=1), DEADLINE_S)
    await answered(gateway)
    await worker.close()
    await gateway.close()


async def test_after_a_message_that_was_refused_others_are_taken(url: str, admin: AbstractChannel) -> None:
    gateway = connect(url, "gateway", settle_s=5)
    await gateway.ready()
    full = await admin.declare_queue(
        "full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}, durable=True
    )
    await gateway.publish(Route("", full.name), STEP, message_id="s0")
    sent = await asyncio.gather(
        *(gateway.publish(Route("", full.name), STEP, message_id=f"s{number}") for number in range(1, 4)),
        return_exceptions=True,
    )
    assert all(isinstance(error, BrokerUnavailable) for error in sent)
    assert gateway.connected
    await gateway.publish(step_route("inspect"), STEP, message_id="s4")
    assert (await gateway.depth(QUEUE)).messages == 1
    await gateway.close()
