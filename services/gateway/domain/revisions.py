"""Reading and writing tasks by compare-and-set on their revision."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from ..model import RunStep, Task
from ..storage import Changed, Tasks
from . import runs

_TRIES: Final = 50  # of a compare-and-set; each failure means that somebody else got on
_REMEMBERED: Final = 4096

log = structlog.get_logger()


class Revisions:
    """Tasks in the store, and what was last written from here.

    That saves reading it again; a wrong guess costs one failed compare-and-set.

    Attributes
    ----------
    after
        Called with the old and the new task after each change from here; they raise nothing.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self.after: list[Callable[[Task, Task], Awaitable[None]]] = []
        self._latest: dict[int, Task] = {}

    async def read(self, task_id: int) -> Task | None:
        """Read a task from the store."""
        return await self._tasks.get(task_id)

    async def swap(self, old: Task, new: Task) -> Task:
        """Write a task, if the store still holds the old one.

        Raises
        ------
        Changed
            When it does not.
        """
        self._latest.pop(old.id, None)
        new = await self._tasks.swap(old, new)
        if new.running:
            if len(self._latest) >= _REMEMBERED:
                del self._latest[next(iter(self._latest))]
            self._latest[new.id] = new
        for tell in self.after:
            await tell(old, new)
        return new

    async def change(self, task_id: int, run_id: str, change: Callable[[Task], Task | None]) -> Task | None:
        """Change a task, from what the store holds, as long as this is its run; None when nothing was changed."""
        for _ in range(_TRIES):
            task = await self._tasks.get(task_id)
            if task is None or task.run is None or task.run.id != run_id:
                return None
            new = change(task)
            if new is None:
                return None
            try:
                return await self.swap(task, new)
            except Changed:
                continue
        log.error("task changes too often", task=task_id)
        return None

    async def with_current(self, task_id: int, run_id: str, step_id: str) -> tuple[Task, RunStep] | None:
        """Find a task whose current step is this one; None when there is none, or it is over."""
        task = self._latest.get(task_id)
        step = runs.current_of(task, run_id, step_id)
        if step is None:
            task = await self._tasks.get(task_id)
            step = runs.current_of(task, run_id, step_id)
        return (task, step) if task is not None and step is not None else None

    async def release(self, task_id: int, step: str) -> Task | None:
        """Let a step go that fair share held back; None when it does not wait any more."""
        for remembered in (True, False):
            task = self._latest.get(task_id) if remembered else await self._tasks.get(task_id)
            current = task.run.current if task and task.run else None
            new = runs.release(task, current.id) if task and current and current.name == step else None
            if task is None or new is None:
                continue
            try:
                return await self.swap(task, new)
            except Changed:
                continue
        return None
