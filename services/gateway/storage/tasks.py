"""Tasks and the history of their runs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from shared.contracts import states

from ..model import Run, Task
from .codec import (
    ACTIVE,
    PENDING,
    RELEASED,
    released,
    resting,
    run_from_doc,
    run_to_doc,
    task_fields,
    task_from_doc,
)
from .shelves import Shelves
from .store import Store, answering
from .together import Together

_BATCH: Final = 20
_ACTIVE_AT_ONCE: Final = 200
_MAX_CONFIGS: Final = 4 * 2**20  # characters of configs in one answer
_LISTED: Final = ("original_name", "title", "state", "user", "created", "modified")
_STATE: Final = ("state", "user", "groups", "created", "run.id", "run.status")
_RUN: Final = ("id", "at", "user", "steps", "status", "ended", "trace")
_ACTIVE: Final = ("original_name", "user", "groups", "created", "seq", "rev", *(f"run.{name}" for name in _RUN))


class Changed(Exception):
    """The task was changed, or deleted, since it was read."""


class Tasks:
    """The tasks in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.shelves = Shelves(store)
        self._tasks = store.collection("tasks")
        self._runs = store.collection("runs")
        self._whole = Together(self._read_whole)
        self._states = Together(self._read_states)

    async def next_id(self) -> int:
        """Draw the id of a new task."""
        return await self._store.next_id("tasks")

    async def insert(self, task: Task, key: str | None = None) -> bool:
        """Store a new task, with the digest of the idempotency key of its request.

        Returns
        -------
        bool
            False when there is a task of that id: the same request, sent again, was faster.
        """
        fields = {key: value for key, value in task_fields(task).items() if value is not None}
        document = {
            "_id": task.id,
            "user": task.user,
            "title": task.title,
            "groups": list(task.groups),
            "created": task.created,
            "rev": task.rev,
            **fields,
        }
        if key is not None:
            document["key"] = key
        if key is None or not await self.shelves.hold(task):  # an earlier try may have come that far
            await self.shelves.put(task)
        async with answering():
            try:
                await self._tasks.insert_one(document)
            except DuplicateKeyError:
                return False
        return True

    async def get(self, task_id: int) -> Task | None:
        """Read a whole task."""
        return await self._whole.get(task_id)

    async def _read_whole(self, ids: list[int]) -> dict[int, Task]:
        async with answering():
            docs = await self._tasks.find({"_id": {"$in": ids}}).to_list(None)
        return {doc["_id"]: task_from_doc(doc) for doc in docs}

    async def get_state(self, task_id: int) -> tuple[Task, str | None] | None:
        """Read what polling needs: state and who may see it, and the id of the running chain."""
        return await self._states.get(task_id)

    async def _read_states(self, ids: list[int]) -> dict[int, tuple[Task, str | None]]:
        found = {}
        async with answering():
            docs = await self._tasks.find({"_id": {"$in": ids}}, dict.fromkeys(_STATE, 1)).to_list(None)
        for doc in docs:
            run = doc.pop("run", None) or {}
            chain_id = run.get("id") if run.get("status") in {"running", "cancelling"} else None
            found[doc["_id"]] = task_from_doc(doc), chain_id
        return found

    async def swap(self, old: Task, new: Task) -> Task:
        """Write what differs between two versions of a task, if the store still holds the old one.

        Raises
        ------
        Changed
            When it does not.
        """
        before, after = task_fields(old), task_fields(new)
        different = {key: value for key, value in after.items() if value != before[key]}
        update: dict[str, Any] = {
            "$set": {"rev": old.rev + 1, **{key: value for key, value in different.items() if value is not None}}
        }
        if absent := {key: "" for key, value in different.items() if value is None}:
            update["$unset"] = absent
        async with answering():
            result = await self._tasks.update_one({"_id": old.id, "rev": old.rev}, update)
        if not result.modified_count:
            raise Changed(old.id)
        if "original_name" in different:
            await self.shelves.rewrite(new)
        return replace(new, rev=old.rev + 1)

    async def describe(self, task: Task) -> None:
        """Write title and groups, which no run ever touches."""
        change = {
            "title": task.title,
            "groups": list(task.groups),
            "modified": task.modified,
        }
        async with answering():
            await self._tasks.update_one({"_id": task.id}, {"$set": change})
        await self.shelves.rewrite(task)

    async def delete(self, task: Task) -> bool:
        """Remove a task and the history of its runs. Returns whether there was one."""
        async with answering():
            result = await self._tasks.delete_one({"_id": task.id})
            await self._runs.delete_many({"task_id": task.id})
        await self.shelves.drop(task.id, task.user)
        return bool(result.deleted_count)

    async def existing(self, task_ids: Sequence[int]) -> set[int]:
        """Tell which of these tasks there are."""
        async with answering():
            cursor = self._tasks.find({"_id": {"$in": list(task_ids)}}, {"_id": 1})
            return {doc["_id"] async for doc in cursor}

    async def listed(self, task_ids: Sequence[int]) -> dict[int, Task]:
        """Read what a listing shows of tasks."""
        async with answering():
            docs = await self._tasks.find({"_id": {"$in": list(task_ids)}}, dict.fromkeys(_LISTED, 1)).to_list(None)
        return {doc["_id"]: task_from_doc(doc) for doc in docs}

    async def in_state(
        self, state: str, user: str | None, ids: Sequence[int], *, picked: bool, most: int | None
    ) -> dict[int, Task]:
        """Read what a listing shows of the tasks in a state.

        Parameters
        ----------
        user
            Whose they all are; None when they may be anybody's.
        ids
            The newest first.
        picked
            Whether only some of the tasks between the first and the last of these are asked for.
        most
            Read the newest ones only, so many; None for all.
        """
        where: dict[str, Any] = {"_id": {"$in": list(ids)} if picked else {"$gte": ids[-1], "$lte": ids[0]}}
        if user is not None:
            where = {"user": user, "state": state, **where}
        else:
            where["work"] = ACTIVE if state == states.RUNNING else resting(state)
        async with answering():
            cursor = self._tasks.find(where, dict.fromkeys(_LISTED, 1)).sort("_id", -1).limit(most or 0)
            return {doc["_id"]: task_from_doc(doc) for doc in await cursor.to_list(None)}

    # ---- runs

    async def run_key(self) -> bytes:
        """Give the key of this site that names of runs are made with."""
        return await self._store.secret("runs")

    async def active(self, *, waiting: bool = True) -> list[Task]:
        """List the tasks with a run that has not ended; without their configs.

        Parameters
        ----------
        waiting
            Whether also those are listed whose step is held back by fair share.
        """
        found: list[Task] = []
        async with answering():
            cursor = self._tasks.find({"work": ACTIVE if waiting else RELEASED}, dict.fromkeys(_ACTIVE, 1))
            cursor.batch_size(_ACTIVE_AT_ONCE)
            while docs := await cursor.to_list(_ACTIVE_AT_ONCE):  # a backlog of thousands keeps no request waiting
                found += [task_from_doc(doc) for doc in docs]
        return found

    async def released(self, user: str, step: str) -> int:
        """Count the steps of a user that are in a queue or being worked on."""
        async with answering():
            return len(await self._tasks.find({"work": released(user, step)}, {"_id": 1}).to_list(None))

    async def pending(self) -> list[Task]:
        """List the tasks with an image change that has begun."""
        async with answering():
            docs = await self._tasks.find({"work": PENDING}).to_list(None)
        return [task_from_doc(doc) for doc in docs]

    async def keep_run(self, task_id: int, run: Run) -> None:
        """Put an ended run into the history; twice is as good as once."""
        async with answering():
            try:
                document = {key: value for key, value in run_to_doc(run).items() if key != "key" or value is not None}
                await self._runs.insert_one({"_id": run.id, "task_id": task_id, **document})
            except DuplicateKeyError:
                return

    async def history(self, task_id: int, limit: int) -> list[Run]:
        """List the runs of a task before its last one, the newest first; configs of some MB in all."""
        async with answering():
            cursor = self._runs.find({"task_id": task_id}, {"asked": 0}).sort("at", -1).limit(limit)
            found = [run_from_doc(doc) for doc in await cursor.to_list(None)]
            asked: dict[str, Any] = {}
            size = 0
            # in batches: a thousand of the largest configs would be gigabytes in memory
            configs = self._runs.find({"task_id": task_id}, {"asked": 1}).sort("at", -1).limit(limit)
            async for doc in configs.batch_size(_BATCH):
                size += len(doc["asked"])
                if size > _MAX_CONFIGS:
                    await configs.close()
                    break
                asked[doc["_id"]] = json.loads(doc["asked"])
        return [replace(run, asked=asked.get(run.id)) for run in found]

    async def run_of_key(self, task_id: int, key: str) -> Run | None:
        """Find a run of a task before its last one by the idempotency key of its request."""
        async with answering():
            # by the key alone, which is one user's and hardly ever of two tasks: a task may have thousands of runs
            cursor = self._runs.find({"key": key}, {"task_id": 1})
            found = [doc["_id"] async for doc in cursor if doc["task_id"] == task_id]
            doc = await self._runs.find_one({"_id": found[0]}) if found else None
        return run_from_doc(doc) if doc else None

    async def find_run(self, task_id: int, run_id: str) -> tuple[Task, Run] | None:
        """Find a run of a task, its last one or one of its history."""
        async with answering():
            task = await self.get(task_id)
            if task is None or (task.run and task.run.id == run_id):
                return (task, task.run) if task and task.run else None
            kept = await self._runs.find_one({"_id": run_id, "task_id": task_id})
        return (task, run_from_doc(kept)) if kept else None
