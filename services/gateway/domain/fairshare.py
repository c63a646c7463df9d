"""Fair share: at most so many steps of one user are released to one queue; the rest waits in the store."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ..storage import Tasks
from .runs import Admit


class FairShare:
    """Decides which steps are released.

    Counting and releasing is serial within a gateway; several gateways together may exceed the limit by one each.

    Parameters
    ----------
    limit
        Steps released per user and queue.
    """

    def __init__(self, tasks: Tasks, limit: int) -> None:
        self._tasks = tasks
        self._limit = limit
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: dict[tuple[str, str], deque[int]] = {}

    @asynccontextmanager
    async def admission(self, user: str, step: str | None) -> AsyncIterator[Admit]:
        """Hold the place of a user in the queue of a step, while the caller writes what came of it."""
        async with AsyncExitStack() as stack:
            free = False
            if step is not None:
                await stack.enter_async_context(self._locks[user, step])
                first = not self._waiting.get((user, step))
                free = first and await self._tasks.released(user, step) < self._limit
            yield lambda name: name == step and free

    def held(self, user: str, step: str, task_id: int) -> None:
        """Note that a step waits."""
        self._waiting.setdefault((user, step), deque()).append(task_id)

    async def next(self, user: str, step: str) -> int | None:
        """Name the task that has waited longest for a place, if one is free now.

        Whoever calls it releases that task or calls again.
        """
        key = (user, step)
        if not self._waiting.get(key):
            return None
        if await self._tasks.released(user, step) >= self._limit:
            return None
        queue = self._waiting.get(key)
        return queue.popleft() if queue else None

    def lock(self, user: str, step: str) -> asyncio.Lock:
        """Give the lock under which places of a user in a queue are counted and taken."""
        return self._locks[user, step]

    async def refill(self) -> list[tuple[str, str]]:
        """Read from the store who waits; other gateways hold steps back too. Lists users and steps that wait."""
        found: dict[tuple[str, str], deque[int]] = {}
        for user, step, task_id, _ in await self._tasks.waiting():
            found.setdefault((user, step), deque()).append(task_id)
        self._waiting = found
        return list(found)
