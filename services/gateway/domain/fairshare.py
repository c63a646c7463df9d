"""Fair share: at most so many steps of one user are released to one queue; the rest waits in the store."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from ..storage import Changed, Tasks
from .runs import Admit

_TRUSTED_S: Final = 0.25  # how long a count is believed; counting anew for every step would cost more than the step

_FORGOTTEN_S: Final = 60.0


@dataclass
class _Lane:
    """Places of one user in the queue of one step, as last counted, and who waits for one.

    Parameters
    ----------
    counted
        When the count began, on the monotonic clock, seconds.
    free
        Places left of that count.
    writing
        Places that were taken but may not be in the store yet, so that a count may miss them.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    counted: float = float("-inf")
    free: int = 0
    writing: int = 0
    waiting: deque[int] = field(default_factory=deque)


class FairShare:
    """Decides which steps are released.

    Exact within a gateway. Several gateways may together exceed the limit by what they release within a quarter of a
    second.

    Parameters
    ----------
    limit
        Steps released per user and queue.
    """

    def __init__(self, tasks: Tasks, limit: int) -> None:
        self._tasks = tasks
        self._limit = limit
        self._lanes: defaultdict[tuple[str, str], _Lane] = defaultdict(_Lane)

    @asynccontextmanager
    async def admission(self, user: str, step: str | None) -> AsyncIterator[Admit]:
        """Hold a place of a user in the queue of a step, while the caller writes what came of it."""
        if step is None:
            yield lambda _: False
            return
        lane = self._lanes[user, step]
        async with lane.lock:
            # who came first goes first
            if lane.waiting or not await self._take(lane, user, step):
                yield lambda _: False  # under the lock: that it waits is known before a place gets free
                return
            lane.writing += 1
        # writes of those who have a place need not wait for one another
        try:
            yield lambda name: name == step
        except Changed:
            lane.free += 1  # nothing was written
            raise
        finally:
            lane.writing -= 1

    @asynccontextmanager
    async def place(self, user: str, step: str) -> AsyncIterator[int | None]:
        """Take a place for the task that has waited longest, while the caller releases it; None without a free one."""
        lane = self._lanes[user, step]
        async with lane.lock:
            task_id = None
            if lane.waiting and await self._take(lane, user, step) and lane.waiting:
                task_id = lane.waiting.popleft()
            lane.writing += task_id is not None
        try:
            yield task_id
        finally:
            lane.writing -= task_id is not None

    async def _take(self, lane: _Lane, user: str, step: str) -> bool:
        if time.monotonic() - lane.counted > _TRUSTED_S:
            lane.counted = time.monotonic()
            writing = lane.writing  # one that ends meanwhile may be counted twice: too few for a moment, never too many
            lane.free = self._limit - writing - await self._tasks.released(user, step)
        if lane.free <= 0:
            return False
        lane.free -= 1  # given back only by counting: what was written in the end is not known here
        return True

    def freed(self, user: str, step: str, since: float) -> None:
        """Note that a step has ended; `since` is when its end began to be written, on the monotonic clock, seconds."""
        lane = self._lanes[user, step]
        if lane.counted < since:  # else the count may have missed it already; the next one will tell
            lane.free += 1

    def held(self, user: str, step: str, task_id: int) -> None:
        """Note that a step waits."""
        self._lanes[user, step].waiting.append(task_id)

    async def refill(self) -> list[tuple[str, str]]:
        """Read from the store who waits; other gateways hold steps back too. Lists users and steps that wait."""
        found: dict[tuple[str, str], deque[int]] = {}
        for user, step, task_id, _ in await self._tasks.waiting():
            found.setdefault((user, step), deque()).append(task_id)
        for key, lane in list(self._lanes.items()):
            lane.waiting = found.get(key, deque())
            busy = lane.waiting or lane.writing or lane.lock.locked()
            if not busy and time.monotonic() - lane.counted > _FORGOTTEN_S:
                del self._lanes[key]  # a user who has gone home
        for key, waiting in found.items():
            self._lanes[key].waiting = waiting
        return list(found)
