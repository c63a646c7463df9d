"""At a real RabbitMQ each service can do its work, and touch nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused
from pydantic import BaseModel

from shared.broker import Broker, Delivery, connect, delay_route, delays_for, report_route, step_route
from shared.broker.topology import CONTROL_EXCHANGE, DEAD_QUEUE, REPORTS_QUEUE, topology
from shared.contracts.messages import StepDone, StepMessage
from shared.contracts.rpc import RPCS, Refusal, Rpc
from shared.contracts.steps import STEPS
from stdweb.stack.components import ANSWERING, SERVICES
from tests.support.rabbit import TestBroker

DEADLINE_S = 60
DELAY_S = delays_for(0.2)[0]
EVERY_SERVICE = (*SERVICES, *ANSWERING)


def letter(step: str) -> StepMessage:
    run = {"task_id": 1, "run_id": "r", "at": datetime.now(UTC), "step_id": "s", "step": step}
    return StepMessage(**run, attempt=1, seq=1, position=1, total=1, config={})


def report(step: str) -> StepDone:
    run = {"task_id": 1, "run_id": "r", "at": datetime.now(UTC), "step_id": "s", "step": step}
    return StepDone(**run, attempt=1, worker="w", computed={}, files=(), seconds=1.0)


@asynccontextmanager
async def brokers(urls: Callable[[str], str], *services: str) -> AsyncIterator[list[Broker]]:
    """Connect each as its processes do; the gateway last, and the others wait for what it makes."""
    async with AsyncExitStack() as stack:
        ours = []
        for service in (*services, "gateway"):
            steps = [step for step in STEPS.values() if service in (step.service, "gateway")]
            what = topology(delays_for(0.2), steps)
            ours.append(connect(urls(service), service, settle_s=5, what=what, declares=service == "gateway"))
            stack.push_async_callback(ours[-1].close)
        yield ours


async def arrival(queue: "asyncio.Queue[Delivery]") -> Delivery:
    delivery = await asyncio.wait_for(queue.get(), DEADLINE_S)
    await delivery.ack()
    return delivery


@pytest.mark.parametrize("step", STEPS)
async def test_a_service_can_work_on_its_steps(rabbit: TestBroker, step: str) -> None:
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    cancelled: asyncio.Queue[Delivery] = asyncio.Queue()
    reports: asyncio.Queue[Delivery] = asyncio.Queue()
    async with brokers(rabbit.urls(), STEPS[step].service) as (service, gateway):
        consuming = asyncio.create_task(service.consume(STEPS[step].queue, arrived.put, prefetch=1))
        await gateway.ready()
        await asyncio.wait_for(consuming, DEADLINE_S)
        await service.listen(CONTROL_EXCHANGE, [""], cancelled.put)
        await gateway.consume(REPORTS_QUEUE, reports.put, prefetch=1)
        await gateway.publish(step_route(step), letter(step), message_id="s")
        assert (await arrival(arrived)).message_id == "s"
        await service.publish(delay_route(step, DELAY_S), letter(step), message_id="later")
        assert (await arrival(arrived)).message_id == "later"
        await service.publish(report_route(report(step)), report(step), message_id="done")
        assert (await arrival(reports)).message_id == "done"


@pytest.mark.parametrize("rpc", RPCS.values(), ids=lambda rpc: rpc.name)
async def test_a_service_can_answer(rabbit: TestBroker, rpc: Rpc) -> None:
    class Question(BaseModel):
        text: str

    async def answer(body: bytes) -> BaseModel:
        return Refusal(code="asked", error=Question.model_validate_json(body).text)

    async with brokers(rabbit.urls(), rpc.service) as (service, gateway):
        serving = asyncio.create_task(service.serve(rpc, answer, prefetch=1))
        await gateway.ready()
        await asyncio.wait_for(serving, DEADLINE_S)
        reply = Refusal.model_validate_json(await gateway.call(rpc, Question(text="here?")))
        assert (reply.code, reply.error) == ("asked", "here?")


async def consume(channel: AbstractChannel, queue: str) -> None:
    found = await channel.get_queue(queue, ensure=False)
    await found.consume(lambda _: None)  # type: ignore[arg-type, return-value]


async def put(channel: AbstractChannel, exchange: str, key: str) -> None:
    to = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    await to.publish(aio_pika.Message(b"{}"), key)


async def bind(channel: AbstractChannel, exchange: str) -> None:
    own = await channel.declare_queue("listener.own", exclusive=True)
    await own.bind(exchange, "#")


@pytest.mark.parametrize("service", EVERY_SERVICE)
async def test_a_service_touches_nothing_else(rabbit: TestBroker, service: str) -> None:
    others = [step for step in STEPS.values() if step.service != service]
    asked = [rpc for rpc in RPCS.values() if rpc.service != service]
    tries: list[tuple[Callable[..., Awaitable[Any]], tuple[str, ...]]] = [
        *((consume, (step.queue,)) for step in others),
        *((consume, (rpc.queue,)) for rpc in asked),
        *((consume, (queue,)) for queue in (REPORTS_QUEUE, DEAD_QUEUE)),
        *((put, ("stdweb.steps", step.name)) for step in STEPS.values()),
        *((put, (delay_route(step.name, DELAY_S).exchange, delay_route(step.name, DELAY_S).key)) for step in others),
        *((put, ("", step.queue)) for step in STEPS.values()),
        *((put, (exchange, "")) for exchange in ("stdweb.control", "stdweb.dead")),
        *((bind, (exchange,)) for exchange in ("stdweb.events", "stdweb.replies", "stdweb.steps", "stdweb.dead")),
        (AbstractChannel.declare_queue, ("step.another.v1",)),
        (AbstractChannel.declare_exchange, ("stdweb.another",)),
        (AbstractChannel.queue_delete, (STEPS["inspect"].queue,)),
    ]
    urls = rabbit.urls()
    async with brokers(urls) as (gateway,):
        await gateway.ready()
        connection = await aio_pika.connect(urls(service))
        async with connection:
            for attempt, arguments in tries:
                channel = await connection.channel()
                method = getattr(channel, attempt.__name__, None)
                with pytest.raises(ChannelAccessRefused):
                    await (method(*arguments) if method is not None else attempt(channel, *arguments))
