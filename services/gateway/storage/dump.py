"""The store as text, a document a line, for backups: in the extended JSON of MongoDB, which keeps every type."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from bson import json_util

from ..model import Task
from .codec import task_from_doc
from .shelves import Shelves
from .store import Store, answering

_BATCH: Final = 100
TASKS: Final = "tasks"
RUNS: Final = "runs"
OF_TASKS: Final = (RUNS, "callbacks")
"""Collections whose documents belong to one task each."""
OTHERS: Final = ("users", "groups", "tokens", "presets", "secrets", "counters")
"""Collections that are kept whole. Those that are left out hold what is derived, or forgotten within a day."""

Line = str


class Dump:
    """Reads and writes whole collections."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def task_ids(self) -> list[int]:
        """List the tasks."""
        async with answering():
            docs = await self._store.collection(TASKS).find({}, {"_id": 1}).sort("_id", 1).to_list(None)
        return [int(doc["_id"]) for doc in docs]

    async def task(self, task_id: int) -> tuple[Line, Task] | None:
        """Read one task; None when it has gone."""
        async with answering():
            doc = await self._store.collection(TASKS).find_one({"_id": task_id})
        return (_line(doc), task_from_doc(doc)) if doc else None

    async def lines(self, collection: str, keep: Callable[[int], bool] | None = None) -> AsyncIterator[Line]:
        """Read a collection.

        Parameters
        ----------
        keep
            Tells of a task whether what belongs to it is wanted; None for everything.
        """
        async with answering():
            async for doc in self._store.collection(collection).find({}).sort("_id", 1).batch_size(_BATCH):
                if keep is None or keep(int(doc["task_id"])):
                    yield _line(doc)

    async def is_empty(self) -> bool:
        """Tell whether there is neither a task nor a user nor a preset."""
        async with answering():
            for name in (TASKS, "users", "presets"):
                if await self._store.collection(name).find({}, {"_id": 1}).limit(1).to_list(1):
                    return False
        return True

    @staticmethod
    def id_of(line: Line) -> int:
        """Read the id of a task from its line."""
        return int(_doc(line)["_id"])

    async def write(self, collection: str, line: Line) -> None:
        """Write a document; one that is there is replaced."""
        doc = _doc(line)
        async with answering():
            if collection == TASKS:
                await Shelves(self._store).put(task_from_doc(doc))
            await self._store.collection(collection).delete_one({"_id": doc["_id"]})
            await self._store.collection(collection).insert_one(doc)


def _line(doc: dict[str, Any]) -> Line:
    return json_util.dumps(doc, json_options=json_util.CANONICAL_JSON_OPTIONS)


def _doc(line: Line) -> dict[str, Any]:
    return dict(json_util.loads(line, json_options=json_util.CANONICAL_JSON_OPTIONS.with_options(tz_aware=True)))
