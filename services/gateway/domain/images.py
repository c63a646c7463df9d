"""Changes of `image.fits`: one at a time, never beside a run, and whole or not at all."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import structlog

from shared.contracts import states
from shared.contracts.messages import FileInfo
from shared.contracts.steps import IMAGE_RANK
from shared.taskdir import Commit, Manifest, TaskDir, TasksRoot

from ..model import Pending, Task, now
from ..storage import Changed, Tasks
from . import runs
from .errors import Conflict, Missing

IMAGE: Final = "image.fits"
STALE: Final = timedelta(seconds=60)  # a commit is one rename: who has not ended by then has died
_WAIT_S: Final = 10.0  # for another change of the image to end
_POLL_S: Final = 0.05
_RUNNING: Final = "The task is running; its image cannot be changed now. Wait for its end, or cancel it."

log = structlog.get_logger()


def manifest_of(kind: str, owner: str, size: int | None) -> Manifest:
    """Describe a change of the image; `size` is None when it is removed."""
    files = () if size is None else (FileInfo(name=IMAGE, size=size),)
    return Manifest(run_id="", step_id="", step=kind, attempt=1, owner=owner, outcome="done", files=files)


def commit_upload(folder: TaskDir, source: Path, upload: Path, seq: int, owner: str) -> bool:
    """Commit an uploaded file as the image.

    Parameters
    ----------
    source
        Name of a folder to make, in the folder for incoming files.
    upload
        The file, in the same folder; it is moved.
    """
    size = upload.stat().st_size
    source.mkdir()
    upload.rename(source / IMAGE)
    return folder.commit(source, Commit(seq, IMAGE_RANK, "upload"), manifest_of("upload", owner, size))


def _commit_nothing(folder: TaskDir, source: Path, seq: int, owner: str) -> bool:
    source.mkdir()
    return folder.commit(source, Commit(seq, IMAGE_RANK, "delete"), manifest_of("delete", owner, None))


class Images:
    """Replaces and removes images of tasks."""

    def __init__(self, tasks: Tasks, root: TasksRoot) -> None:
        self._tasks = tasks
        self._root = root

    async def replace(self, task_id: int, upload: Path) -> int:
        """Make an uploaded file the image of a task. Returns its size in bytes.

        Raises
        ------
        Conflict
            While a run is active.
        Missing
            When the task has gone.
        """
        size = (await asyncio.to_thread(upload.stat)).st_size

        def commit(folder: TaskDir, source: Path, pending: Pending) -> bool:
            return commit_upload(folder, source, upload, pending.seq, pending.owner)

        await self._change(task_id, "upload", commit)
        return size

    async def remove(self, task_id: int) -> None:
        """Remove the image of a task, with all that was made from it.

        Raises
        ------
        Conflict
            While a run is active.
        Missing
            When the task has gone.
        """

        def commit(folder: TaskDir, source: Path, pending: Pending) -> bool:
            return _commit_nothing(folder, source, pending.seq, pending.owner)

        await self._change(task_id, "delete", commit)

    async def _change(
        self, task_id: int, kind: Literal["upload", "delete"], commit: Callable[[TaskDir, Path, Pending], bool]
    ) -> None:
        marked = await self._begin(task_id, kind)
        pending = marked.pending
        if pending is None:
            return
        source = self._root.incoming(pending.source)
        # to its end even if the client goes away: the store says that it has begun
        await asyncio.shield(asyncio.create_task(self._commit(marked, pending, source, commit)))

    async def _commit(
        self, marked: Task, pending: Pending, source: Path, commit: Callable[[TaskDir, Path, Pending], bool]
    ) -> None:
        try:
            committed = await asyncio.to_thread(commit, self._root.task(marked.id), source, pending)
        except BaseException:
            await self._undo(marked, source)
            raise
        if not committed:
            raise Missing(f"There is no task {marked.id}.")
        await self._end(marked, pending.kind)

    async def _begin(self, task_id: int, kind: Literal["upload", "delete"]) -> Task:
        deadline = asyncio.get_running_loop().time() + _WAIT_S
        while True:
            task = await self._tasks.get(task_id)
            if task is None:
                raise Missing(f"There is no task {task_id}.")
            if task.running:
                raise Conflict(_RUNNING)
            if task.pending is None:
                owner = uuid.uuid4().hex
                seq = task.seq + 1
                pending = Pending(kind=kind, seq=seq, owner=owner, source=owner, at=now())
                try:
                    return await self._tasks.swap(task, replace(task, seq=seq, pending=pending))
                except Changed:
                    continue
            if asyncio.get_running_loop().time() > deadline:
                raise Conflict("The image of the task is just being changed; try again in a moment.")
            await asyncio.sleep(_POLL_S)

    async def _end(self, marked: Task, kind: str) -> None:
        state = states.UPLOADED if kind == "upload" else states.INITIAL
        await self._settle(marked, lambda task: runs.image_changed(task, now(), state))

    async def _undo(self, marked: Task, source: Path) -> None:
        await asyncio.to_thread(self._root.trash, source)
        await self._settle(marked, lambda task: replace(task, pending=None))

    async def _settle(self, marked: Task, change: Callable[[Task], Task]) -> None:
        """Write the end of a change; its name or config may have been edited since it began."""
        task: Task | None = marked
        while task is not None and task.pending == marked.pending:
            try:
                await self._tasks.swap(task, change(task))
            except Changed:
                task = await self._tasks.get(marked.id)
            else:
                return
        log.info("image change was ended by another", task=marked.id)

    async def mend(self, at: datetime) -> None:
        """End changes whose gateway has died: as done if they were committed, else as never begun."""
        for task in await self._tasks.pending():
            pending = task.pending
            if pending is None or at - pending.at < STALE:
                continue
            source = self._root.incoming(pending.source)
            # from here on it cannot be committed any more, nor begun by a gateway that was frozen
            await asyncio.to_thread(self._root.occupy, source)
            manifest = await asyncio.to_thread(
                self._root.task(task.id).manifest, Commit(pending.seq, IMAGE_RANK, pending.kind)
            )
            log.warning("interrupted image change", task=task.id, committed=manifest is not None)
            if manifest is not None:
                await self._end(task, pending.kind)
            else:
                await self._settle(task, lambda seen: replace(seen, pending=None))
