"""The broker in memory, for unit tests: same interface, same routing, no process and no delay but the asked ones."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial

from pydantic import BaseModel

from ..contracts.messages import Message
from ..contracts.rpc import Rpc
from .interface import Answer, BrokerUnavailable, Consumer, Depth, Handler
from .rpc import Calls, serve
from .topology import HeaderValue, Route, Topology, reply_route, topology


@dataclass(eq=False)
class MemoryDelivery:
    """A message that was published, or delivered."""

    route: Route
    body: bytes
    message_id: str
    headers: Mapping[str, object]
    queue: "_Queue | None" = None
    reply_to: str = ""

    @property
    def routing_key(self) -> str:
        """Routing key under which it was published."""
        return self.route.key

    async def ack(self) -> None:
        """Acknowledge."""
        self._settle()

    async def reject(self) -> None:
        """Send to the dead letters."""
        queue = self._settle()
        if queue is not None and queue.dead_letters is not None:
            queue.owner.route(self, Route(queue.dead_letters, self.route.key))

    async def requeue(self) -> None:
        """Give back, to the head of the queue."""
        queue = self._settle()
        if queue is not None:
            queue.waiting.appendleft(self)
            queue.pump()

    def _settle(self) -> "_Queue | None":
        queue = self.queue
        if queue is not None and self in queue.held:
            queue.held.remove(self)
            queue.pump()
            return queue
        return None


@dataclass(eq=False)
class _Subscription:
    handler: Handler
    prefetch: int
    queue: "_Queue"

    async def stop(self) -> None:
        """Take no further messages."""
        with contextlib.suppress(ValueError):
            self.queue.subscriptions.remove(self)


@dataclass(eq=False)
class _Queue:
    owner: "MemoryBroker"
    dead_letters: str | None = None
    ttl_s: float | None = None
    dead_key: str | None = None
    waiting: deque[MemoryDelivery] = field(default_factory=deque)
    held: list[MemoryDelivery] = field(default_factory=list)
    subscriptions: list[_Subscription] = field(default_factory=list)

    def pump(self) -> None:
        """Deliver what may be delivered, to the subscribers in turn."""
        room = sum(subscription.prefetch for subscription in self.subscriptions)
        while self.waiting and self.subscriptions and len(self.held) < room:
            delivery = self.waiting.popleft()
            delivery.queue = self
            self.held.append(delivery)
            self.subscriptions.append(self.subscriptions.pop(0))
            self.owner.start(self.subscriptions[-1].handler, delivery)


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


class MemoryBroker:
    """See `Broker`. Several components of a test share one.

    Attributes
    ----------
    published
        Everything that was published durably, in order, for tests to look at.
    told
        Everything that was published lossily.
    away
        Whether the broker plays dead: set it to make `publish` raise.
    mute
        Whether it takes messages, but its confirmations get lost.
    """

    def __init__(self, delays_s: Iterable[float] = (), what: Topology | None = None) -> None:
        what = what or topology(delays_s)
        self.published: list[MemoryDelivery] = []
        self.told: list[MemoryDelivery] = []
        self.away = False
        self.mute = False
        self._queues: dict[str, _Queue] = {}
        self._bindings: list[tuple[Route, _Queue]] = []
        self._fanouts = {exchange.name for exchange in what.exchanges if exchange.type == "fanout"}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = Calls(self._send_to, self._take_replies, self.depth)
        for queue in what.queues:
            ttl_ms = queue.arguments.get("x-message-ttl")
            made = _Queue(
                self,
                _text(queue.arguments.get("x-dead-letter-exchange")),
                None if ttl_ms is None else int(ttl_ms) / 1000,
                _text(queue.arguments.get("x-dead-letter-routing-key")),
            )
            self._queues[queue.name] = made
            self._bindings += [(binding, made) for binding in (*queue.bindings, Route("", queue.name))]

    @property
    def connected(self) -> bool:
        """Whether the broker does not play dead."""
        return not self.away

    async def ready(self) -> None:
        """Return at once."""

    async def publish(
        self,
        route: Route,
        message: Message | bytes,
        *,
        message_id: str,
        headers: Mapping[str, HeaderValue] | None = None,
    ) -> None:
        """Put the message into the queues that are bound."""
        if self.away:
            msg = "the broker plays dead"
            raise BrokerUnavailable(msg)
        body = message if isinstance(message, bytes) else message.model_dump_json().encode()
        delivery = MemoryDelivery(route, body, message_id, dict(headers or {}))
        if not self.route(delivery, route):
            msg = f"nothing takes {route}"
            raise BrokerUnavailable(msg)
        self.published.append(delivery)
        if self.mute:
            msg = "no confirmation came"
            raise BrokerUnavailable(msg)

    async def tell(self, route: Route, message: Message) -> None:
        """Put the message into the queues that are bound, if any."""
        if not self.away:
            delivery = MemoryDelivery(route, message.model_dump_json().encode(), "", {})
            self.told.append(delivery)
            self.route(delivery, route)

    async def consume(self, queue: str, handler: Handler, *, prefetch: int) -> _Subscription:
        """Take messages from a queue."""
        return self._subscribe(self._queues[queue], handler, prefetch)

    async def listen(self, exchange: str, patterns: Iterable[str], handler: Handler) -> _Subscription:
        """Take copies of messages."""
        queue = _Queue(self)
        self._bindings += [(Route(exchange, pattern), queue) for pattern in patterns]

        async def handle(delivery: MemoryDelivery) -> None:
            await delivery.ack()
            await handler(delivery)

        return self._subscribe(queue, handle, 1_000_000)  # type: ignore[arg-type]

    async def call(self, rpc: Rpc, request: BaseModel) -> bytes:
        """Ask, and wait for the answer."""
        if self.away:
            msg = "the broker plays dead"
            raise BrokerUnavailable(msg)
        return await self._calls.call(rpc, request)

    async def serve(self, rpc: Rpc, answer: Answer, *, prefetch: int) -> Consumer:
        """Answer requests."""
        return await serve(rpc, answer, self._send_to, partial(self.consume, prefetch=prefetch))

    async def _send_to(self, route: Route, body: bytes, message_id: str, reply_to: str, _: float) -> None:
        if self.away or not self.route(MemoryDelivery(route, body, message_id, {}, reply_to=reply_to), route):
            msg = f"nothing takes {route}"
            raise BrokerUnavailable(msg)

    async def _take_replies(self, handler: Handler) -> str:
        name = f"reply.{id(handler)}"
        self._queues[name] = _Queue(self)
        self._bindings.append((reply_route(name), self._queues[name]))
        await self.consume(name, handler, prefetch=1_000_000)
        return name

    async def depth(self, queue: str) -> Depth:
        """Tell how much waits in a queue."""
        if self.away:
            msg = "the broker plays dead"
            raise BrokerUnavailable(msg)
        found = self._queues[queue]
        return Depth(len(found.waiting), len(found.subscriptions))

    async def close(self) -> None:
        """End the handlers; what they held is queued again."""
        await self._calls.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for queue in self._queues.values():
            queue.subscriptions.clear()
            queue.waiting.extendleft(reversed(queue.held))
            queue.held.clear()

    async def settled(self) -> None:
        """Wait until no handler runs."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    # ---- for the queues

    def route(self, delivery: MemoryDelivery, route: Route) -> bool:
        """Put a copy into each queue that is bound; tell whether there was one."""
        queues = [queue for binding, queue in self._bindings if self._matches(binding, route)]
        for queue in queues:
            copy = replace(delivery, route=route, queue=None)
            if queue.ttl_s is not None and queue.dead_letters is not None:
                target = Route(queue.dead_letters, queue.dead_key or route.key)
                asyncio.get_running_loop().call_later(queue.ttl_s, self.route, copy, target)
            else:
                queue.waiting.append(copy)
                queue.pump()
        return bool(queues)

    def start(self, handler: Handler, delivery: MemoryDelivery) -> None:
        """Run a handler in a task of its own."""
        task: asyncio.Task[None] = asyncio.ensure_future(handler(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _matches(self, binding: Route, route: Route) -> bool:
        return binding.exchange == route.exchange and (
            binding.exchange in self._fanouts or fnmatchcase(route.key, binding.key)
        )

    @staticmethod
    def _subscribe(queue: _Queue, handler: Handler, prefetch: int) -> _Subscription:
        subscription = _Subscription(handler, prefetch, queue)
        queue.subscriptions.append(subscription)
        queue.pump()
        return subscription
