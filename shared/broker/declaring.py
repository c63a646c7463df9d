"""Makes what has to exist at the broker, as far as it can be made now."""

import asyncio
import contextlib
from typing import Final

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractQueue, AbstractRobustConnection

from .delivery import AWAY, settled
from .interface import BrokerUnavailable
from .topology import Queue, Topology

log = structlog.get_logger(__name__)

_RETRY_S: Final = 5.0


async def open_channel(connection: AbstractRobustConnection) -> AbstractChannel:
    """Open a channel that the robust connection does not restore, and that knows nothing of any queue."""
    channel = aio_pika.Channel(connection, publisher_confirms=False)
    await channel.initialize()
    return channel


async def declare_queue(channel: AbstractChannel, queue: Queue) -> AbstractQueue:
    """Make a queue with its bindings, or find it."""
    declared = await channel.declare_queue(
        queue.name, durable=True, arguments={"x-queue-type": queue.kind, **queue.arguments}
    )
    for route in queue.bindings:
        await declared.bind(route.exchange, route.key)
    return declared


class Declarer:
    """Declares a topology, at every connection anew.

    In a cluster a classic queue lives on one node, and cannot be declared while that is down. Nothing waits for it: it
    is tried again in the background.

    Parameters
    ----------
    what
        What has to exist.
    settle_s
        How long one classic queue may take, seconds.
    """

    def __init__(self, what: Topology, settle_s: float) -> None:
        self._what = what
        self._settle_s = settle_s
        self._later: asyncio.Task[None] | None = None

    async def declare(self, connection: AbstractRobustConnection) -> None:
        """Declare everything, but what is away with its node."""
        channel = await open_channel(connection)
        try:
            for exchange in self._what.exchanges:
                await channel.declare_exchange(exchange.name, exchange.type, durable=True)
            for queue in self._what.queues:
                if queue.kind == "quorum":
                    await declare_queue(channel, queue)
        finally:
            with contextlib.suppress(*AWAY):
                await channel.close()
        away = await self._declare_each(connection, [queue for queue in self._what.queues if queue.kind == "classic"])
        await self.close()
        if away:
            self._later = asyncio.create_task(self._declare_later(connection, away))

    async def _declare_each(self, connection: AbstractRobustConnection, queues: list[Queue]) -> list[Queue]:
        away = []
        for queue in queues:
            try:
                await settled(_declare_alone(connection, queue), self._settle_s)
            except BrokerUnavailable as error:
                log.warning("queue not declared", queue=queue.name, error=str(error), retry_s=_RETRY_S)
                away.append(queue)
        return away

    async def _declare_later(self, connection: AbstractRobustConnection, away: list[Queue]) -> None:
        while away:
            await asyncio.sleep(_RETRY_S)
            away = await self._declare_each(connection, away)

    async def close(self) -> None:
        """Try no more."""
        if self._later is not None:
            self._later.cancel()
            await asyncio.gather(self._later, return_exceptions=True)


async def _declare_alone(connection: AbstractRobustConnection, queue: Queue) -> None:
    channel = await open_channel(connection)  # the broker closes it when the queue is away
    try:
        await declare_queue(channel, queue)
    finally:
        with contextlib.suppress(*AWAY):
            await channel.close()
