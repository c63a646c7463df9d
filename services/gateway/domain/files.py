"""Files of a task: which may be changed when."""

import asyncio
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.taskdir import BadName, Commit, Entry, NotFound, TaskDir, TasksRoot, safe_parts, visible

from ..model import Task, now
from .errors import Conflict, Missing, NotAllowed
from .images import IMAGE, Images

INPUTS: Final = frozenset({IMAGE, "custom_mask.fits", "custom_template.fits", "custom_template_mask.fits"})

_PATIENCE_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.2
_SETTLED: Final = timedelta(seconds=60)
"""An NFS client may go on using what it knows of a folder for that long (`acdirmax`)."""


def _outputs() -> Iterator[str]:
    for step in STEPS.values():
        yield from step.files
        if step.log:
            yield step.log


_GUARDED: Final = INPUTS | {name.rstrip("/") for name in _outputs()}
_FOLDERS: Final = {name.rstrip("/") for name in _outputs() if name.endswith("/")}


def guarded(path: str) -> bool:
    """Tell whether steps read or make what has this path, or what is below or above it."""
    return path.split("/", 1)[0] in _GUARDED


def _below_a_file(path: str) -> bool:
    first, _, rest = path.partition("/")
    return bool(rest) and first in _GUARDED and first not in _FOLDERS


def _promised(folder: TaskDir, task: Task, path: str) -> bool:
    """Tell whether a commit of the last minute holds that file, or may hold it and cannot be seen yet."""
    try:
        name = "/".join(safe_parts(path))
    except BadName:
        return False
    fresh = {
        Commit(step.seq, STEPS[step.name].rank, step.name): step
        for step in (task.run.steps if task.run else ())
        if step.status in {StepStatus.DONE, StepStatus.FAILED} and step.ended and now() - step.ended < _SETTLED
    }
    for commit in visible({*fresh, *folder.commits()}):
        if commit in fresh:
            manifest = folder.manifest(commit)
            # a step may fail without a commit, and ends as done only with one
            unseen = manifest is None and fresh[commit].status is StepStatus.DONE
            if unseen or (manifest is not None and any(file.name == name for file in manifest.files)):
                return True
    return False


class Files:
    """Access to the files of tasks; the caller has checked that the user may."""

    def __init__(self, root: TasksRoot, images: Images) -> None:
        self._root = root
        self._images = images

    async def open(self, task: Task, path: str) -> int:
        """Open a file for reading; the caller closes the descriptor.

        On a shared volume a commit may be visible here a little later than the report of it: what it holds is waited
        for, up to 5 s.

        Raises
        ------
        Missing
            When there is no such file, or the path leads out of the task's folder.
        """
        folder = self._root.task(task.id)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fd, _ = await asyncio.to_thread(folder.open, path)
            except NotFound:
                if time.monotonic() > deadline or not await asyncio.to_thread(_promised, folder, task, path):
                    raise Missing("There is no such file.") from None
            else:
                return fd
            await asyncio.sleep(_LOOK_EVERY_S)

    async def list(self, task: Task, path: str) -> list[Entry] | None:
        """List a folder; None when it is none."""
        try:
            return await asyncio.to_thread(self._root.task(task.id).list, path)
        except NotFound:
            return None

    def check_name(self, task: Task, path: str) -> str:
        """Refuse a name that no file can have, or that may not be changed now.

        Raises
        ------
        Missing
            When the path leads out of the task's folder.
        Conflict
            When the task runs and steps read or make that file.
        """
        try:
            name = "/".join(safe_parts(path))
        except BadName as error:
            raise Missing(f"No file can have that name: {error}.") from None
        if task.running and guarded(name):
            raise Conflict("The task is running, and its steps use that file. Wait for its end, or cancel it.")
        return name

    async def put(self, task: Task, name: str, upload: Path) -> int:
        """Move an uploaded file in; the image as a change of the task. Returns its size in bytes."""
        if name == IMAGE:
            return await self._images.replace(task.id, upload)
        if _below_a_file(name):
            raise Missing(f"No file can have that name: {name.partition('/')[0]} is a file and not a folder.")
        try:
            return await asyncio.to_thread(self._root.task(task.id).put, name, upload)
        except BadName as error:
            raise Missing(f"No file can have that name: {error}.") from None
        except (NotFound, FileNotFoundError):
            raise Missing(f"There is no task {task.id}.") from None

    async def remove(self, task: Task, path: str) -> None:
        """Delete a file or folder.

        Raises
        ------
        NotAllowed
            For the task's folder itself.
        """
        if path.strip("/") in {"", "."}:
            raise NotAllowed("The folder of a task cannot be deleted; delete the task.")
        name = self.check_name(task, path)
        folder = self._root.task(task.id)
        try:
            if name == IMAGE:
                fd, _ = await asyncio.to_thread(folder.open, name)
                os.close(fd)
                await self._images.remove(task.id)
            else:
                await asyncio.to_thread(folder.remove, name)
        except NotFound:
            raise Missing("There is no such file.") from None
