"""Looking at many tasks at once, for those who follow them."""

from collections.abc import Collection
from typing import Final

from ..model import Task
from .codec import task_from_doc
from .store import Store, answering

_LOOK: Final = ("rev", "user", "groups", "created")
_RUN: Final = ("id", "at", "user", "steps", "status", "ended", "error")
_WHOLE: Final = (*_LOOK, "state", "error", "completed", *(f"run.{name}" for name in _RUN))


class Watch:
    """The tasks in the store, by their ids."""

    def __init__(self, store: Store) -> None:
        self._tasks = store.collection("tasks")

    async def revisions(self, task_ids: Collection[int]) -> dict[int, Task]:
        """Read the revisions of those of these tasks that there are, and who may see them; nothing else."""
        return await self._find(task_ids, _LOOK)

    async def tasks(self, task_ids: Collection[int]) -> dict[int, Task]:
        """Read how those of these tasks that there are stand; without their configs."""
        return await self._find(task_ids, _WHOLE)

    async def _find(self, task_ids: Collection[int], fields: Collection[str]) -> dict[int, Task]:
        async with answering():
            cursor = self._tasks.find({"_id": {"$in": list(task_ids)}}, dict.fromkeys(fields, 1))
            return {doc["_id"]: task_from_doc(doc) for doc in await cursor.to_list(None)}
