"""The client against a real RabbitMQ."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from shared.broker import Broker, BrokerUnavailable, Delivery, Route, connect, delay_route, step_route
from shared.broker.topology import DEAD_QUEUE
from shared.contracts.steps import STEPS
from tests.support.rabbit import TestBroker, step_message

QUEUE = STEPS["inspect"].queue
DEADLINE_S = 60


@pytest.fixture
async def broker(rabbit: TestBroker) -> AsyncIterator[Broker]:
    one = connect(rabbit.new_url(), "test", settle_s=5, delays_s=(0.2,))
    await one.ready()
    yield one
    await one.close()


async def test_unroutable_messages_raise_and_others_wait(broker: Broker) -> None:
    with pytest.raises(BrokerUnavailable, match="NO_ROUTE"):
        await broker.publish(Route("stdweb.steps", "unknown"), step_message(1), message_id="s1")
    await broker.publish(step_route("inspect"), step_message(1), message_id="s1")
    assert (await broker.depth(QUEUE)).messages == 1


async def test_delayed_and_rejected_messages_keep_body_id_and_key(broker: Broker) -> None:
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    await broker.consume(QUEUE, arrived.put, prefetch=1)
    await broker.consume(DEAD_QUEUE, arrived.put, prefetch=1)
    began = time.monotonic()
    await broker.publish(delay_route("inspect", 0.2), step_message(1), message_id="s1", headers={"x-tries": 1})
    delivery = await asyncio.wait_for(arrived.get(), DEADLINE_S)
    assert time.monotonic() - began >= 0.2
    assert (delivery.routing_key, delivery.message_id, delivery.headers["x-tries"]) == ("inspect", "s1", 1)
    await delivery.reject()
    dead = await asyncio.wait_for(arrived.get(), DEADLINE_S)
    assert (dead.routing_key, dead.message_id, dead.body) == ("inspect", "s1", delivery.body)
    await dead.ack()
    await dead.ack()  # stale: changes nothing


async def test_after_a_crash_of_the_broker_nothing_confirmed_is_lost(rabbit: TestBroker, broker: Broker) -> None:
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    await broker.consume(QUEUE, arrived.put, prefetch=10)
    await broker.publish(step_route("inspect"), step_message(1), message_id="s1")
    held = await asyncio.wait_for(arrived.get(), DEADLINE_S)
    rabbit.kill()
    with pytest.raises(BrokerUnavailable):
        await broker.publish(step_route("inspect"), step_message(2), message_id="s2")
    await asyncio.to_thread(rabbit.restart)
    await held.ack()  # of a channel that is gone
    again = await asyncio.wait_for(arrived.get(), DEADLINE_S)
    assert again.message_id == "s1"
    await again.ack()
    async with asyncio.timeout(DEADLINE_S):
        while not broker.connected:
            await asyncio.sleep(0.05)
    await broker.publish(step_route("inspect"), step_message(3), message_id="s3")
    assert (await asyncio.wait_for(arrived.get(), DEADLINE_S)).message_id == "s3"
