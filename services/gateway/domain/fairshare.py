"""Fair share: at most so many steps of one user are released to one queue; the rest waits in the store."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from ..counters import ARRIVALS
from ..model import Task
from ..storage import Changed, Tasks
from .places import Places
from .runs import Admit, held_back

_TRUSTED_S: Final = 1.0  # how long a count is believed; counting anew for every step would cost more than the step

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
    holding
        Steps that got no place, while that is being written.
    waiting
        Tasks whose step waits, the first first, and when that was noted, on the monotonic clock, seconds.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    counted: float = float("-inf")
    free: int = 0
    writing: int = 0
    holding: int = 0
    waiting: dict[int, float] = field(default_factory=dict)


class FairShare:
    """Decides which steps are released.

    Exact within a gateway. Several gateways may together exceed the limit by what they release within a second.

    Parameters
    ----------
    places
        Steps released per user and queue.
    """

    def __init__(self, tasks: Tasks, places: Places) -> None:
        self._tasks = tasks
        self._places = places
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
            placed = not lane.waiting and not lane.holding and await self._take(lane, user, step)
            lane.writing += placed
            lane.holding += not placed
        # one write need not wait for another: who finds, having noted that a step waits, a place free, releases it
        try:
            yield lambda name: placed and name == step
        except Changed:
            lane.free += placed  # nothing was written
            raise
        finally:
            lane.writing -= placed
            lane.holding -= not placed

    @asynccontextmanager
    async def place(self, user: str, step: str) -> AsyncIterator[int | None]:
        """Take a place for the task that has waited longest, while the caller releases it; None without a free one."""
        lane = self._lanes[user, step]
        async with lane.lock:
            task_id = None
            if lane.waiting and await self._take(lane, user, step) and lane.waiting:
                task_id = next(iter(lane.waiting))
                del lane.waiting[task_id]
            lane.writing += task_id is not None
        try:
            yield task_id
        finally:
            lane.writing -= task_id is not None

    async def _take(self, lane: _Lane, user: str, step: str) -> bool:
        if time.monotonic() - lane.counted > _TRUSTED_S:
            lane.counted = time.monotonic()
            writing = lane.writing  # one that ends meanwhile may be counted twice: too few for a moment, never too many
            places = await self._places.of(user, step)
            lane.free = places - writing - await self._tasks.released(user, step)
        if lane.free <= 0:
            return False
        lane.free -= 1  # given back only by counting: what was written in the end is not known here
        return True

    def freed(self, user: str, step: str, since: float) -> None:
        """Note that a step has ended; `since` is when its end began to be written, on the monotonic clock, seconds."""
        lane = self._lanes[user, step]
        if lane.counted < since:  # else the count may have missed it already; the next one will tell
            lane.free += 1

    def unused(self, user: str, step: str) -> None:
        """Give a place back whose task does not wait any more."""
        self._lanes[user, step].free += 1

    def note_turn(self, task: Task) -> None:
        """Note that a step's turn has come, and whether it waits."""
        if task.run is not None and task.run.current is not None:
            ARRIVALS.labels(task.run.current.name).inc()
        if held := held_back(task):
            self._lanes[held].waiting[task.id] = time.monotonic()

    def refill(self, active: Sequence[Task], since: float) -> list[tuple[str, str]]:
        """Note who waits according to the store; other gateways hold steps back too.

        Parameters
        ----------
        active
            All tasks with a run that has not ended.
        since
            When the store was asked for them, on the monotonic clock, seconds.

        Returns
        -------
        list
            Users and steps that wait.
        """
        found: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        for task in sorted(active, key=lambda task: (task.run.at if task.run else task.created, task.id)):
            if key := held_back(task):
                found[key][task.id] = since
        for key, lane in list(self._lanes.items()):
            noted = {task_id: at for task_id, at in lane.waiting.items() if at >= since}
            lane.waiting = found.pop(key, {}) | noted
            busy = lane.waiting or lane.writing or lane.holding or lane.lock.locked()
            if not busy and time.monotonic() - lane.counted > _FORGOTTEN_S:
                del self._lanes[key]  # a user who has gone home
        for key, waiting in found.items():
            self._lanes[key].waiting = waiting
        return [key for key, lane in self._lanes.items() if lane.waiting]
