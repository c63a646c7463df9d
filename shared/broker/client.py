"""RabbitMQ behind the `Broker` interface, through aio-pika's robust connection."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final, TypeVar

import aio_pika
import structlog
from aio_pika.abc import (
    AbstractExchange,
    AbstractIncomingMessage,
    AbstractRobustChannel,
    AbstractRobustConnection,
    AbstractRobustQueue,
    HeadersType,
)
from pydantic import BaseModel

from .. import tracing
from ..contracts.messages import Message
from ..contracts.rpc import Rpc
from .connection import open_connection
from .delivery import AWAY, RabbitDelivery
from .interface import Answer, Broker, BrokerUnavailable, Consumer, Depth, Handler
from .rpc import Calls, serve
from .topology import LOSSY_LENGTH, REPLY_PREFIX, HeaderValue, Queue, Route, Topology, reply_queue, topology

log = structlog.get_logger(__name__)

T = TypeVar("T")

_FIRST_RETRY_S: Final = 0.2
_MAX_RETRY_S: Final = 5.0
_REPLIES_AT_ONCE: Final = 100


def connect(
    url: str,
    name: str,
    *,
    settle_s: float,
    delays_s: Iterable[float] = (),
    what: Topology | None = None,
    declares: bool = True,
) -> Broker:
    """Start connecting, in the background and for as long as it takes.

    Parameters
    ----------
    url
        Address with user and password.
    name
        Name of the connection, for people who look at the broker.
    settle_s
        How long to wait for a confirmation, seconds.
    delays_s
        Delays that will be published to, seconds.
    what
        What there is; None for everything of the step table.
    declares
        Whether to make it; otherwise another process does, and this one waits for what it consumes.
    """
    return RabbitBroker(url, name, settle_s, what or topology(delays_s), declares=declares)


class _Consumer:
    """A subscription on a channel of its own."""

    def __init__(self, channel: AbstractRobustChannel, queue: AbstractRobustQueue, tag: str) -> None:
        self._channel = channel
        self._queue = queue
        self._tag = tag

    async def stop(self) -> None:
        """Take no further messages; see `Consumer`."""
        # the channel stays open: handlers still acknowledge through it
        with contextlib.suppress(*AWAY):
            await self._queue.cancel(self._tag)


class RabbitBroker:
    """A connection to RabbitMQ; see `Broker`.

    Parameters
    ----------
    url, name, settle_s, what, declares
        As in `connect`.
    """

    def __init__(self, url: str, name: str, settle_s: float, what: Topology, *, declares: bool) -> None:
        self._url = url
        self._name = name
        self._settle_s = settle_s
        self._topology = what
        self._declares = declares
        self._queues = {queue.name: queue for queue in what.queues}
        self._ready = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._consumers: list[_Consumer] = []  # the library itself holds its channels by weak references only
        self._connection: AbstractRobustConnection | None = None
        self._publisher: AbstractRobustChannel | None = None
        self._calls = Calls(self._send_to, self._take_replies, self.depth)
        self._opening = asyncio.create_task(self._open())

    # ---- connection

    @property
    def connected(self) -> bool:
        """Tell whether a message could be sent now."""
        return (
            self._ready.is_set()
            and self._connection is not None
            and self._connection.connected.is_set()
            and self._publisher is not None
            and not self._publisher.is_closed
        )

    async def ready(self) -> None:
        """Wait until everything is declared."""
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                connection = await open_connection(self._url, self._name)
            except AWAY as error:
                log.warning("broker unreachable", error=str(error), retry_s=retry_s)
            else:
                try:
                    await self._declare(connection)
                    publisher = connection.channel(publisher_confirms=True, on_return_raises=True)
                    await publisher.initialize()
                except AWAY as error:
                    log.warning("broker refused the topology", error=str(error), retry_s=retry_s)
                    with contextlib.suppress(*AWAY):
                        await connection.close()
                else:
                    break
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _MAX_RETRY_S)
        connection.reconnect_callbacks.add(self._reconnected)
        self._connection, self._publisher = connection, publisher
        self._ready.set()
        log.info("broker connected")

    async def _reconnected(self, connection: AbstractRobustConnection | None) -> None:
        log.info("broker connected again")
        if connection is not None:
            # a broker that lost its disk has to be told again what there is
            with contextlib.suppress(*AWAY):
                await self._declare(connection)

    async def _declare(self, connection: AbstractRobustConnection) -> None:
        if not self._declares:
            return
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize(timeout=self._settle_s)
        try:
            for exchange in self._topology.exchanges:
                await channel.declare_exchange(exchange.name, exchange.type, durable=True, robust=False)
            for queue in self._topology.queues:
                await _declare_queue(channel, queue, robust=False)
        finally:
            with contextlib.suppress(*AWAY):
                await channel.close()

    async def close(self) -> None:
        """End the connection and the handlers."""
        await self._calls.close()
        self._opening.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._opening, *self._tasks, return_exceptions=True)
        if self._connection is not None:
            with contextlib.suppress(*AWAY):
                await self._connection.close()

    # ---- publishing

    async def publish(
        self,
        route: Route,
        message: Message | bytes,
        *,
        message_id: str,
        headers: Mapping[str, HeaderValue] | None = None,
    ) -> None:
        """Publish durably; see `Broker`."""
        with _sending(route, message_id):
            body = aio_pika.Message(
                message if isinstance(message, bytes) else message.model_dump_json().encode(),
                headers=_headers({**(headers or {}), **tracing.carried()}),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=message_id,
            )
            await self._settled(self._send(self._publishing(), route, body))

    def _publishing(self) -> AbstractRobustChannel:
        publisher = self._publisher
        if not self.connected or publisher is None:
            msg = "no connection to the broker"
            raise BrokerUnavailable(msg)
        return publisher

    @staticmethod
    async def _send(publisher: AbstractRobustChannel, route: Route, message: aio_pika.Message) -> None:
        exchange = await _exchange(publisher, route.exchange)
        await exchange.publish(message, route.key)

    async def tell(self, route: Route, message: Message) -> None:
        """Publish what may be lost; see `Broker`."""
        publisher = self._publisher
        if not self.connected or publisher is None:
            return
        with contextlib.suppress(BrokerUnavailable):
            await self._settled(self._send_lossy(publisher, route, message))

    async def _send_lossy(self, publisher: AbstractRobustChannel, route: Route, message: Message) -> None:
        exchange = await _exchange(publisher, route.exchange)
        body = aio_pika.Message(message.model_dump_json().encode(), content_type="application/json")
        await exchange.publish(body, route.key, mandatory=False)

    async def _settled(self, action: Coroutine[Any, Any, T]) -> T:
        # in a task of its own: the library cancels whoever waits on a channel that closes, and that is not our cancel
        task = asyncio.ensure_future(action)
        try:
            await asyncio.wait({task}, timeout=self._settle_s)
        finally:
            if not task.done():
                task.cancel()
        if not task.done() or task.cancelled():
            msg = "the broker gave no confirmation"
            raise BrokerUnavailable(msg)
        try:
            return task.result()
        except AWAY as error:
            msg = f"the broker took no message: {error!r}"
            raise BrokerUnavailable(msg) from error

    # ---- asking and answering

    async def call(self, rpc: Rpc, request: BaseModel) -> bytes:
        """Ask; see `Broker`."""
        self._publishing()  # without a connection: at once
        return await self._calls.call(rpc, request)

    async def serve(self, rpc: Rpc, answer: Answer, *, prefetch: int) -> Consumer:
        """Answer requests; see `Broker`."""
        return await serve(rpc, answer, self._send_to, partial(self.consume, prefetch=prefetch))

    async def _send_to(self, route: Route, body: bytes, message_id: str, reply_to: str, useful_s: float) -> None:
        with _sending(route, message_id):
            message = aio_pika.Message(
                body,
                headers=_headers(tracing.carried()),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.NOT_PERSISTENT,
                message_id=message_id,
                correlation_id=message_id,
                reply_to=reply_to or None,
                expiration=useful_s,
            )
            await self._settled(self._send(self._publishing(), route, message))

    async def _take_replies(self, handler: Handler) -> str:
        queue = reply_queue(uuid.uuid4().hex)
        self._queues[queue.name] = queue
        await self.consume(queue.name, handler, prefetch=_REPLIES_AT_ONCE)
        return queue.name

    # ---- consuming

    async def consume(self, queue: str, handler: Handler, *, prefetch: int) -> _Consumer:
        """Take messages from a queue; see `Broker`."""

        async def subscribe(connection: AbstractRobustConnection) -> _Consumer:
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            await channel.set_qos(prefetch_count=prefetch)
            if self._declares:
                declared = await _declare_queue(channel, self._queues[queue], robust=True)
            else:
                declared = await channel.declare_queue(queue, passive=True)
            return _Consumer(channel, declared, await declared.consume(self._receiver(handler, queue)))

        return await self._persist(subscribe)

    async def listen(self, exchange: str, patterns: Iterable[str], handler: Handler) -> _Consumer:
        """Take copies of messages; see `Broker`."""

        async def subscribe(connection: AbstractRobustConnection) -> _Consumer:
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            declared = await channel.declare_queue(
                f"listener.{uuid.uuid4().hex}",
                exclusive=True,
                auto_delete=True,
                arguments={"x-max-length": LOSSY_LENGTH, "x-overflow": "drop-head"},
            )
            for pattern in patterns:
                await declared.bind(exchange, pattern)
            return _Consumer(channel, declared, await declared.consume(self._receiver(handler), no_ack=True))

        return await self._persist(subscribe)

    async def _persist(
        self, subscribe: Callable[[AbstractRobustConnection], Coroutine[Any, Any, _Consumer]]
    ) -> _Consumer:
        """Subscribe, again when the connection is lost meanwhile; later losses are mended by the robust connection."""
        while True:
            await self.ready()
            assert self._connection is not None
            await self._connection.ready()
            try:
                consumer = await self._settled(subscribe(self._connection))
            except BrokerUnavailable as error:
                log.warning("subscription failed", error=str(error), retry_s=1)
                await asyncio.sleep(1)
            else:
                self._consumers.append(consumer)
                return consumer

    def _receiver(
        self, handler: Handler, queue: str | None = None
    ) -> Callable[[AbstractIncomingMessage], Awaitable[None]]:
        """Handle messages; those of a queue with a name are traced."""

        async def receive(message: AbstractIncomingMessage) -> None:
            task = asyncio.create_task(_guarded(handler, RabbitDelivery(message), queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return receive

    async def depth(self, queue: str) -> Depth:
        """Tell how much waits in a queue; see `Broker`."""
        self._publishing()
        assert self._connection is not None
        return await self._settled(self._depth(self._connection, queue))

    async def _depth(self, connection: AbstractRobustConnection, queue: str) -> Depth:
        # on a channel that knows the queue the library would answer from memory
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        try:
            declared = await channel.declare_queue(queue, passive=True, robust=False)
            result = declared.declaration_result
            return Depth(result.message_count or 0, result.consumer_count or 0)
        finally:
            with contextlib.suppress(*AWAY):
                await channel.close()


async def _declare_queue(channel: AbstractRobustChannel, queue: Queue, *, robust: bool) -> AbstractRobustQueue:
    declared = await channel.declare_queue(
        queue.name, durable=True, arguments={"x-queue-type": queue.kind, **queue.arguments}, robust=robust
    )
    for route in queue.bindings:
        await declared.bind(route.exchange, route.key, robust=robust)
    return declared


async def _exchange(channel: AbstractRobustChannel, name: str) -> AbstractExchange:
    return await channel.get_exchange(name, ensure=False) if name else channel.default_exchange


def _headers(headers: Mapping[str, HeaderValue]) -> HeadersType:
    return dict(headers)


def _sending(route: Route, message_id: str) -> AbstractContextManager[object]:
    # each asker has a queue of its own: its name is none of few
    name = route.exchange or route.key
    facts = {"messaging.system": "rabbitmq", "messaging.destination.name": name, "messaging.message.id": message_id}
    return tracing.span(f"publish {name}", "producer", facts=facts)


def _taking(delivery: RabbitDelivery, queue: str | None) -> AbstractContextManager[object]:
    if queue is None or queue.startswith(REPLY_PREFIX):  # who has asked goes on in a span of its own
        return nullcontext()
    facts = {"messaging.system": "rabbitmq", "messaging.destination.name": queue}
    return tracing.span(f"process {queue}", "consumer", of=delivery.headers, facts=facts)


async def _guarded(handler: Handler, delivery: RabbitDelivery, queue: str | None) -> None:
    try:
        with _taking(delivery, queue):
            await handler(delivery)
    except Exception:
        log.exception("message handler failed", message_id=delivery.message_id)
