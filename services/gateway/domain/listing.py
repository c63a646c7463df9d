"""Listing tasks, the newest first: reads no more of them than it shows."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from shared.taskdir import TasksRoot

from ..model import EDIT_ALL, VIEW_ALL, Task, User
from ..storage import Tasks

_PIECE: Final = 200  # tasks read at once when all are listed
_WIDEST: Final = 2000  # tasks looked through at once for those in a state
_WIDENING: Final = 4


@dataclass(frozen=True)
class Wanted:
    """Which tasks to list.

    Parameters
    ----------
    words
        Each must occur in name, title, owner or a group, in any case.
    state
        In this state only.
    owner
        Of this user, as far as the caller may see them; None means the caller's own, and all for staff.
    """

    words: tuple[str, ...] = ()
    state: str | None = None
    owner: str | None = None


@dataclass(frozen=True)
class Page:
    """A part of a listing.

    Parameters
    ----------
    count
        How many tasks there are in the whole listing; where a state is asked for, and there are more than were looked
        at, at least so many.
    more
        Whether there are more behind these.
    """

    tasks: list[Task]
    count: int
    more: bool


class Listing:
    """Lists tasks."""

    def __init__(self, tasks: Tasks, root: TasksRoot) -> None:
        self._tasks = tasks
        self._root = root

    async def page(self, user: User, wanted: Wanted, limit: int, offset: int) -> Page:
        """List some of the tasks."""
        found = await self._found(user, wanted)
        ids = sorted(found, reverse=True)
        if wanted.state is None:
            chosen = ids[offset : offset + limit]
            tasks = [task async for piece in self._read(chosen, found) for task in piece]
            return Page(tasks, len(ids), offset + len(chosen) < len(ids))
        tasks, end = [], offset + limit
        async for piece in self._in_state(ids, user, wanted, end + 1):
            tasks += piece
            if len(tasks) > end:
                break
        return Page(tasks[offset:end], len(tasks), end < len(tasks))

    async def all(self, user: User, wanted: Wanted) -> AsyncIterator[list[Task]]:
        """List all tasks, in pieces."""
        found = await self._found(user, wanted)
        ids = sorted(found, reverse=True)
        pieces = self._read(ids, found) if wanted.state is None else self._in_state(ids, user, wanted, None)
        async for piece in pieces:
            yield piece

    async def _found(self, user: User, wanted: Wanted) -> dict[int, str]:
        """Find the ids of the tasks, in whatever state, and their owners."""
        if any("\0" in word for word in wanted.words):
            return {}
        owner, groups = _whose(user, wanted.owner)
        found: dict[int, str] = {}
        async for some in self._tasks.shelves.ids(wanted.words, owner, groups):
            found.update(some)
        return found

    async def _read(self, ids: list[int], owners: dict[int, str]) -> AsyncIterator[list[Task]]:
        for start in range(0, len(ids), _PIECE):
            some = ids[start : start + _PIECE]
            tasks = await self._tasks.listed(some)
            yield [tasks[task_id] for task_id in some if task_id in tasks]
            for task_id in some:
                # what a gateway left that died while it made or deleted the task
                if task_id not in tasks and not await asyncio.to_thread(self._root.task(task_id).exists):
                    await self._tasks.shelves.drop(task_id, owners[task_id])

    async def _in_state(
        self, ids: list[int], user: User, wanted: Wanted, enough: int | None
    ) -> AsyncIterator[list[Task]]:
        """Read tasks in a state. Looks at as many at once as should hold those that are still to be found."""
        owner, groups = _whose(user, wanted.owner)
        picked = bool(wanted.words) or groups is not None
        hits = start = 0
        width = _PIECE if enough is None else min(enough, _WIDEST)
        while start < len(ids) and (enough is None or hits < enough):
            some = ids[start : start + width]
            most = None if enough is None else enough - hits
            tasks = await self._tasks.in_state(wanted.state or "", owner, some, picked=picked, most=most)
            piece = [tasks[task_id] for task_id in some if task_id in tasks]
            yield piece
            hits += len(piece)
            # where the store has stopped it may have left some behind the last one
            oldest = min(tasks) if len(tasks) == most else 0
            start += sum(task_id >= oldest for task_id in some)
            widest = min(_WIDENING * width, _WIDEST)
            if enough is not None:
                # half of what seems to be needed: rather look once more than read too many
                left = enough - hits
                width = min(max(left, left * start // (2 * hits)), widest) if hits else widest
            elif _WIDENING * len(piece) < width:
                width = widest


def _whose(user: User, owner: str | None) -> tuple[str | None, Sequence[str] | None]:
    """Give the owner whose tasks are listed, and the groups with which one of them they must be shared."""
    if owner is None and not user.is_staff:
        return user.name, None
    if owner in {None, user.name} or user.is_staff or not user.grants.isdisjoint({VIEW_ALL, EDIT_ALL}):
        return owner, None
    return owner, sorted(user.groups)
