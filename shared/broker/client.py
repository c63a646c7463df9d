"""RabbitMQ behind the `Broker` interface, through aio-pika's robust connection."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import aio_pika
import structlog
from aio_pika.abc import (
    AbstractExchange,
    AbstractIncomingMessage,
    AbstractQueue,
    AbstractRobustChannel,
    AbstractRobustConnection,
    HeadersType,
)
from pydantic import BaseModel

from .. import tracing
from ..contracts.messages import Message
from ..contracts.rpc import Rpc
from .connection import open_connection, open_publisher
from .declaring import Declarer, declare_queue, open_channel
from .delivery import AWAY, RabbitDelivery, settled
from .interface import Answer, Broker, BrokerUnavailable, Consumer, Depth, Handler, QueueAway, Refused
from .onenode import Attachment, OneNodeConsumer, watch
from .rpc import Calls, serve
from .spans import sending, taking
from .topology import LOSSY_LENGTH, HeaderValue, Queue, Route, Topology, reply_queue, topology

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

    def __init__(self, channel: AbstractRobustChannel, queue: AbstractQueue, tag: str) -> None:
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
        self._declarer = Declarer(what, settle_s)
        self._declares = declares
        self._queues = {queue.name: queue for queue in what.queues}
        self._ready = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._consumers: list[_Consumer] = []  # the library itself holds its channels by weak references only
        self._connection: AbstractRobustConnection | None = None
        self._publisher: AbstractRobustChannel | None = None
        self._renewing = asyncio.Lock()
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
                    if self._declares:
                        await self._declarer.declare(connection)
                    publisher = await open_publisher(connection)
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
        if connection is not None and self._declares:
            # a broker that lost its disk has to be told again what there is
            with contextlib.suppress(*AWAY):
                await self._declarer.declare(connection)

    async def close(self) -> None:
        """End the connection and the handlers."""
        await self._calls.close()
        await self._declarer.close()
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
        with sending(route, message_id):
            body = aio_pika.Message(
                message if isinstance(message, bytes) else message.model_dump_json().encode(),
                headers=_headers({**(headers or {}), **tracing.carried()}),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=message_id,
            )
            publisher = self._publishing()
            try:
                await self._settled(self._send(publisher, route, body))
            except Refused:
                await self._renew(publisher)
                raise

    async def _renew(self, refused: AbstractRobustChannel) -> None:
        # where the first message of a channel finds the queue's leader gone, the broker refuses all others, too
        async with self._renewing:
            if self._publisher is refused and self._connection is not None:
                with contextlib.suppress(BrokerUnavailable):
                    self._publisher = await self._settled(open_publisher(self._connection))
                    await self._settled(refused.close())

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

    async def _settled(self, action: Awaitable[T]) -> T:
        return await settled(action, self._settle_s)

    # ---- asking and answering

    async def call(self, rpc: Rpc, request: BaseModel) -> bytes:
        """Ask; see `Broker`."""
        self._publishing()  # without a connection: at once
        return await self._calls.call(rpc, request)

    async def serve(self, rpc: Rpc, answer: Answer, *, prefetch: int) -> Consumer:
        """Answer requests; see `Broker`."""
        return await serve(rpc, answer, self._send_to, partial(self.consume, prefetch=prefetch))

    async def _send_to(self, route: Route, body: bytes, message_id: str, reply_to: str, useful_s: float) -> None:
        with sending(route, message_id):
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
        # away with its node it is of no use any more: the next question makes another
        await self._take(queue, handler, _REPLIES_AT_ONCE, declares=True, gone=self._calls.lost)
        return queue.name

    # ---- consuming

    async def consume(self, queue: str, handler: Handler, *, prefetch: int) -> Consumer:
        """Take messages from a queue; see `Broker`."""
        what = self._queues[queue]
        if what.kind == "classic":
            return await self._take(what, handler, prefetch, declares=self._declares)

        async def subscribe(connection: AbstractRobustConnection) -> _Consumer:
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            await channel.set_qos(prefetch_count=prefetch)
            if self._declares:
                declared = await declare_queue(channel, what)
            else:
                declared = await channel.declare_queue(queue, passive=True)
            return _Consumer(channel, declared, await declared.consume(self._receiver(handler, queue)))

        return self._kept(await self._persist(subscribe))

    async def _take(
        self, queue: Queue, handler: Handler, prefetch: int, *, declares: bool, gone: Callable[[], None] | None = None
    ) -> Consumer:
        async def attach(connection: AbstractRobustConnection) -> Attachment:
            channel = await open_channel(connection)
            try:
                lost = await watch(channel)
                await channel.set_qos(prefetch_count=prefetch)
                if declares:
                    declared = await declare_queue(channel, queue)
                else:
                    declared = await channel.declare_queue(queue.name, passive=True)
                tag = await declared.consume(self._receiver(handler, queue.name))
            except BaseException:
                with contextlib.suppress(*AWAY):
                    await channel.close()
                raise
            return Attachment(channel, declared, tag, lost)

        again = partial(self._persist, attach, waits=gone is None)
        consumer = OneNodeConsumer(await self._persist(attach), again, gone)
        self._tasks.add(consumer.keeping)
        consumer.keeping.add_done_callback(self._tasks.discard)
        return consumer

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

        return self._kept(await self._persist(subscribe))

    def _kept(self, consumer: _Consumer) -> _Consumer:
        self._consumers.append(consumer)
        return consumer

    async def _persist(
        self, subscribe: Callable[[AbstractRobustConnection], Coroutine[Any, Any, T]], *, waits: bool = True
    ) -> T:
        """Subscribe, again when the connection is lost meanwhile; `waits` for a queue that is not there too."""
        while True:
            await self.ready()
            assert self._connection is not None
            await self._connection.ready()
            try:
                return await self._settled(subscribe(self._connection))
            except BrokerUnavailable as error:
                if isinstance(error, QueueAway) and not waits:
                    raise
                log.warning("subscription failed", error=str(error), retry_s=1)
                await asyncio.sleep(1)

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

    @staticmethod
    async def _depth(connection: AbstractRobustConnection, queue: str) -> Depth:
        # on a channel that knows the queue the library would answer from memory
        channel = await open_channel(connection)
        try:
            result = (await channel.declare_queue(queue, passive=True)).declaration_result
            return Depth(result.message_count or 0, result.consumer_count or 0)
        finally:
            with contextlib.suppress(*AWAY):
                await channel.close()


async def _exchange(channel: AbstractRobustChannel, name: str) -> AbstractExchange:
    return await channel.get_exchange(name, ensure=False) if name else channel.default_exchange


def _headers(headers: Mapping[str, HeaderValue]) -> HeadersType:
    return dict(headers)


async def _guarded(handler: Handler, delivery: RabbitDelivery, queue: str | None) -> None:
    try:
        with taking(delivery, queue):
            await handler(delivery)
    except Exception:
        log.exception("message handler failed", message_id=delivery.message_id)
