"""What the gateway and the services see of the broker."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from ..contracts.messages import Message
from ..contracts.rpc import Rpc
from .topology import HeaderValue, Route


class BrokerUnavailable(Exception):
    """The broker did not confirm: it is away, it did not answer in time, or nothing takes such a message.

    The message may have arrived all the same: send it again under the same message id.
    """


class Refused(BrokerUnavailable):
    """The broker has said that it does not keep the message."""


class QueueAway(BrokerUnavailable):
    """There is no such queue, or none that can be reached: the node that it lives on is away."""


class NoAnswer(Exception):
    """Nobody answered a request in time, or nobody is there to answer it."""


@dataclass(frozen=True)
class Depth:
    """State of a queue.

    Parameters
    ----------
    messages
        Messages ready to be delivered; those held by consumers are not counted.
    consumers
        Consumers attached.
    """

    messages: int
    consumers: int


class Delivery(Protocol):
    """A message that arrived; it stays the broker's until it is acknowledged."""

    @property
    def body(self) -> bytes:
        """JSON of one of the messages in `shared.contracts.messages`."""

    @property
    def message_id(self) -> str:
        """Id that the sender gave; empty without one."""

    @property
    def routing_key(self) -> str:
        """Routing key under which the message was published first."""

    @property
    def headers(self) -> Mapping[str, object]:
        """Headers, the broker's own `x-death` among them."""

    @property
    def reply_to(self) -> str:
        """Queue where the sender waits for an answer; empty when it does not."""

    async def ack(self) -> None:
        """Acknowledge. After a lost connection nothing happens: the broker delivers the message again anyway."""

    async def reject(self) -> None:
        """Send the message to the dead letters; as tolerant as `ack`."""

    async def requeue(self) -> None:
        """Give the message back, for another consumer; as tolerant as `ack`."""


Handler = Callable[[Delivery], Awaitable[None]]

Answer = Callable[[bytes], Awaitable[BaseModel]]
"""Makes the answer to the JSON of a request; refusals are answers too."""


class Consumer(Protocol):
    """A subscription."""

    async def stop(self) -> None:
        """Take no further messages. Handlers that run go on, and may still acknowledge."""


class Broker(Protocol):
    """Publishes and consumes; reconnects by itself.

    Every handler runs in a task of its own, so that a lost connection does not interrupt it. The message of a handler
    that raises is neither acknowledged nor given back until the connection ends, and the error is logged: handlers
    catch what they can mend.
    """

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""

    async def ready(self) -> None:
        """Wait until there is a connection and everything is declared, but queues whose only node is away."""

    async def publish(
        self,
        route: Route,
        message: Message | bytes,
        *,
        message_id: str,
        headers: Mapping[str, HeaderValue] | None = None,
    ) -> None:
        """Publish durably and wait for the confirmation; bytes are a message that is passed on as it came.

        Raises
        ------
        BrokerUnavailable
            Without one.
        """

    async def tell(self, route: Route, message: Message) -> None:
        """Publish something that may be lost: progress, cancel. Never raises for a broker that is away."""

    async def consume(self, queue: str, handler: Handler, *, prefetch: int) -> Consumer:
        """Take messages from a declared queue, at most `prefetch` of them unacknowledged at a time."""

    async def listen(self, exchange: str, patterns: Iterable[str], handler: Handler) -> Consumer:
        """Take copies of messages through a lossy queue of our own; acknowledged on arrival, gone with us."""

    async def call(self, rpc: Rpc, request: BaseModel) -> bytes:
        """Ask, and wait for the JSON of the answer, for as long as the kind of request allows.

        The request is dropped where nobody waits for its answer any more.

        Raises
        ------
        BrokerUnavailable
            When the broker did not take the request.
        NoAnswer
            When none came, or nobody serves such requests.
        """

    async def serve(self, rpc: Rpc, answer: Answer, *, prefetch: int) -> Consumer:
        """Answer requests, at most `prefetch` at a time. One whose answer fails gets none, and is not tried again."""

    async def depth(self, queue: str) -> Depth:
        """Tell how much waits in a queue.

        Raises
        ------
        BrokerUnavailable
            When the broker does not answer; `QueueAway` when there is no such queue now.
        """

    async def close(self) -> None:
        """End the connection; messages that are not acknowledged go to other consumers."""
