"""The flat view of a task: hard links beside the hidden folders, for people who mount the volume."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path

from .layers import at


def rebuild_view(task: Path, layers: list[Path]) -> None:
    """Make the visible part of a task's folder show just the files of `layers`, the first layer winning.

    Derived and idempotent: two that rebuild at once may leave one file behind or missing, which the next one mends.
    """
    wanted: dict[str, Path] = {}
    for layer in reversed(layers):
        wanted.update(_files(layer))
    shown = dict(_files(task))
    for name, path in shown.items():
        if name not in wanted:
            path.unlink(missing_ok=True)
    for name, source in wanted.items():
        target = task / name
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, FileExistsError):
            if name in shown and target.stat().st_ino == source.stat().st_ino:
                continue
            _link(source, target, task)
    _drop_empty(task)


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                below = _files(Path(entry.path))
                found.update({f"{entry.name}/{name}": path for name, path in below.items()})
            elif entry.is_file(follow_symlinks=False):
                found[entry.name] = Path(entry.path)
    return found


def _link(source: Path, target: Path, task: Path) -> None:
    *parents, name = target.relative_to(task).parts
    _clear(task, parents)
    if not parents and target.is_dir() and not target.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
    temporary = task / f".view.{uuid.uuid4().hex}"
    os.link(source, temporary, follow_symlinks=False)
    try:
        # a link that somebody puts in the way must not lead us out of the task
        with at(task, tuple(parents), make=True) as folder:
            os.rename(temporary, name, dst_dir_fd=folder)
    finally:
        temporary.unlink(missing_ok=True)


def _clear(task: Path, parents: list[str]) -> None:
    place = task
    for part in parents:
        place /= part
        if place.is_symlink() or place.is_file():
            place.unlink(missing_ok=True)
            return


def _drop_empty(task: Path) -> None:
    for entry in list(os.scandir(task)):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            for folder, _, _ in os.walk(entry.path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
