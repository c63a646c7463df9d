"""How much of the disk the tasks of one user may take."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shared.taskdir import TaskDir, TasksRoot, files_of

from ..storage import Tasks, Users
from .errors import TooLarge

_BELIEVED_S: Final = 60.0
_LIMIT_KNOWN_S: Final = 5.0
_MOST_KNOWN: Final = 10_000
_BLOCK_BYTES: Final = 4096


@dataclass
class _Taken:
    """What a user's tasks took when they were measured, and what this gateway has let in since; bytes."""

    at: float
    size: int


class Quota:
    """Limits the files of each user's tasks: inputs and results, each file once however many tasks share it.

    Counted in whole blocks: a million files of one byte fill a disk, too.

    Measured at most once a minute for each user, and exact then. In between several gateways together, and results of
    steps, may go beyond the limit; then nothing more is let in.

    Parameters
    ----------
    most_bytes
        What the tasks of one user may take for whom nothing else is set; 0 for no limit.
    """

    def __init__(self, tasks: Tasks, users: Users, root: TasksRoot, most_bytes: int) -> None:
        self._tasks = tasks
        self._users = users
        self._root = root
        self._most_bytes = most_bytes
        self._limits: dict[str, tuple[float, int]] = {}
        self._taken: dict[str, _Taken] = {}
        self._measuring = asyncio.Lock()

    async def check(self, user: str, more_bytes: int = 0) -> None:
        """Refuse what would need so many bytes more than a user has left.

        Raises
        ------
        TooLarge
            Saying what is allowed.
        """
        limit = await self._limit(user)
        if limit and (await self._of(user)).size + more_bytes > limit:
            raise TooLarge(
                f"All tasks of one user together may hold {_shown(limit)} of files, and there is no room "
                "left for this. Delete tasks or files that are no longer needed, or ask the administrator for more."
            )

    async def take(self, user: str, size_bytes: int) -> None:
        """Let so many bytes in, and count them; raises as `check` does."""
        size = _blocks(size_bytes)
        await self.check(user, size)
        if user in self._taken:
            self._taken[user].size += size

    async def take_copy(self, user: str, source: TaskDir) -> None:
        """Let in what a copy of a task will hold; raises as `check` does."""
        if await self._limit(user):
            await self.take(user, await asyncio.to_thread(_size, [source]))

    async def _limit(self, user: str) -> int:
        """Give what the tasks of a user may take, bytes; 0 for no limit."""
        known = self._limits.get(user)
        if known is None or time.monotonic() - known[0] > _LIMIT_KNOWN_S:
            found = await self._users.get(user)
            own = None if found is None else found.quota_bytes
            if len(self._limits) >= _MOST_KNOWN:
                self._limits.clear()
            known = self._limits[user] = time.monotonic(), self._most_bytes if own is None else own
        return known[1]

    async def _of(self, user: str) -> _Taken:
        async with self._measuring:
            taken = self._taken.get(user)
            if taken is None or time.monotonic() - taken.at > _BELIEVED_S:
                began = time.monotonic()
                folders = [
                    self._root.task(task_id)
                    async for shelf in self._tasks.shelves.ids(user=user)
                    for task_id, _ in shelf
                ]
                taken = self._taken[user] = _Taken(began, await asyncio.to_thread(_size, folders))
        return taken


def _size(folders: Iterable[TaskDir]) -> int:
    sizes: dict[int, int] = {}
    for folder in folders:
        sizes.update(files_of(folder))
    return sum(map(_blocks, sizes.values()))


def _blocks(size_bytes: int) -> int:
    return max(-(-size_bytes // _BLOCK_BYTES), 1) * _BLOCK_BYTES


def _shown(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.3g} GiB" if size_bytes >= 2**29 else f"{size_bytes / 2**20:.3g} MiB"
