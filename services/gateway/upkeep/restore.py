"""Restores a backup into an empty installation."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from shared.taskdir import BadName

from ..domain.errors import Conflict, Invalid
from ..storage.dump import OF_TASKS, OTHERS, TASKS, Dump
from .backup import FILES, Summary, copy
from .site import Site

_PIECE = 4 * 2**20


async def restore(site: Site, source: Path) -> Summary:
    """Bring back store and files; gateways may run, as long as nobody works with them.

    Everything is read and compared with its digests before anything is changed.

    Raises
    ------
    Invalid
        When there is no backup, or it is damaged.
    Conflict
        When the installation is not empty.
    """
    summary = Summary.load(source)
    dump = Dump(site.store)
    if await asyncio.to_thread(_has_files, site) or not await dump.is_empty():
        raise Conflict(
            "A backup is restored into an empty installation only: a store without users, presets and tasks, and a "
            "volume without tasks/ and presets/. Name another database and another folder, or empty these."
        )
    await asyncio.to_thread(_verify, source, summary)
    task_ids = [dump.id_of(line) for line in _lines(source, TASKS)]
    await asyncio.to_thread(_copy_files, site, source, task_ids)
    # the files first: a run that is still active goes on as soon as its task is there
    for name in (*OTHERS, *OF_TASKS, TASKS):
        for line in _lines(source, name):
            await dump.write(name, line)
    return summary


def _has_files(site: Site) -> bool:
    presets = site.data_dir / "presets"
    return any(entry.name.isdecimal() for entry in site.root.path.iterdir()) or (
        presets.is_dir() and any(presets.iterdir())
    )


def _verify(source: Path, summary: Summary) -> None:
    files = 0
    for path, size, digest in _files(source):
        found, read = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    found.update(piece)
                    read += len(piece)
        except OSError:
            raise Invalid(f"The backup is damaged: {path} cannot be read.") from None
        if (read, found.hexdigest()) != (size, digest):
            raise Invalid(f"The backup is damaged: {path} is not what was backed up.")
        files += 1
    for name, count in summary.counts.items():
        if sum(1 for _ in _lines(source, name)) != count:
            raise Invalid(f"The backup is damaged: store/{name}.jsonl has not its {count} lines.")
    if files != summary.files:
        raise Invalid(f"The backup is damaged: it lists {files} files instead of {summary.files}.")


def _files(source: Path) -> Iterator[tuple[Path, int, str]]:
    try:
        with (source / FILES).open() as index:
            for line in index:
                name, size, digest = json.loads(line)
                if name.startswith("/") or ".." in name.split("/"):
                    raise BadName
                yield source / name, size, digest
    except (OSError, ValueError, TypeError, AttributeError):
        raise Invalid(f"The backup is damaged: {FILES} cannot be read.") from None


def _lines(source: Path, name: str) -> Iterator[str]:
    try:
        with (source / f"store/{name}.jsonl").open() as file:
            yield from (line for line in file if line.strip())
    except OSError:
        raise Invalid(f"The backup is damaged: store/{name}.jsonl cannot be read.") from None


def _copy_files(site: Site, source: Path, task_ids: list[int]) -> None:
    for task_id in task_ids:
        if (source / f"tasks/{task_id}").is_dir():
            site.root.task(task_id).create()
    (site.data_dir / "presets").mkdir(exist_ok=True)
    for path, _, _ in _files(source):
        target = site.data_dir / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as file:
            copy(file.read, target, path.stat())
    for task_id in task_ids:
        folder = site.root.task(task_id)
        if folder.exists():
            folder.tidy()
