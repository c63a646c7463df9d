"""Consumers of classic queues: in a cluster each such queue lives on one node, and is away with it.

The robust connection knows nothing of them. It does not come back before everything that it knows is restored: with a
queue on a node that is down, the steps would wait for that node too.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from aio_pika.abc import AbstractChannel, AbstractQueue, ConsumerTag

from .delivery import AWAY
from .interface import QueueAway

log = structlog.get_logger(__name__)


class Attachment:
    """A consumer on a channel of its own, until it is lost.

    Parameters
    ----------
    channel, queue, tag
        The channel, the queue, and the consumer's tag on it.
    lost
        See `watch`.
    """

    def __init__(self, channel: AbstractChannel, queue: AbstractQueue, tag: ConsumerTag, lost: asyncio.Event) -> None:
        self._channel = channel
        self._queue = queue
        self._tag = tag
        self.lost = lost

    async def stop(self) -> None:
        """Take no further messages; see `Consumer`."""
        # the channel stays open: handlers still acknowledge through it
        with contextlib.suppress(*AWAY):
            await self._queue.cancel(self._tag)

    async def close(self) -> None:
        """Give the channel back."""
        with contextlib.suppress(*AWAY):
            await self._channel.close()


async def watch(channel: AbstractChannel) -> asyncio.Event:
    """Give what is set when the channel ends, or the broker ends a consumer on it: the queue's node is down."""
    lost = asyncio.Event()
    channel.close_callbacks.add(lambda *_: lost.set())
    underlay = await channel.get_underlay_channel()
    underlay.on_consumer_cancel_callbacks.add(lambda _: lost.set())
    return lost


class OneNodeConsumer:
    """A subscription to a classic queue, made again whenever it is lost.

    Parameters
    ----------
    attachment
        The first one.
    again
        Makes the next, for as long as it takes; raises `QueueAway` when it is not to wait for the queue.
    gone
        Called then: the subscription has ended. None when `again` always waits.
    """

    def __init__(
        self,
        attachment: Attachment,
        again: Callable[[], Coroutine[Any, Any, Attachment]],
        gone: Callable[[], None] | None,
    ) -> None:
        self._attachment = attachment
        self._again = again
        self._gone = gone
        self.keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            await self._attachment.lost.wait()
            await self._attachment.close()
            try:
                self._attachment = await self._again()
            except QueueAway as error:
                log.warning("queue lost", error=str(error))
                if self._gone is not None:
                    self._gone()
                return

    async def stop(self) -> None:
        """Take no further messages; see `Consumer`."""
        self.keeping.cancel()
        await self._attachment.stop()
