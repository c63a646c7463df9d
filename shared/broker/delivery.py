"""A message of RabbitMQ behind the `Delivery` interface, and how the library fails."""

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, DeliveryError, PublishError

from .interface import BrokerUnavailable, QueueAway, Refused

T = TypeVar("T")

AWAY: Final = (*CONNECTION_EXCEPTIONS, TimeoutError, asyncio.InvalidStateError)
"""What the library raises when the connection, or a channel, is lost."""


async def settled(action: Awaitable[T], settle_s: float) -> T:
    """Wait for what the broker says, at most `settle_s` seconds.

    Raises
    ------
    BrokerUnavailable
        When it says no, or nothing: `QueueAway` when there is nothing of that name, `Refused` when a queue takes no
        message.
    """
    # in a task of its own: the library cancels whoever waits on a channel that closes, and that is not our cancel
    task = asyncio.ensure_future(action)
    try:
        await asyncio.wait({task}, timeout=settle_s)
    finally:
        if not task.done():
            task.cancel()
    if not task.done() or task.cancelled():
        msg = "the broker gave no confirmation"
        raise BrokerUnavailable(msg)
    try:
        return task.result()
    except ChannelNotFoundEntity as error:
        raise QueueAway(str(error)) from error
    except AWAY as error:
        refused = isinstance(error, DeliveryError) and not isinstance(error, PublishError)
        msg = f"the broker took no message: {error!r}"
        raise (Refused if refused else BrokerUnavailable)(msg) from error


class RabbitDelivery:
    """A message from aio-pika."""

    def __init__(self, message: AbstractIncomingMessage) -> None:
        self._message = message

    @property
    def body(self) -> bytes:
        """Give the JSON as it came."""
        return self._message.body

    @property
    def message_id(self) -> str:
        """Give the sender's id; empty without one."""
        return self._message.message_id or ""

    @property
    def routing_key(self) -> str:
        """Give the routing key of the first publication."""
        return self._message.routing_key or ""

    @property
    def headers(self) -> Mapping[str, object]:
        """Give all headers."""
        return self._message.headers

    @property
    def reply_to(self) -> str:
        """Give the queue for the answer; empty without one."""
        return self._message.reply_to or ""

    async def ack(self) -> None:
        """Acknowledge; see `Delivery`."""
        await self._settle(self._message.ack())

    async def reject(self) -> None:
        """Send to the dead letters; see `Delivery`."""
        await self._settle(self._message.reject(requeue=False))

    async def requeue(self) -> None:
        """Give back; see `Delivery`."""
        await self._settle(self._message.nack(requeue=True))

    async def _settle(self, action: Coroutine[Any, Any, None]) -> None:
        # the channel that delivered it is gone: the broker has queued the message again
        with contextlib.suppress(*AWAY):
            await action
