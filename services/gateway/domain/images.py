"""Changes of `image.fits`: one at a time, never beside a run, and whole or not at all."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, TypeGuard

import structlog

from shared.contracts import states
from shared.contracts.edits import IMAGE
from shared.contracts.messages import FileInfo
from shared.contracts.rpc import Prepared
from shared.contracts.steps import IMAGE_RANK
from shared.taskdir import Commit, Manifest, TaskDir, TasksRoot

from ..model import Pending, Task, now
from ..storage import Changed, StoreAway, Tasks
from . import runs
from .errors import Conflict, Missing, Unavailable

__all__ = ["IMAGE", "STALE", "Images", "commit_upload", "manifest_of"]

Kind = Literal["upload", "delete", "edit"]

STALE: Final = timedelta(seconds=60)
"""A change that its gateway has not renewed for so long was left by a death; a commit is one rename."""

_RENEW_S: Final = 15.0
_WAIT_S: Final = 10.0  # for another change of the image to end
_POLL_S: Final = 0.05
_RUNNING: Final = "The task is running; its image cannot be changed now. Wait for its end, or cancel it."

log = structlog.get_logger()


def manifest_of(kind: Kind, owner: str, files: tuple[FileInfo, ...]) -> Manifest:
    """Describe a change of the image; there are no files when it is removed."""
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
    manifest = manifest_of("upload", owner, (FileInfo(name=IMAGE, size=size),))
    return folder.commit(source, Commit(seq, IMAGE_RANK, "upload"), manifest)


def _commit_nothing(folder: TaskDir, source: Path, seq: int, owner: str) -> bool:
    source.mkdir()
    return folder.commit(source, Commit(seq, IMAGE_RANK, "delete"), manifest_of("delete", owner, ()))


def _commit_edit(folder: TaskDir, source: Path, prepared: Prepared, pending: Pending) -> bool:
    manifest = manifest_of("edit", pending.owner, prepared.files)
    return folder.commit(source / prepared.folder, _name_of(pending), manifest)


def _name_of(pending: Pending) -> Commit:
    return Commit(pending.seq, IMAGE_RANK, pending.kind)


def _same(task: Task | None, pending: Pending | None) -> TypeGuard[Task]:
    """Tell whether a change still goes on; it may have been renewed."""
    return bool(task and task.pending and pending and task.pending.owner == pending.owner)


class Images:
    """Replaces and removes images of tasks.

    Parameters
    ----------
    renew_s
        How often a change that a service works on is renewed, seconds.
    """

    def __init__(self, tasks: Tasks, root: TasksRoot, renew_s: float = _RENEW_S) -> None:
        self._tasks = tasks
        self._root = root
        self._renew_s = renew_s

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

    async def edit(self, task_id: int, prepare: Callable[[str], Awaitable[Prepared]]) -> None:
        """Let a service make the new image of a task from the old one.

        Whoever comes late changes nothing: only the gateway that began commits, from a folder that is taken away when
        the edit is given up.

        Parameters
        ----------
        prepare
            Has the files made, in a folder below the one of this name for incoming files.

        Raises
        ------
        Conflict
            While a run is active, or beside another change of the image.
        Missing
            When the task has gone.
        Unavailable
            When the edit was given up; nothing has changed then.
        """
        marked = await self._begin(task_id, "edit", wait_s=0)
        await asyncio.shield(asyncio.create_task(self._edit(marked, prepare)))

    async def _edit(self, marked: Task, prepare: Callable[[str], Awaitable[Prepared]]) -> None:
        pending = marked.pending
        if pending is None:
            return
        folder, source = self._root.task(marked.id), self._root.incoming(pending.source)
        try:
            await asyncio.to_thread(source.mkdir)
            renewing = asyncio.create_task(self._renew(marked.id, pending))
            try:
                prepared = await prepare(pending.source)
            finally:
                renewing.cancel()
            committed = await asyncio.to_thread(_commit_edit, folder, source, prepared, pending)
        except FileExistsError:  # we stood still, and another gateway has given the edit up
            committed = False
        except BaseException:
            if not await self._undo(marked, source):
                raise
            return
        if not committed and not await self._undo(marked, source):
            if not await asyncio.to_thread(folder.exists):
                raise Missing(f"There is no task {marked.id}.")
            raise Unavailable("The edit was interrupted, and nothing has changed; try again.")
        if committed:
            await self._end(marked, "edit")
            # what another, late, attempt at the request may have left
            await asyncio.to_thread(self._root.trash, source)

    async def _renew(self, task_id: int, pending: Pending) -> None:
        """Show that a change goes on, so that it is soon seen if it does not."""
        while True:
            await asyncio.sleep(self._renew_s)
            with contextlib.suppress(StoreAway, Changed):
                task = await self._tasks.get(task_id)
                if not _same(task, pending):
                    return
                await self._tasks.swap(task, replace(task, pending=replace(pending, at=now())))

    async def _change(self, task_id: int, kind: Kind, commit: Callable[[TaskDir, Path, Pending], bool]) -> None:
        marked = await self._begin(task_id, kind, wait_s=_WAIT_S)
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
            if not await self._undo(marked, source):
                raise
            return
        if not committed:
            raise Missing(f"There is no task {marked.id}.")
        await self._end(marked, pending.kind)

    async def _begin(self, task_id: int, kind: Kind, *, wait_s: float) -> Task:
        deadline = asyncio.get_running_loop().time() + wait_s
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
            if asyncio.get_running_loop().time() >= deadline:
                raise Conflict("The image of the task is just being changed; try again in a moment.")
            await asyncio.sleep(_POLL_S)

    async def _end(self, marked: Task, kind: Kind) -> None:
        state = states.INITIAL if kind == "delete" else states.UPLOADED
        try:
            await self._settle(marked, lambda task: runs.image_changed(task, now(), state))
        except StoreAway:
            # the commit is made, and counts: the reconciler writes the rest, and an error would make people repeat it
            log.warning("image change not noted yet", task=marked.id)

    async def _undo(self, marked: Task, source: Path) -> bool:
        """Take back what was begun; tells whether it was committed all the same, as after an error of the volume."""
        await asyncio.to_thread(self._root.trash, source)
        return await self._finish(marked)

    async def _finish(self, marked: Task) -> bool:
        """End a change that cannot be committed any more, as the folder says: done, or never begun."""
        pending = marked.pending
        if pending is None:
            return False
        manifest = await asyncio.to_thread(self._root.task(marked.id).manifest, _name_of(pending))
        if manifest is not None:
            await self._end(marked, pending.kind)
            return True
        await self._settle(marked, lambda task: replace(task, pending=None))
        return False

    async def _settle(self, marked: Task, change: Callable[[Task], Task]) -> None:
        """Write the end of a change; its name or config may have been edited since it began."""
        task: Task | None = marked
        while _same(task, marked.pending):
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
            # from here on it cannot be committed any more, nor begun by a gateway that was frozen
            await asyncio.to_thread(self._root.occupy, self._root.incoming(pending.source))
            log.warning("interrupted image change", task=task.id, committed=await self._finish(task))
