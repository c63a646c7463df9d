"""From what a step left in its folder to a manifest, and from a manifest to a report."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..contracts.messages import FileInfo, StepDone, StepFailed, StepMessage
from ..contracts.steps import Step
from ..taskdir import Commit, Manifest, TaskDir
from ..taskdir.disk import delete


def keep_only(work: Path, names: tuple[str, ...]) -> tuple[FileInfo, ...]:
    """Drop everything but regular files that have one of the names, or are below one that ends in a slash.

    What stays is written to the disk, so that a machine that loses its power keeps no commit with empty files.

    Returns
    -------
    tuple
        What is left, by name.
    """
    folders = tuple(name for name in names if name.endswith("/"))
    kept = []
    for folder, subfolders, files in os.walk(work):
        for name in [*subfolders, *files]:
            path = Path(folder) / name
            relative = path.relative_to(work).as_posix()
            if path.is_dir() and not path.is_symlink():
                if not f"{relative}/".startswith(folders):
                    subfolders.remove(name)
                    delete(path)
            elif path.is_symlink() or not path.is_file() or not (relative in names or relative.startswith(folders)):
                path.unlink()
            else:
                kept.append(FileInfo(name=relative, size=_sync(path)))
    return tuple(sorted(kept, key=lambda info: info.name))


def _sync(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def report_of(manifest: Manifest, message: StepMessage, worker: str) -> StepDone | StepFailed:
    """Say what a commit says."""
    common: dict[str, Any] = {
        "task_id": message.task_id,
        "run_id": manifest.run_id,
        "at": datetime.now(UTC),
        "step_id": manifest.step_id,
        "step": manifest.step,
        "attempt": manifest.attempt,
        "worker": worker,
        "files": manifest.files,
        "seconds": manifest.seconds,
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "repeats": manifest.repeats,
    }
    if manifest.outcome == "done":
        return StepDone(**common, computed=manifest.computed)
    return StepFailed(**common, code=manifest.code, error=manifest.error)


def names_to_keep(step: Step, *, done: bool) -> tuple[str, ...]:
    """List what a commit of the step may hold: a failed step leaves its log only."""
    logs = () if step.log is None else (step.log,)
    return (*step.files, *logs) if done else logs


def past_report(task: TaskDir, message: StepMessage, step: Step, worker: str) -> StepDone | StepFailed | None:
    """Read the report of an attempt that has committed; None when none has."""
    manifest = task.manifest(Commit(message.seq, step.rank, step.name))
    if manifest is None or manifest.step_id != message.step_id:
        return None
    return report_of(manifest, message, worker)
