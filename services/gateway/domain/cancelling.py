"""Cancelling a run: what was not committed before has no effect."""

import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog

from shared.broker import Broker, control_route
from shared.contracts.messages import Cancel
from shared.contracts.states import StepStatus

from ..model import Task, now
from ..storage import Changed
from . import runs
from .errors import Invalid
from .fences import Fences
from .revisions import Revisions
from .signs import Signs

Release = Callable[[str, str, float | None], Awaitable[None]]
"""Gives the place of a user's step in its queue back; see `Coordinator.release`."""

log = structlog.get_logger()


class Cancelling:
    """Ends runs before their time."""

    def __init__(self, revisions: Revisions, fences: Fences, signs: Signs, broker: Broker, release: Release) -> None:
        self._revisions = revisions
        self._fences = fences
        self._signs = signs
        self._broker = broker
        self._release = release

    async def cancel(self, task_id: int, run_id: str) -> int:
        """Cancel a run; what was not committed before has no effect.

        Returns
        -------
        int
            How many steps had not ended.

        Raises
        ------
        Invalid
            When the run has ended.
        """
        closed = await self._revisions.change(task_id, run_id, lambda task: runs.begin_cancel(task, run_id))
        task = closed or await self._revisions.read(task_id)
        if task is None or task.run is None or task.run.id != run_id or not task.run.active:
            raise Invalid("The task is not running.")
        return await self.finish(task)

    async def finish(self, task: Task) -> int:
        """Fence the folder of a run that is closed to reports, take in what was committed before, and end it."""
        run, step = task.run, task.run.current if task.run else None
        if run is None or step is None:
            return 0
        manifest = await self._fences.close(task.id, run.id, step)
        new, revoked = runs.settle_cancel(task, step, manifest, now())
        began = None if step.status is StepStatus.WAITING else time.monotonic()  # what waited had no place
        try:
            await self._revisions.swap(task, new)
        except Changed:
            log.info("another has ended the run", task=task.id)
        else:
            self._signs.forget(step.id)
            await self._broker.tell(control_route(), Cancel(task_id=task.id, run_id=run.id, at=now()))
            await self._release(run.user, step.name, began)
        if not revoked:
            raise Invalid("The task has just ended.")
        return revoked

    async def resume(self, task: Task) -> None:
        """Finish a cancel that a gateway died in."""
        try:
            await self.finish(task)
        except Invalid:
            log.info("run had ended before its cancel", task=task.id)

    async def end_if_closed(self, task: Task) -> bool:
        """End a run that a gateway has closed in the folder, and then died."""
        if task.run is None or not await self._fences.closed(task.id, task.run.id):
            return False
        with contextlib.suppress(Invalid):
            await self.cancel(task.id, task.run.id)
        return True
