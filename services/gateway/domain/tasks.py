"""Tasks as clients see them: create, list, change, delete."""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from shared.taskdir import TasksRoot

from ..model import Run, Task, User, now
from ..storage import Changed, Tasks, Users
from . import access, orphans
from . import config as configs
from .coordinator import Coordinator
from .errors import Conflict, Forbidden, Invalid, Missing
from .making import Making, NewTask
from .once import Reserved

MAX_TEXT: Final = 1024
_TRIES: Final = 50
_DOUBLES: Final = 5


class TaskService:
    """What users do with tasks, but for running them and for their files."""

    def __init__(self, tasks: Tasks, users: Users, root: TasksRoot, coordinator: Coordinator, making: Making) -> None:
        self._tasks = tasks
        self._users = users
        self._root = root
        self._coordinator = coordinator
        self._making = making

    async def find(self, task_id: int) -> Task:
        """Read a task, whoever asks.

        Raises
        ------
        Missing
            When there is none.
        """
        task = await self._tasks.get(task_id)
        if task is None:
            raise Missing(f"There is no task {task_id}.")
        return task

    async def for_view(self, task_id: int, user: User) -> Task:
        """Read a task that the user may see."""
        task = await self.find(task_id)
        access.check_view(user, task)
        return task

    async def for_edit(self, task_id: int, user: User) -> Task:
        """Read a task that the user may change and run."""
        task = await self.find(task_id)
        access.check_edit(user, task)
        return task

    async def state(self, task_id: int, user: User) -> tuple[Task, str | None]:
        """Read the state of a task, and the id of its running chain."""
        found = await self._tasks.get_state(task_id)
        if found is None:
            raise Missing(f"There is no task {task_id}.")
        access.check_view(user, found[0])
        return found

    async def history(self, task: Task, limit: int) -> list[Run]:
        """List the runs of a task, the newest first."""
        if task.run is None:
            return []
        return [task.run, *(run for run in await self._tasks.history(task.id, limit) if run.id != task.run.id)][:limit]

    async def create(self, user: User, new: NewTask, reserved: Reserved | None = None) -> Task:
        """Make a task, with its folder and its image; it carries the digest of an idempotency key.

        Raises
        ------
        Invalid
            Naming the bad fields.
        """
        fields = new.fields
        name = _text(fields, "original_name") or new.upload_name
        if not name:
            raise Invalid.field("original_name", "is needed when no file is given (field `file` or `local_file`)")
        name, title = _checked(name, "original_name"), _text(fields, "title") or ""
        groups = await self._groups(fields.get("groups", ()), user)
        return await self._making.new(user, new, name=name, title=title, groups=groups, reserved=reserved)

    async def duplicate(self, task_id: int, user: User, reserved: Reserved | None = None) -> Task:
        """Make a task of the user with all files and the config of one that the user may see.

        Raises
        ------
        Conflict
            While it runs, or its image is being changed.
        """
        for _ in range(_DOUBLES):
            task = await self.for_view(task_id, user)
            with contextlib.suppress(Changed):
                return await self._making.double(task, user, reserved)
        raise Conflict("The task changes too often; try again.")

    async def _groups(self, value: object, user: User, before: Collection[str] = ()) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if value is None:
            value = []
        if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
            raise Invalid.field("groups", "must be a list of names of groups")
        names = tuple(dict.fromkeys(value))
        added = [name for name in names if name not in before]
        if foreign := [name for name in added if name not in user.groups]:
            known = await self._users.groups([*filter(str.isprintable, foreign)]) if user.is_staff else set()
            if unknown := [name for name in foreign if name not in known]:
                own = ", ".join(sorted(user.groups)) or "none"
                wrong = "there is no group" if user.is_staff else "you are in no group"
                raise Invalid.field("groups", f"{wrong} {unknown[0][:64]!r}; your groups: {own}")
        return names

    async def change(self, task_id: int, user: User, fields: Mapping[str, Any]) -> Task:
        """Change title, groups, name or config of a task; other fields are ignored.

        Raises
        ------
        Conflict
            While it runs, for name and config.
        Forbidden
            For sharing by who is neither owner nor staff.
        """
        for _ in range(_TRIES):
            task = await self.for_edit(task_id, user)
            new = await self._changed(task, user, fields)
            try:
                if "config" in fields or "original_name" in fields:
                    swapped = await self._tasks.swap(task, replace(new, title=task.title, groups=task.groups))
                    new = replace(new, rev=swapped.rev)
            except Changed:
                continue
            if "title" in fields or "groups" in fields:
                await self._tasks.describe(new)
            return new
        raise Conflict("The task changes too often; try again.")

    async def _changed(self, task: Task, user: User, fields: Mapping[str, Any]) -> Task:
        new = task
        if "config" in fields or "original_name" in fields:
            if task.running:
                raise Conflict("The task is running; its config and original_name cannot be changed now.")
            new = replace(new, asked=configs.merge(task.asked, configs.parse(fields.get("config"))))
            if name := _text(fields, "original_name"):
                new = replace(new, original_name=name)
        if "title" in fields:
            new = replace(new, title=_text(fields, "title") or "")
        if "groups" in fields:
            groups = await self._groups(fields["groups"], user, task.groups)
            if groups != task.groups and not access.may_delete(user, task):
                raise Forbidden("Only the owner of a task, or staff, may change whom it is shared with.")
            new = replace(new, groups=groups)
        return new if new == task else replace(new, modified=now())

    async def delete(self, task_id: int, user: User) -> None:
        """Delete a task, its files and its history; a run is cancelled first."""
        task = await self.find(task_id)
        access.check_delete(user, task)
        if task.chain_id is not None:
            with contextlib.suppress(Invalid):  # it has just ended
                await self._coordinator.cancel(task_id, task.chain_id)
        folder = self._root.task(task_id)
        await asyncio.to_thread(orphans.disown, folder)
        if not await self._tasks.delete(task):
            raise Missing(f"There is no task {task_id}.")
        await asyncio.to_thread(folder.set_aside)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Invalid.field(name, "must be a text")
    return _checked(value, name)


def _checked(value: str, name: str) -> str:
    if len(value) > MAX_TEXT or not value.isprintable():
        raise Invalid.field(name, f"may have at most {MAX_TEXT} characters, none of them control characters")
    return value
