"""Folders without a task: what a gateway leaves that dies while it makes or deletes one.

Only a folder that says of itself that it may have no task is ever swept: a store that is empty, or another one, by a
wrong setting or after a loss, must not cost people their files.
"""

import contextlib
from typing import Final

from shared.taskdir import TaskDir, TasksRoot

_MARK: Final = ".unowned"


def disown(folder: TaskDir) -> None:
    """Note, before it is so, that the folder has no task; one that has gone needs no note."""
    with contextlib.suppress(FileNotFoundError):
        (folder.path / _MARK).touch()


def own(folder: TaskDir) -> None:
    """Note that the folder has a task; the note left behind does no harm, as long as it has."""
    with contextlib.suppress(OSError):
        (folder.path / _MARK).unlink()


def suspects(root: TasksRoot, before: float) -> list[int]:
    """List the tasks that may be none, by their folders unchanged since `before`, seconds since the epoch."""
    return [task_id for task_id in root.ids(before) if (root.task(task_id).path / _MARK).exists()]
