"""Asking and answering over any broker: matches answers to questions, and drops what nobody waits for."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog
from pydantic import BaseModel

from ..contracts.rpc import Refusal, Rpc
from .interface import Answer, BrokerUnavailable, Consumer, Delivery, Depth, Handler, NoAnswer, QueueAway
from .topology import Route, reply_route, rpc_route

log = structlog.get_logger(__name__)

_LOOK_AFTER_S: Final = 1.0
"""An answer that takes longer makes the asker look whether anybody serves the queue at all."""

_FAULT: Final = Refusal(code="internal", error="The service failed because of a fault of its own.", status="fault")

Send = Callable[[Route, bytes, str, str, float], Awaitable[None]]
"""Sends: route, body, message id, queue for the answer, and for how long it is of use, seconds."""


class Calls:
    """The questions of one process.

    Parameters
    ----------
    send
        Sends a question; raises `BrokerUnavailable`.
    subscribe
        Begins to take the answers from this process's own queue, and returns its name.
    depth
        Tells how much waits in a queue.
    """

    def __init__(
        self,
        send: Send,
        subscribe: Callable[[Handler], Coroutine[Any, Any, str]],
        depth: Callable[[str], Awaitable[Depth]],
    ) -> None:
        self._send = send
        self._subscribe = subscribe
        self._depth = depth
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._queue: asyncio.Task[str] | None = None

    async def call(self, rpc: Rpc, request: BaseModel) -> bytes:
        """Ask; see `Broker`."""
        if self._queue is None or (self._queue.done() and self._queue.exception() is not None):
            self._queue = asyncio.create_task(self._subscribe(self._take))
        call_id = uuid.uuid4().hex
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = answer
        try:
            async with asyncio.timeout(rpc.time_limit_s):
                reply_to = await asyncio.shield(self._queue)
                body = request.model_dump_json().encode()
                await self._send(rpc_route(rpc), body, call_id, reply_to, rpc.time_limit_s)
                while not answer.done():
                    await asyncio.wait({answer}, timeout=_LOOK_AFTER_S)
                    if not answer.done():
                        await self._look(rpc)
                if answer.cancelled():
                    raise NoAnswer(f"the queue for the answer to {rpc.name} was lost")
                return answer.result()
        except TimeoutError:
            raise NoAnswer(f"no answer to {rpc.name} within {rpc.time_limit_s:g} s") from None
        finally:
            del self._waiting[call_id]

    async def _look(self, rpc: Rpc) -> None:
        try:
            depth = await self._depth(rpc.queue)
        except QueueAway as error:
            raise NoAnswer(f"nobody can serve {rpc.name}") from error
        except BrokerUnavailable:
            return  # the answer may come when the broker is back
        if depth.consumers == 0:
            raise NoAnswer(f"nobody serves {rpc.name}")

    def lost(self) -> None:
        """Give up what is waited for: the queue for the answers is away. The next question makes another."""
        self._queue = None
        for answer in self._waiting.values():
            answer.cancel()

    async def _take(self, delivery: Delivery) -> None:
        await delivery.ack()
        answer = self._waiting.get(delivery.message_id)
        if answer is not None and not answer.done():
            answer.set_result(delivery.body)

    async def close(self) -> None:
        """Stop waiting for a subscription."""
        if self._queue is not None:
            self._queue.cancel()
            await asyncio.gather(self._queue, return_exceptions=True)


async def serve(
    rpc: Rpc,
    answer: Answer,
    send: Send,
    consume: Callable[[str, Handler], Awaitable[Consumer]],
) -> Consumer:
    """Answer questions; see `Broker`. An interrupted answer is left to another process."""

    async def handle(delivery: Delivery) -> None:
        try:
            reply = await answer(delivery.body)
        except Exception:
            # who asks need not wait in vain
            log.exception("request not answered", rpc=rpc.name, message_id=delivery.message_id)
            reply = _FAULT
        if delivery.reply_to:
            body = reply.model_dump_json().encode()
            try:
                await send(reply_route(delivery.reply_to), body, delivery.message_id, "", rpc.time_limit_s)
            except BrokerUnavailable as error:
                log.warning("answer not sent", rpc=rpc.name, error=str(error))
        await delivery.ack()

    return await consume(rpc.queue, handle)
