"""What the folder of a task holds, beside what the store says of it."""

import contextlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from shared.contracts import states
from shared.contracts.states import StepStatus
from shared.contracts.steps import IMAGE_RANK, STEPS
from shared.taskdir import Commit, Manifest, TaskDir
from shared.taskdir.folder import INPUTS, RESULTS, WORK

from ..model import Task, now

LOST: Final = "lost"


@dataclass(frozen=True)
class FolderState:
    """What is odd about a folder.

    Parameters
    ----------
    missing
        There is none.
    damaged
        Commits whose manifest cannot be read.
    lost
        Steps that the store counts as done and that have left no commit.
    unknown
        Commits with numbers that the store has not given.
    left
        Scratch of attempts that are over.
    left_bytes
        Its size; None when there is none.
    view
        Names in the visible part of the folder that are not, or not those, in the commits and inputs.
    """

    missing: bool = False
    damaged: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    left: tuple[Path, ...] = ()
    left_bytes: int | None = None
    view: tuple[str, ...] = ()


def look(folder: TaskDir, task: Task, settle_s: float) -> FolderState:
    """Compare a folder with the task; scratch that was changed so lately, seconds, may still be cleaned up."""
    if not folder.exists():
        return FolderState(missing=True)
    commits = folder.commits()
    left = leftovers(folder, task, settle_s)
    return FolderState(
        damaged=tuple(commit.folder for commit in commits if _manifest(folder, commit) is None),
        lost=tuple(_lost(task, commits)),
        unknown=tuple(commit.folder for commit in commits if commit.seq > task.seq),
        left=left,
        left_bytes=sum(size_of(path) for path in left) if left else None,
        view=() if task.running or task.pending else tuple(_odd_in_view(folder, commits)),
    )


def _manifest(folder: TaskDir, commit: Commit) -> Manifest | None:
    try:
        return folder.manifest(commit)
    except ValidationError:
        return None


def _lost(task: Task, commits: list[Commit]) -> list[str]:
    """Name the steps of the last run whose commit is neither there nor hidden by a later one."""
    if task.run is None:
        return []
    found = []
    for step in task.run.steps:
        rank = STEPS[step.name].rank
        commit = Commit(step.seq, rank, step.name)
        hidden = any(other.seq > step.seq and other.rank <= rank for other in commits)
        if step.status is StepStatus.DONE and commit not in commits and not hidden:
            found.append(step.name)
    return found


def leftovers(folder: TaskDir, task: Task, settle_s: float) -> tuple[Path, ...]:
    """List the folders of attempts at runs that are over, unchanged for so many seconds."""
    active = task.run.id if task.run and task.run.active else None
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder.path / WORK):
            with contextlib.suppress(FileNotFoundError):
                fresh = time.time() - entry.stat(follow_symlinks=False).st_ctime < settle_s
                # a file marks a run as closed, and stays
                if entry.is_dir(follow_symlinks=False) and entry.name != active and not fresh:
                    found.append(Path(entry.path))
    return tuple(found)


def size_of(path: Path) -> int:
    """Measure a file or folder, bytes; what goes meanwhile counts nothing."""
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _odd_in_view(folder: TaskDir, commits: list[Commit]) -> list[str]:
    wanted: dict[str, int] = {}
    for layer in [folder.path / INPUTS, *(folder.path / RESULTS / commit.folder for commit in reversed(commits))]:
        wanted.update(_inodes(layer))
    shown = _inodes(folder.path)
    return sorted(name for name in wanted.keys() | shown.keys() if wanted.get(name) != shown.get(name))


def _inodes(layer: Path) -> dict[str, int]:
    found = {}
    for parent, folders, names in os.walk(layer):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent) / name
            with contextlib.suppress(OSError):
                if not name.startswith(".") and not path.is_symlink():
                    found[path.relative_to(layer).as_posix()] = path.lstat().st_ino
    return found


def rebuilt(folder: TaskDir, task: Task) -> Task:
    """Give the task as its commits say that it is: what a store that is older than the files does not know."""
    commits = folder.commits()
    computed: dict[str, dict[str, Any]] = {}
    state, error = states.INITIAL, None
    for commit in reversed(commits):
        manifest = _manifest(folder, commit)
        if manifest is None:
            continue
        if commit.rank == IMAGE_RANK:
            state, error = (states.INITIAL if commit.step == "delete" else states.UPLOADED), None
        elif commit.step in STEPS:
            row = STEPS[commit.step]
            done = manifest.outcome == "done"
            state, error = (states.done(row.state), None) if done else (states.failed(row.state), manifest.error)
            if done:
                computed[commit.step] = manifest.computed
    seq = max([task.seq, *(commit.seq for commit in commits)])
    return replace(task, seq=seq, state=state, error=error, computed=computed, modified=now())


def set_apart(data_dir: Path, folder: TaskDir) -> bool:
    """Move a folder to where nothing of ours looks. Returns whether there was one."""
    place = data_dir / LOST
    place.mkdir(exist_ok=True)
    try:
        folder.path.rename(place / f"{folder.task_id}-{time.time_ns()}")
    except FileNotFoundError:
        return False
    return True
