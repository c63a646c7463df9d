"""Shelves: what the listing looks into, a few hundred tasks of one owner to a document.

An index made by hand, for questions that no index of the store answers: how many tasks somebody has, which is the
five hundredth, and in which a word occurs anywhere in the text. It is written when a task is made, renamed, shared or
deleted, and not by its runs. Ids and texts are apart, because most listings need the ids alone, which are a tenth of
it. An id is put on a shelf before its text, and that before the task is there; they go the other way round. So whatever
is cut off leaves an id without a task, which is skipped and dropped.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from pymongo.errors import DuplicateKeyError

from ..model import Task
from .store import Store, answering

ROWS: Final = 200
"""Tasks on a shelf; more make each change of it dearer, fewer make more of them to read."""
_BATCH: Final = 20


def row_of(task: Task) -> list[str]:
    """Write what is searched, and then the groups."""
    text = "\n".join((task.original_name, task.title, task.user, *task.groups)).casefold()
    return [text, *task.groups]


def _row(task_id: int) -> str:
    return f"rows.{task_id}"


class Shelves:
    """The shelves in the store, and the texts of each; both are named by the first task that was put on it."""

    def __init__(self, store: Store) -> None:
        self._shelves = store.collection("shelves")
        self._texts = store.collection("texts")

    async def put(self, task: Task) -> None:
        """Put a task on the newest shelf of its owner; two gateways may be at the same request."""
        async with answering():
            async for shelf in self._shelves.find({"user": task.user, "open": True}, {"ids": 1}):
                if len(shelf["ids"]) < ROWS:
                    await self._shelves.update_one({"_id": shelf["_id"]}, {"$addToSet": {"ids": task.id}})
                    await self._texts.update_one({"_id": shelf["_id"]}, {"$set": {_row(task.id): row_of(task)}})
                    return
                await self._shelves.update_one({"_id": shelf["_id"]}, {"$set": {"open": False}})
            with contextlib.suppress(DuplicateKeyError):
                await self._texts.insert_one({"_id": task.id, "user": task.user, "rows": {}})
            with contextlib.suppress(DuplicateKeyError):
                await self._shelves.insert_one({"_id": task.id, "user": task.user, "open": True, "ids": [task.id]})
            await self._texts.update_one({"_id": task.id}, {"$set": {_row(task.id): row_of(task)}})

    async def hold(self, task: Task) -> bool:
        """Tell whether a task is on a shelf, with its text."""
        async with answering():
            shelf = await self._shelves.find_one({"user": task.user, "ids": task.id}, {"_id": 1})
            if shelf is None:
                return False
            await self._texts.update_one({"_id": shelf["_id"]}, {"$set": {_row(task.id): row_of(task)}})
        return True

    async def rewrite(self, task: Task) -> None:
        """Write the text of a task again, after it was renamed or shared."""
        async with answering():
            shelf = await self._shelves.find_one({"user": task.user, "ids": task.id}, {"_id": 1})
            if shelf is not None:
                where = {"_id": shelf["_id"], _row(task.id): {"$exists": True}}
                await self._texts.update_one(where, {"$set": {_row(task.id): row_of(task)}})

    async def drop(self, task_id: int, user: str) -> None:
        """Take a task off."""
        async with answering():
            shelf = await self._shelves.find_one({"user": user, "ids": task_id}, {"_id": 1})
            if shelf is not None:
                await self._texts.update_one({"_id": shelf["_id"]}, {"$unset": {_row(task_id): ""}})
                await self._shelves.update_one({"_id": shelf["_id"]}, {"$pull": {"ids": task_id}})

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
        where = {} if user is None else {"user": user}
        if not words and groups is None:
            async with answering():
                for shelf in await self._shelves.find(where, {"user": 1, "ids": 1}).to_list(None):
                    yield [(task_id, shelf["user"]) for task_id in shelf["ids"]]
            return
        folded = [word.casefold() for word in words]
        shared = None if groups is None else set(groups)
        async with answering():
            async for shelf in self._texts.find(where, {"user": 1, "rows": 1}).batch_size(_BATCH):
                yield [
                    (int(task_id), shelf["user"])
                    for task_id, (text, *with_groups) in shelf["rows"].items()
                    if all(word in text for word in folded) and (shared is None or not shared.isdisjoint(with_groups))
                ]
