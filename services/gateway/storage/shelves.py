"""Shelves: what the listing looks into, a few hundred tasks of one owner to a document.

An index made by hand, for questions that no index of the store answers: how many tasks somebody has, which is the
five hundredth, and in which a word occurs anywhere in the text. It is written when a task is made, renamed, shared or
deleted, and not by its runs. A row is there before its task and goes after it: one without a task is skipped.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from ..model import Task
from .store import Store, answering

ROWS: Final = 200
"""Tasks on a shelf; more make each change of it dearer, fewer make more of them to read."""


def row_of(task: Task) -> list[str]:
    """Write what is searched, and then the groups."""
    text = "\n".join((task.original_name, task.title, task.user, *task.groups)).casefold()
    return [text, *task.groups]


class Shelves:
    """The shelves in the store; each is named by the first task that was put on it."""

    def __init__(self, store: Store) -> None:
        self._shelves = store.collection("shelves")

    async def put(self, task: Task) -> None:
        """Put a task on the newest shelf of its owner."""
        row = f"rows.{task.id}"
        async with answering():
            async for shelf in self._shelves.find({"user": task.user, "open": True}, {"rows": 1}):
                if len(shelf["rows"]) < ROWS:
                    change = {"$set": {row: row_of(task)}}
                    if (await self._shelves.update_one({"_id": shelf["_id"], "open": True}, change)).matched_count:
                        return
                await self._shelves.update_one({"_id": shelf["_id"]}, {"$set": {"open": False}})
            rows = {str(task.id): row_of(task)}
            await self._shelves.insert_one({"_id": task.id, "user": task.user, "open": True, "rows": rows})

    async def rewrite(self, task: Task) -> None:
        """Write the row of a task again, after it was renamed or shared."""
        row = f"rows.{task.id}"
        async with answering():
            where = {"user": task.user, row: {"$exists": True}}
            await self._shelves.update_one(where, {"$set": {row: row_of(task)}})

    async def drop(self, task_id: int, user: str) -> None:
        """Take a task off."""
        row = f"rows.{task_id}"
        async with answering():
            await self._shelves.update_one({"user": user, row: {"$exists": True}}, {"$unset": {row: ""}})

    async def ids(
        self, words: Sequence[str] = (), user: str | None = None, groups: Sequence[str] | None = None
    ) -> AsyncIterator[list[tuple[int, str]]]:
        """Find tasks, shelf by shelf: their ids and owners, in no order.

        Parameters
        ----------
        words
            Each must occur in name, title, owner or a group, in any case.
        user
            Of this owner only.
        groups
            Shared with one of these only.
        """
        folded = [word.casefold() for word in words]
        shared = None if groups is None else set(groups)
        async with answering():
            cursor = self._shelves.find({} if user is None else {"user": user}, {"user": 1, "rows": 1})
            async for shelf in cursor.batch_size(20):
                yield [
                    (int(task_id), shelf["user"])
                    for task_id, (text, *with_groups) in shelf["rows"].items()
                    if all(word in text for word in folded) and (shared is None or not shared.isdisjoint(with_groups))
                ]
