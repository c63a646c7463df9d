"""A message of RabbitMQ behind the `Delivery` interface."""

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

AWAY: Final = (*CONNECTION_EXCEPTIONS, TimeoutError, asyncio.InvalidStateError)
"""What the library raises when the connection, or a channel, is lost."""


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
