"""Backups of store and files, while everything goes on.

The consistent point is each task's own. A task's document is read first and its files after it, of the commits only
those whose numbers the document knows; a commit is one rename and nobody writes into its files, so that they are the
ones that the document tells of. When a commit is swept while it is copied, the task is read anew. A task with an
active run goes on after a restore as after a crash: what it has committed counts, and its current step is published
again. So a backup holds everything that was answered before it began; of what came later it may hold some, task by
task whole.
"""

import asyncio
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TextIO

from shared.taskdir import Commit, TaskDir, visible
from shared.taskdir.folder import INPUTS, RESULTS

from ..domain.errors import Conflict, Invalid
from ..domain.runs import VERSION
from ..model import Task, now
from ..storage.dump import OF_TASKS, OTHERS, TASKS, Dump
from .site import Site

FORMAT: Final = 1
INDEX: Final = "backup.json"
FILES: Final = "files.jsonl"
_TRIES: Final = 20
_PIECE: Final = 4 * 2**20


@dataclass(frozen=True)
class Summary:
    """What a backup holds."""

    made: datetime
    version: str
    counts: dict[str, int]
    files: int
    size_bytes: int

    def dump(self) -> str:
        """Write it."""
        facts: dict[str, Any] = {"format": FORMAT, "made": self.made.isoformat(), "version": self.version}
        return json.dumps(
            {**facts, "counts": self.counts, "files": self.files, "size_bytes": self.size_bytes}, indent=2
        )

    @classmethod
    def load(cls, folder: Path) -> "Summary":
        """Read it.

        Raises
        ------
        Invalid
            When the folder holds no backup that this version reads.
        """
        try:
            facts = json.loads((folder / INDEX).read_text())
            known = facts["format"]
            if known == FORMAT:
                made = datetime.fromisoformat(facts["made"])
                return cls(made, facts["version"], facts["counts"], facts["files"], facts["size_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            raise Invalid(
                f"{folder} holds no backup, or one that is not whole: {INDEX} is missing or damaged."
            ) from None
        raise Invalid(f"The backup in {folder} has the format {known}; this version reads {FORMAT}.")


class Copies:
    """Copies of files, with their sizes and digests.

    Parameters
    ----------
    target
        The backup's folder.
    index
        Where files are noted.
    """

    def __init__(self, target: Path, index: TextIO) -> None:
        self._target = target
        self._index = index
        self.files = 0
        self.size_bytes = 0

    def trees(self, places: Iterable[tuple[Path, str]]) -> None:
        """Copy the regular files below folders, and note all of them, or none.

        Raises
        ------
        FileNotFoundError
            When a folder has gone, or a file in it.
        """
        noted = [file for source, place in places for file in _copied(source, self._target, place)]
        for path, size, digest in noted:
            self._index.write(json.dumps([path, size, digest]) + "\n")
            self.files += 1
            self.size_bytes += size


def _copied(source: Path, target: Path, place: str) -> Iterator[tuple[str, int, str]]:
    def fail(error: OSError) -> None:
        raise error

    (target / place).mkdir(parents=True, exist_ok=True)
    for folder, _, names, fd in os.fwalk(source, onerror=fail):
        relative = os.path.normpath(os.path.join(place, os.path.relpath(folder, source)))
        (target / relative).mkdir(parents=True, exist_ok=True)
        for name in sorted(names):
            if stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                path = os.path.join(relative, name)
                with open(opened, "rb") as original:
                    yield path, *copy(original.read, target / path, os.fstat(opened))


def copy(read: Callable[[int], bytes], target: Path, status: os.stat_result) -> tuple[int, str]:
    """Write a file, with the time of its last change; gives size and digest."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while piece := read(_PIECE):
            digest.update(piece)
            size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    return size, digest.hexdigest()


async def back_up(site: Site, target: Path) -> Summary:
    """Make a backup in a new folder, which appears whole.

    Raises
    ------
    Invalid
        When there is something of that name.
    """
    fresh = await asyncio.to_thread(_begin, target)
    made, dump = now(), Dump(site.store)
    counts: dict[str, int] = {}
    with (fresh / FILES).open("w") as index:
        copies = Copies(fresh, index)
        kept: set[int] = set()
        with (fresh / f"store/{TASKS}.jsonl").open("w") as file:
            for task_id in await dump.task_ids():
                line = await _copy_task(site, dump, task_id, copies, fresh)
                if line is not None:
                    file.write(line + "\n")
                    kept.add(task_id)
        counts[TASKS] = len(kept)
        for name in (*OF_TASKS, *OTHERS):
            with (fresh / f"store/{name}.jsonl").open("w") as file:
                counts[name] = 0
                async for line in dump.lines(name, kept.__contains__ if name in OF_TASKS else None):
                    file.write(line + "\n")
                    counts[name] += 1
        places = [(site.data_dir / f"presets/{preset.id}", preset) for preset in await site.users.presets()]
        # one without files has no folder
        trees = [(folder, f"presets/{preset.id}") for folder, preset in places if preset.files]
        await asyncio.to_thread(copies.trees, trees)
    summary = Summary(made, VERSION, counts, copies.files, copies.size_bytes)
    (fresh / INDEX).write_text(summary.dump())
    fresh.rename(target)  # an empty folder of that name is replaced
    return summary


def _begin(target: Path) -> Path:
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Invalid(f"{target} exists; name a new folder for the backup.")
    fresh = target.with_name(f".{target.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700, parents=True)  # it holds hashes of passwords and tokens
    (fresh / "store").mkdir()
    return fresh


async def _copy_task(site: Site, dump: Dump, task_id: int, copies: Copies, fresh: Path) -> str | None:
    folder = site.root.task(task_id)
    for _ in range(_TRIES):
        read = await dump.task(task_id)
        if read is None:
            return None
        line, task = read
        try:
            await asyncio.to_thread(_copy_folder, folder, task, copies)
        except FileNotFoundError:  # swept, replaced or deleted meanwhile
            await asyncio.to_thread(shutil.rmtree, fresh / f"tasks/{task_id}", ignore_errors=True)
            if not await asyncio.to_thread(folder.exists) and await dump.task(task_id) is not None:
                return line  # its files were lost long ago
            continue
        return line
    raise Conflict(f"The files of task {task_id} change all the time; try again when it is quiet.")


def _copy_folder(folder: TaskDir, task: Task, copies: Copies) -> None:
    known = visible(commit for commit in _commits(folder) if commit.seq <= task.seq)
    sources = [folder.path / INPUTS, *(folder.path / RESULTS / commit.folder for commit in known)]
    copies.trees((source, f"tasks/{folder.task_id}/{source.relative_to(folder.path)}") for source in sources)


def _commits(folder: TaskDir) -> list[Commit]:
    return [commit for name in os.listdir(folder.path / RESULTS) if (commit := Commit.parse(name))]
