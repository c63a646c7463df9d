"""Deletes what nobody needs any more: what was set aside, left behind, or can be made again."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.taskdir import Commit, TaskDir, visible
from shared.taskdir.disk import delete
from shared.taskdir.folder import RESULTS

from ..model import Task
from .folders import leftovers, size_of
from .site import Site


@dataclass(frozen=True)
class Expired:
    """What was, or would be, deleted of one kind."""

    kind: str
    number: int
    size_bytes: int


@dataclass(frozen=True)
class Ages:
    """From which age on things are deleted, seconds.

    Parameters
    ----------
    scratch_s
        What was set aside, uploads that nobody finished, and what attempts have left.
    cache_s
        Pictures and answers of archives that were not made, or used, since.
    """

    scratch_s: float = 86400
    cache_s: float = 30 * 86400


async def expire(site: Site, ages: Ages, *, dry_run: bool = False) -> list[Expired]:
    """Delete what is old.

    Parameters
    ----------
    dry_run
        Only count.
    """
    at = time.time()
    kinds = {
        "set aside": _old(site.root.path / ".trash", at - ages.scratch_s),
        "unfinished uploads": _old(site.root.path / ".incoming", at - ages.scratch_s),
        "unfinished pictures and answers": [],
        "cache": [],
        "scratch of runs that are over": [],
        "results that later ones hide": [],
    }
    for path in await asyncio.to_thread(_cached, site.data_dir / "cache", at - min(ages.scratch_s, ages.cache_s)):
        unfinished = path.name.startswith(".")
        age_s = at - path.lstat().st_mtime
        if age_s > (ages.scratch_s if unfinished else ages.cache_s):
            kinds["unfinished pictures and answers" if unfinished else "cache"].append(path)
    async for task, _ in site.upkeep.tasks():
        folder = site.root.task(task.id)
        left = await asyncio.to_thread(leftovers, folder, task, ages.scratch_s)
        kinds["scratch of runs that are over"] += left
        kinds["results that later ones hide"] += await asyncio.to_thread(_hidden, folder, task)
    return [await asyncio.to_thread(_drop, kind, paths, dry_run=dry_run) for kind, paths in kinds.items()]


def _old(folder: Path, before: float) -> list[Path]:
    found = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat(follow_symlinks=False).st_ctime < before:
                found.append(Path(entry.path))
    return found


def _cached(folder: Path, before: float) -> list[Path]:
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < before:
                    found.append(path)
    return found


def _hidden(folder: TaskDir, task: Task) -> list[Path]:
    """List commits that later ones hide, and that whoever made those has not swept."""
    if task.running or task.pending is not None:
        return []
    try:
        names = os.listdir(folder.path / RESULTS)
    except FileNotFoundError:
        return []
    commits = [commit for name in names if (commit := Commit.parse(name))]
    return [folder.path / RESULTS / commit.folder for commit in set(commits) - set(visible(commits))]


def _drop(kind: str, paths: Iterable[Path], *, dry_run: bool) -> Expired:
    number = size = 0
    for path in paths:
        size += size_of(path)
        number += 1
        if not dry_run:
            with contextlib.suppress(FileNotFoundError):
                delete(path)
    return Expired(kind, number, size)
