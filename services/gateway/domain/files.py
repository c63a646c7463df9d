"""Files of a task: which may be changed when."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.contracts.steps import STEPS
from shared.taskdir import BadName, Entry, NotFound, TasksRoot, safe_parts

from ..model import Task
from .errors import Conflict, Missing, NotAllowed
from .images import IMAGE, Images

INPUTS: Final = frozenset({IMAGE, "custom_mask.fits", "custom_template.fits", "custom_template_mask.fits"})


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


class Files:
    """Access to the files of tasks; the caller has checked that the user may."""

    def __init__(self, root: TasksRoot, images: Images) -> None:
        self._root = root
        self._images = images

    async def open(self, task: Task, path: str) -> int:
        """Open a file for reading; the caller closes the descriptor.

        Raises
        ------
        Missing
            When there is no such file, or the path leads out of the task's folder.
        """
        try:
            fd, _ = await asyncio.to_thread(self._root.task(task.id).open, path)
        except NotFound:
            raise Missing("There is no such file.") from None
        return fd

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
