"""Requests that are answered at once, over the broker in memory."""

import asyncio
from datetime import UTC, datetime

import pytest

from shared.broker import BrokerUnavailable, Depth, Handler, NoAnswer, Route
from shared.broker.interface import QueueAway
from shared.broker.memory import MemoryBroker, MemoryDelivery
from shared.broker.rpc import Calls
from shared.broker.topology import topology
from shared.contracts.rpc import PREVIEW_RENDER, RPCS, Refusal, Request

REQUEST = Request(at=datetime(2026, 1, 1, tzinfo=UTC), request_id="r1")


async def answer(body: bytes) -> Refusal:
    return Refusal(code="asked", error=Request.model_validate_json(body).request_id)


def test_every_rpc_has_a_bounded_queue() -> None:
    queues = {queue.name: queue for queue in topology().queues}
    for rpc in RPCS.values():
        queue = queues[rpc.queue]
        assert (queue.kind, queue.arguments["x-overflow"]) == ("classic", "reject-publish")


async def test_each_question_gets_its_own_answer() -> None:
    broker = MemoryBroker()
    await broker.serve(PREVIEW_RENDER, answer, prefetch=2)
    requests = [REQUEST.model_copy(update={"request_id": f"r{number}"}) for number in range(20)]
    replies = await asyncio.gather(*(broker.call(PREVIEW_RENDER, request) for request in requests))
    assert [Refusal.model_validate_json(reply).error for reply in replies] == [one.request_id for one in requests]
    await broker.close()


async def test_an_answer_that_fails_is_said_at_once_and_frees_its_place() -> None:
    broker = MemoryBroker()
    seen = []

    async def fail(body: bytes) -> Refusal:
        seen.append(body)
        raise ArithmeticError

    await broker.serve(PREVIEW_RENDER, fail, prefetch=1)
    for _ in range(2):
        reply = Refusal.model_validate_json(await broker.call(PREVIEW_RENDER, REQUEST))
        assert (reply.code, reply.status) == ("internal", "fault")
    assert len(seen) == 2
    await broker.close()


async def test_without_broker_or_service_there_is_no_answer() -> None:
    broker = MemoryBroker()
    with pytest.raises(NoAnswer, match="nobody serves"):
        await broker.call(PREVIEW_RENDER, REQUEST)
    broker.away = True
    with pytest.raises(BrokerUnavailable):
        await broker.call(PREVIEW_RENDER, REQUEST)


async def test_a_question_whose_queue_is_away_is_given_up() -> None:
    async def send(*_: object) -> None:
        pass

    async def subscribe(_: Handler) -> str:
        return "reply.own"

    async def depth(_: str) -> Depth:
        msg = "home node is down"
        raise QueueAway(msg)

    calls = Calls(send, subscribe, depth)
    with pytest.raises(NoAnswer, match="can serve"):
        await asyncio.wait_for(calls.call(PREVIEW_RENDER, REQUEST), 10)
    await calls.close()


async def test_what_waits_is_given_up_with_the_queue_for_answers_and_the_next_question_has_another() -> None:
    sent: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    handlers: list[Handler] = []

    async def send(_: Route, __: bytes, call_id: str, reply_to: str, ___: float) -> None:
        await sent.put((call_id, reply_to))

    async def subscribe(handler: Handler) -> str:
        handlers.append(handler)
        return f"reply.{len(handlers)}"

    async def depth(_: str) -> Depth:
        return Depth(0, 1)

    calls = Calls(send, subscribe, depth)
    waiting = [asyncio.create_task(calls.call(PREVIEW_RENDER, REQUEST)) for _ in range(2)]
    assert {(await sent.get())[1] for _ in waiting} == {"reply.1"}
    calls.lost()
    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, NoAnswer)

    question = asyncio.create_task(calls.call(PREVIEW_RENDER, REQUEST))
    call_id, reply_to = await sent.get()
    assert reply_to == "reply.2"
    await handlers[-1](MemoryDelivery(Route("", reply_to), b"{}", call_id, {}))
    assert await question == b"{}"
    await calls.close()
