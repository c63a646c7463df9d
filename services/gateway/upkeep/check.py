"""Finds what store, files and queues do not agree on, and mends what is safe to mend."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from shared.taskdir import TaskDir

from ..model import Task
from ..storage import Changed, Shelved
from .findings import Finding
from .folders import FolderState, look, rebuilt, set_apart
from .runs import check_runs
from .site import Site

_FRESH_S: Final = 3600.0  # a folder may be without its task for as long as an upload takes
_SETTLE_S: Final = 60.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Mended:
    """What became of a finding: True when it was mended, None when that was not tried."""

    finding: Finding
    done: bool | None


async def check(
    site: Site, *, queues: bool = True, fresh_s: float = _FRESH_S, settle_s: float = _SETTLE_S
) -> AsyncIterator[Finding]:
    """Look at everything.

    Parameters
    ----------
    queues
        Whether also active runs are looked at, for which the broker is asked.
    fresh_s
        Folders that were changed so lately are not missed a task, seconds.
    settle_s
        Scratch that was changed so lately may still be cleaned up by whoever made it, seconds.
    """
    known: set[int] = set()
    active: list[Task] = []
    async for task, marked in site.upkeep.tasks():
        known.add(task.id)
        if task.running:
            active.append(task)
        if not marked:
            yield Finding(
                "mark",
                f"task {task.id}",
                "it cannot be found among the tasks that are active, or in its state",
                "write its mark anew",
                partial(site.upkeep.set_mark, task),
            )
        for finding in await _check_folder(site, task, settle_s):
            yield finding
    for finding in await _check_strays(site, known, fresh_s):
        yield finding
    async for finding in _check_shelves(site):
        yield finding
    for finding in await _check_people(site):
        yield finding
    if queues:
        for finding in await check_runs(site, active):
            yield finding


async def mend(found: AsyncIterator[Finding]) -> AsyncIterator[Mended]:
    """Mend what was found, as far as that is safe."""
    async for finding in found:
        if finding.mend is None:
            yield Mended(finding, None)
            continue
        done = await finding.mend()
        log.info("mended", kind=finding.kind, subject=finding.subject, done=done)
        yield Mended(finding, done)


# ---- files


async def _check_folder(site: Site, task: Task, settle_s: float) -> list[Finding]:
    folder = site.root.task(task.id)
    state = await asyncio.to_thread(look, folder, task, settle_s)
    if state.missing:
        return [
            Finding(
                "folder",
                f"task {task.id}",
                "its folder is missing, with all its files",
                "restore the folder from a backup, or delete the task",
            )
        ]
    found = [
        Finding("commit", f"task {task.id}", f"the manifest of {name} cannot be read", "restore it from a backup")
        for name in state.damaged
    ]
    found += [
        Finding(
            "results",
            f"task {task.id}",
            f"the results of {name}, which the store counts as done, are missing",
            "restore them from a backup, or run the step again",
        )
        for name in state.lost
    ]
    if state.unknown and not task.running and task.pending is None:
        found.append(
            Finding(
                "commit",
                f"task {task.id}",
                f"the store knows nothing of what was committed: {', '.join(state.unknown)}",
                "take it in: number, state and computed values as the files say",
                partial(_take_in, site, task),
            )
        )
    if state.left_bytes is not None:
        found.append(
            Finding(
                "scratch",
                f"task {task.id}",
                f"attempts that are over have left {state.left_bytes} bytes",
                "delete them",
                partial(_clear, folder, state),
            )
        )
    if state.view:
        found.append(
            Finding(
                "view",
                f"task {task.id}",
                f"the visible part of its folder differs from its files: {', '.join(state.view[:3])}",
                "build it anew",
                partial(_tidy, folder),
            )
        )
    return found


async def _take_in(site: Site, task: Task) -> bool:
    new = await asyncio.to_thread(rebuilt, site.root.task(task.id), task)
    try:
        await site.tasks.swap(task, new)
    except Changed:
        return False
    return True


async def _clear(folder: TaskDir, state: FolderState) -> bool:
    for path in state.left:
        await asyncio.to_thread(folder.root.trash, path)
    return True


async def _tidy(folder: TaskDir) -> bool:
    await asyncio.to_thread(folder.tidy)
    return True


async def _check_strays(site: Site, known: set[int], fresh_s: float) -> list[Finding]:
    ids = await asyncio.to_thread(site.root.ids, time.time() - fresh_s)
    strays = sorted(set(ids) - known)
    strays = [task_id for task_id in strays if task_id not in await site.tasks.existing(strays)]
    other_store = not known and bool(strays)
    remedy = "move it to lost/ on the volume, for people to look at"
    if other_store:
        remedy = "nothing: the store holds no task at all, and may be the wrong one"
    found = [
        Finding(
            "folder",
            f"folder {task_id}",
            "there is no such task",
            remedy,
            None if other_store else partial(_set_apart, site, task_id),
        )
        for task_id in strays
    ]
    found += [
        Finding(
            "history",
            f"task {task_id}",
            "there are runs of it, but no task",
            "delete them",
            partial(_forget, site, task_id),
        )
        for task_id in await site.upkeep.stray_runs(known)
    ]
    for name, least in (
        ("tasks", max([await site.upkeep.highest("tasks"), *ids])),
        ("presets", await site.upkeep.highest("presets")),
    ):
        last = await site.upkeep.counter(name)
        if last < least:
            found.append(
                Finding(
                    "counter",
                    name,
                    f"the next id would be {last + 1}, but {least} is in use",
                    "go on behind it",
                    partial(_raise, site, name, least),
                )
            )
    return found


async def _set_apart(site: Site, task_id: int) -> bool:
    if await site.tasks.existing([task_id]):
        return False
    return await asyncio.to_thread(set_apart, site.data_dir, site.root.task(task_id))


async def _forget(site: Site, task_id: int) -> bool:
    if await site.tasks.existing([task_id]):
        return False
    await site.upkeep.forget_runs(task_id)
    return True


async def _raise(site: Site, name: str, least: int) -> bool:
    await site.upkeep.raise_counter(name, least)
    return True


# ---- listings and people


async def _check_shelves(site: Site) -> AsyncIterator[Finding]:
    shelving = await site.upkeep.shelving()
    for place in shelving.empty:
        if not await asyncio.to_thread(site.root.task(place.task_id).exists) or await site.tasks.existing(
            [place.task_id]
        ):
            yield Finding(
                "listing",
                f"task {place.task_id}",
                f"it is listed among those of {place.user}, where it is not, or is twice",
                "take it off",
                partial(_unshelve, site, place),
            )
    for task in shelving.missing:
        yield Finding("listing", f"task {task.id}", "no listing shows it", "list it", partial(_shelve, site, task))
    for task in shelving.stale:
        yield Finding(
            "listing",
            f"task {task.id}",
            "searches find it by other words than its own",
            "write them anew",
            partial(_rewrite, site, task),
        )


async def _unshelve(site: Site, place: Shelved) -> bool:
    await site.upkeep.unshelve(place)
    return True


async def _shelve(site: Site, task: Task) -> bool:
    if not await site.tasks.existing([task.id]):
        return False
    await site.upkeep.shelve(task)
    return True


async def _rewrite(site: Site, task: Task) -> bool:
    seen = await site.tasks.get(task.id)
    if seen is None:
        return False
    await site.upkeep.rewrite(replace(task, title=seen.title, groups=seen.groups, original_name=seen.original_name))
    return True


async def _check_people(site: Site) -> list[Finding]:
    names = {user.name for user in await site.users.all()}
    found = [
        Finding(
            "owner", f"user {name}", "there are tasks of this user, but no such user", f"add it: stdweb user add {name}"
        )
        for name in sorted(await site.upkeep.owners() - names)
    ]
    for preset in await site.users.presets():
        folder = site.data_dir / "presets" / str(preset.id)
        missing = [name for name in preset.files if not (folder / name).is_file()]
        if missing:
            found.append(
                Finding(
                    "preset",
                    f"preset {preset.id}",
                    f"its files are missing: {', '.join(missing)}",
                    "restore them from a backup",
                )
            )
    return found
