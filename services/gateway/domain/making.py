"""Making tasks: new ones, and doubles of others. Whole, or not at all."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shared.contracts import states
from shared.taskdir import NotFound, TaskDir, TasksRoot, copy_task
from shared.taskdir.folder import INPUTS

from ..model import Preset, Task, User, now
from ..storage import Changed, StoreAway, Tasks, Users
from . import config as configs
from . import images, orphans
from .errors import Conflict, Invalid, Missing
from .once import Reserved
from .presets import PresetFiles
from .room import Room

_RUNNING = "The task is running; duplicate it when it has ended, or cancel it."
_EDITED = "The image of the task is just being changed; try again in a moment."
_NO_FILE = "picks an extension of a file, but none is given (field `file` or `local_file`)"
_NO_FILES = "The files of the task cannot be found; tell the administrator."


@dataclass(frozen=True)
class NewTask:
    """What a client sent to create a task.

    Parameters
    ----------
    fields
        The fields as they came: texts from a form, anything from JSON.
    upload
        Uploaded file, in the folder for incoming files; None without one.
    upload_name
        Name that the client gave it.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    upload: Path | None = None
    upload_name: str = ""


class Making:
    """Makes tasks; the caller has checked names and rights."""

    def __init__(self, tasks: Tasks, users: Users, root: TasksRoot, presets: PresetFiles, room: Room) -> None:
        self._tasks = tasks
        self._users = users
        self._root = root
        self._presets = presets
        self._room = room

    async def new(
        self, user: User, new: NewTask, *, name: str, title: str, groups: tuple[str, ...], reserved: Reserved | None
    ) -> Task:
        """Make a task with its folder, its image and the files of its preset.

        Raises
        ------
        Invalid
            Naming the bad fields.
        """
        preset = await self._preset(new.fields.get("preset"))
        asked = configs.merge({} if preset is None else preset.config, configs.parse(new.fields.get("config")))
        if (ext := extension_of(new.fields)) is not None:
            if new.upload is None:
                raise Invalid.field("ext", _NO_FILE)
            asked = configs.merge(asked, {"ext": ext})
        at = now()
        task = Task(
            id=await self._id_for(reserved),
            original_name=name,
            title=title,
            user=user.name,
            groups=groups,
            created=at,
            modified=at,
            state=states.INITIAL if new.upload is None else states.UPLOADED,
            asked=asked,
            seq=0 if new.upload is None else 1,
        )

        async def fill(folder: TaskDir) -> None:
            if preset is not None:
                await asyncio.to_thread(self._presets.copy, preset, folder.path / INPUTS, self._room)
                with contextlib.suppress(OSError):  # the view is derived; the volume may know no links
                    await asyncio.to_thread(folder.tidy)
            if new.upload is not None:
                owner = uuid.uuid4().hex
                await asyncio.to_thread(images.commit_upload, folder, self._root.incoming(), new.upload, 1, owner)

        return await self._make(task, fill, reserved)

    async def double(self, source: Task, user: User, reserved: Reserved | None) -> Task:
        """Make a task of the user with all files and the config of another; it is shared with nobody.

        Raises
        ------
        Changed
            When the other one changed meanwhile.
        Conflict
            While it runs, or its image is being changed.
        """
        if source.running:
            raise Conflict(_RUNNING)
        if source.pending is not None:
            raise Conflict(_EDITED)
        await asyncio.to_thread(self._room.check, 0)
        at = now()
        double = replace(
            source,
            id=await self._id_for(reserved),
            user=user.name,
            groups=(),
            created=at,
            modified=at,
            rev=0,
            run=None,
        )

        async def fill(folder: TaskDir) -> None:
            original = self._root.task(source.id)
            try:
                await asyncio.to_thread(copy_task, original, folder, self._room.check)
            except NotFound:
                if not await asyncio.to_thread(original.exists):
                    raise Missing(_NO_FILES) from None
                raise Changed(source.id) from None
            # its steps, and changes of its image, would have told the store before touching a file
            if not await self._same(source):
                raise Changed(source.id)

        return await self._make(double, fill, reserved)

    async def _same(self, task: Task) -> bool:
        seen = await self._tasks.get(task.id)
        return seen is not None and seen.rev == task.rev

    async def _id_for(self, reserved: Reserved | None) -> int:
        return await self.new_id() if reserved is None else reserved.task_id

    async def new_id(self) -> int:
        """Draw the id of a task."""
        while True:
            task_id = await self._tasks.next_id()
            # there may be folders of a store that was lost: they are not ours to touch
            if not await asyncio.to_thread(self._root.task(task_id).exists):
                return task_id

    async def _make(self, task: Task, fill: Callable[[TaskDir], Awaitable[None]], reserved: Reserved | None) -> Task:
        # to its end even if the client goes away meanwhile
        return await asyncio.shield(asyncio.create_task(self._make_whole(task, fill, reserved)))

    async def _make_whole(
        self, task: Task, fill: Callable[[TaskDir], Awaitable[None]], reserved: Reserved | None
    ) -> Task:
        folder = self._root.draft(task.id)
        try:
            await asyncio.to_thread(folder.create)
            await asyncio.to_thread(orphans.disown, folder)
            await fill(folder)
            await self._appear(folder, reserved)
        except BaseException:
            await asyncio.to_thread(self._root.trash, folder.path)
            raise
        inserted = await self._insert(task, reserved)
        if folder.path != self._root.task(task.id).path:
            await asyncio.to_thread(self._root.trash, folder.path)
        await asyncio.to_thread(orphans.own, self._root.task(task.id))
        return task if inserted else (await self._tasks.get(task.id) or task)

    @staticmethod
    async def _appear(folder: TaskDir, reserved: Reserved | None) -> None:
        # of two tries at the same request the first one counts
        if not await asyncio.to_thread(folder.appear) and reserved is None:
            raise FileExistsError(folder.task_id)

    async def _insert(self, task: Task, reserved: Reserved | None) -> bool:
        try:
            return await self._tasks.insert(task, reserved.key if reserved else None)
        except BaseException:
            # it may have been taken all the same: the request, sent again with its key, finds out. Without one nobody
            # asks again, and what cannot be undone now is left, whole; a folder without a task is swept in the end
            if reserved is None:
                with contextlib.suppress(StoreAway):
                    await self._tasks.delete(task)
                    await asyncio.to_thread(self._root.task(task.id).set_aside)
            raise

    async def _preset(self, value: object) -> Preset | None:
        if value in (None, ""):
            return None
        try:
            preset_id = int(str(value))
        except ValueError:
            raise Invalid.field("preset", "must be the id of a preset") from None
        preset = await self._users.preset(preset_id) if 0 < preset_id < 2**31 else None
        if preset is None:
            raise Invalid.field("preset", f"there is no preset {preset_id}")
        return preset


def extension_of(fields: Mapping[str, Any]) -> object:
    """Give the extension to take of the file; None when none is named.

    Raises
    ------
    Invalid
        When it can be none.
    """
    value = fields.get("ext")
    if value is None or value == "":
        return None
    configs.validate({"ext": value}, ("inspect",))
    return value
