"""Reading and mending the store as a whole, for administration: everything here looks at all tasks."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Any

from ..model import Run, Task
from .codec import mark_of, run_from_doc, task_fields, task_from_doc
from .shelves import Shelves, row_of
from .store import Store, answering

_BATCH = 100


@dataclass(frozen=True)
class Shelved:
    """How a task stands on the shelves that listings look into."""

    task_id: int
    user: str
    shelf: int


@dataclass(frozen=True)
class Shelving:
    """What is wrong with the shelves.

    Parameters
    ----------
    missing
        Tasks that no listing shows.
    stale
        Tasks whose text is not what it should be.
    empty
        Places on shelves without a task.
    """

    missing: list[Task] = field(default_factory=list)
    stale: list[Task] = field(default_factory=list)
    empty: list[Shelved] = field(default_factory=list)


class Upkeep:
    """The whole store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks = store.collection("tasks")
        self._runs = store.collection("runs")
        self._shelves = store.collection("shelves")
        self._texts = store.collection("texts")

    async def tasks(self) -> AsyncIterator[tuple[Task, bool]]:
        """Read all tasks by id; each with whether its mark, by which active ones are found, is what it should be."""
        async with answering():
            async for doc in self._tasks.find({}).sort("_id", 1).batch_size(_BATCH):
                task = task_from_doc(doc)
                yield task, doc.get("work") == mark_of(task)

    async def set_mark(self, task: Task) -> bool:
        """Write the mark of a task anew, if the task has not changed since. Returns whether it was written."""
        async with answering():
            change = {"$set": {"work": mark_of(task), "rev": task.rev + 1}}
            result = await self._tasks.update_one({"_id": task.id, "rev": task.rev}, change)
        return bool(result.modified_count)

    async def owners(self) -> set[str]:
        """Name everybody who has a task."""
        async with answering():
            return set(await self._tasks.distinct("user"))

    # ---- the shelves

    async def shelving(self) -> Shelving:
        """Compare the shelves with the tasks."""
        found = Shelving()
        places: dict[int, Shelved] = {}
        rows: dict[int, list[str]] = {}
        async with answering():
            async for shelf in self._shelves.find({}, {"user": 1, "ids": 1}).batch_size(_BATCH):
                for task_id in shelf["ids"]:
                    place = Shelved(task_id, shelf["user"], shelf["_id"])
                    if task_id in places:
                        found.empty.append(place)
                    places.setdefault(task_id, place)
            async for shelf in self._texts.find({}, {"rows": 1}).batch_size(_BATCH):
                rows.update({int(task_id): row for task_id, row in shelf["rows"].items()})
        seen = set()
        async for task, _ in self.tasks():
            seen.add(task.id)
            at = places.get(task.id)
            if at is None or at.user != task.user:
                found.missing.append(task)
                if at is not None:
                    found.empty.append(at)
            elif rows.get(task.id) != row_of(task):
                found.stale.append(task)
        found.empty.extend(place for task_id, place in places.items() if task_id not in seen)
        return found

    async def shelve(self, task: Task) -> None:
        """Put a task that is on no shelf on one."""
        await Shelves(self._store).put(task)

    async def rewrite(self, task: Task) -> None:
        """Write the text of a task anew."""
        async with answering():
            shelf = await self._shelves.find_one({"user": task.user, "ids": task.id}, {"_id": 1})
            if shelf is not None:
                row = {f"rows.{task.id}": row_of(task)}
                await self._texts.update_one({"_id": shelf["_id"]}, {"$set": row})

    async def unshelve(self, place: Shelved) -> None:
        """Take a place without a task off its shelf."""
        async with answering():
            await self._texts.update_one({"_id": place.shelf}, {"$unset": {f"rows.{place.task_id}": ""}})
            await self._shelves.update_one({"_id": place.shelf}, {"$pull": {"ids": place.task_id}})

    # ---- counters, and what belongs to nothing

    async def counter(self, name: str) -> int:
        """Read the last number that was drawn."""
        async with answering():
            found = await self._store.collection("counters").find_one({"_id": name})
        return int(found["value"]) if found else 0

    async def raise_counter(self, name: str, least: int) -> None:
        """Let no number up to `least` be drawn again."""
        async with answering():
            await self._store.collection("counters").update_one(
                {"_id": name, "value": {"$lt": least}}, {"$set": {"value": least}}
            )

    async def highest(self, collection: str) -> int:
        """Give the highest id in a collection; 0 when it is empty."""
        async with answering():
            docs = await self._store.collection(collection).find({}, {"_id": 1}).sort("_id", -1).limit(1).to_list(1)
        return int(docs[0]["_id"]) if docs else 0

    async def stray_runs(self, task_ids: Collection[int]) -> list[int]:
        """List those for which there is history but no task, among all but the given tasks."""
        async with answering():
            return sorted(set(await self._runs.distinct("task_id")) - set(task_ids))

    async def forget_runs(self, task_id: int) -> None:
        """Delete the history of a task that is no more."""
        async with answering():
            await self._runs.delete_many({"task_id": task_id})

    # ---- adding what comes from elsewhere

    async def add(self, task: Task) -> None:
        """Store a task with its own id, and put it on a shelf."""
        fields = {key: value for key, value in task_fields(task).items() if value is not None}
        document: dict[str, Any] = {
            "_id": task.id,
            "user": task.user,
            "title": task.title,
            "groups": list(task.groups),
            "created": task.created,
            "rev": task.rev,
            **fields,
        }
        await Shelves(self._store).put(task)
        async with answering():
            await self._tasks.insert_one(document)

    async def past_run(self, run_id: str) -> Run | None:
        """Find a run in the history."""
        async with answering():
            doc = await self._runs.find_one({"_id": run_id})
        return run_from_doc(doc) if doc else None
