"""Takes users, presets and tasks over from an old STDWeb installation, with their ids and files."""

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ..domain import orphans
from ..domain.errors import Conflict, Invalid
from ..domain.passwords import taken_over
from ..domain.presets import PresetFiles
from ..model import Preset, User, now
from ..storage import Duplicate
from .old_site import OldPreset, OldSite, OldTask, OldUser, read
from .old_tasks import converted, files_of, fill, sound
from .site import Site

_MAX_NAME: Final = 150


@dataclass(frozen=True)
class Source:
    """Where the old installation is.

    Parameters
    ----------
    database
        Its SQLite file, or JSON of `dumpdata`.
    tasks
        Folder with the folders of its tasks.
    data
        Its data folder, to which paths of presets' files are relative; None when there is none.
    link
        Whether files on the same volume may be shared with it, instead of being copied.
    """

    database: Path
    tasks: Path
    data: Path | None = None
    link: bool = False


@dataclass
class Imported:
    """What was, or would be, taken over.

    Parameters
    ----------
    notes
        What people should know.
    """

    users: int = 0
    tokens: int = 0
    presets: int = 0
    tasks: int = 0
    there: int = 0
    files: int = 0
    size_bytes: int = 0
    notes: list[str] = field(default_factory=list)


async def import_site(site: Site, source: Source, *, dry_run: bool = False) -> Imported:
    """Take everything over; what an earlier call has taken over is left as it is.

    Raises
    ------
    Invalid
        When there is no such installation.
    Conflict
        When ids are in use here for something else; nothing has changed then.
    """
    old = await asyncio.to_thread(read, source.database)
    if not await asyncio.to_thread(source.tasks.is_dir):
        raise Invalid(f"There is no folder {source.tasks} with the tasks of the old installation.")
    done = Imported()
    there = await _there(site, old)
    if not dry_run:
        await site.users.make_groups([_group(name) for name in old.groups])
    for user in old.users:
        await _take_user(site, user, done, dry_run=dry_run)
    for preset in old.presets:
        if await site.users.preset(preset.id) is None:
            await _take_preset(site, source, preset, done, dry_run=dry_run)
    for task in old.tasks:
        if task.id in there:
            done.there += 1
        else:
            await _take_task(site, source, task, done, dry_run=dry_run)
    if not dry_run:
        await site.upkeep.raise_counter("tasks", max((task.id for task in old.tasks), default=0))
        await site.upkeep.raise_counter("presets", max((preset.id for preset in old.presets), default=0))
    return done


async def _there(site: Site, old: OldSite) -> set[int]:
    """List the tasks that were taken over before, and refuse ids that are somebody else's."""
    there, wrong = set(), []
    for task in old.tasks:
        seen = await site.tasks.get(task.id)
        if seen is not None and (seen.user, seen.created) == (task.user, task.created):
            there.add(task.id)
        elif seen is not None or await asyncio.to_thread(site.root.task(task.id).exists):
            wrong.append(f"task {task.id}")
    for preset in old.presets:
        known = await site.users.preset(preset.id)
        if known is not None and known.name != preset.name:
            wrong.append(f"preset {preset.id}")
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")  # noqa: PLR2004
        raise Conflict(
            f"These ids are in use here already: {shown}. Ids are kept, so take an old installation over first, before "
            "anybody makes tasks."
        )
    return there


def _group(name: str) -> str:
    return "".join(char if char.isprintable() and char != "," else " " for char in name)[:_MAX_NAME].strip() or "group"


async def _take_user(site: Site, old: OldUser, done: Imported, *, dry_run: bool) -> None:
    name = old.name
    if not name or len(name) > _MAX_NAME or not name.isprintable() or "|" in name or name != name.strip():
        done.notes.append(
            f"user {name!r}: such a name is not allowed here; it was left out, and its tasks have no owner"
        )
        return
    hashed = taken_over(old.password) if old.is_active else None
    if not old.is_active:
        done.notes.append(f"user {name}: was not active, and cannot log in here either")
    elif hashed is None:
        done.notes.append(
            f"user {name}: the password cannot be verified here; set a new one: stdweb user passwd {name}"
        )
    user = User(name, old.is_staff, frozenset(map(_group, old.groups)), frozenset(old.grants))
    if dry_run:
        done.users += await site.users.get(name) is None
    else:
        try:
            await site.users.add(user, hashed, now())
        except Duplicate:
            if await site.users.password(name) != hashed:
                done.notes.append(f"user {name}: is here already, and stays as it is")
        else:
            done.users += 1
    digest = hashlib.sha256((old.token or "").encode()).hexdigest()
    if old.token and old.is_active and await site.users.token(digest) is None:
        if not dry_run:
            await site.users.add_token(digest, name, now())
        done.tokens += 1


async def _take_preset(site: Site, source: Source, old: OldPreset, done: Imported, *, dry_run: bool) -> None:
    config, bad = sound(old.config)
    if bad:
        done.notes.append(f"preset {old.id}: these keys are not allowed here, and were left out: {', '.join(bad)}")
    folder, files = PresetFiles(site.data_dir), list[Path]()
    for line in old.files:
        # an absolute path stays what it is
        path = (source.data or Path()) / line
        try:
            await asyncio.to_thread(folder.names, [*files, path])
        except Invalid as error:
            done.notes.append(f"preset {old.id}: {line} was left out: {error}")
        else:
            files.append(path)
    preset = Preset(old.id, old.name, config, tuple(path.name for path in files))
    if not dry_run:
        if files:
            await asyncio.to_thread(folder.drop, old.id)  # of an import that was cut off
            await asyncio.to_thread(folder.keep, old.id, files)
        await site.users.add_preset(preset)
    done.presets += 1


async def _take_task(site: Site, source: Source, old: OldTask, done: Imported, *, dry_run: bool) -> None:
    place = source.tasks / str(old.id)
    files, left = await asyncio.to_thread(files_of, place)
    task, notes = converted(old, files)
    task = replace(task, groups=tuple(dict.fromkeys(map(_group, old.groups))))
    if left:
        notes.append(f"links, and files with names that are not allowed here, were left out: {', '.join(left[:5])}")
    if not await asyncio.to_thread(place.is_dir):
        notes.append(f"it has no folder in {source.tasks}")
    done.notes += [f"task {old.id}: {note}" for note in notes]
    if not dry_run:
        folder = site.root.task(old.id)
        await asyncio.to_thread(folder.create)
        try:
            await asyncio.to_thread(orphans.disown, folder)
            await asyncio.to_thread(fill, folder, task, files, link=source.link)
            await site.upkeep.add(task)
        except BaseException:
            await asyncio.to_thread(folder.set_aside)
            raise
        await asyncio.to_thread(orphans.own, folder)
    done.tasks += 1
    done.files += len(files)
    done.size_bytes += sum(file.size for file in files)
