"""The queue as clients see it: steps of all runs that have not ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS

from ..model import Run, RunStep, Task, User
from ..storage import Tasks
from . import access
from .coordinator import Coordinator
from .errors import Missing
from .signs import Signs

_CELERY: Final[Mapping[StepStatus, str]] = {
    StepStatus.SCHEDULED: "PENDING",
    StepStatus.WAITING: "PENDING",
    StepStatus.READY: "PENDING",
    StepStatus.STARTED: "STARTED",
    StepStatus.DONE: "SUCCESS",
    StepStatus.FAILED: "FAILURE",
    StepStatus.CANCELLED: "REVOKED",
}
_RUN: Final = {
    "running": "STARTED",
    "cancelling": "STARTED",
    "done": "SUCCESS",
    "failed": "FAILURE",
    "cancelled": "REVOKED",
}


@dataclass(frozen=True)
class Found:
    """A step, or a whole chain when `step` is None, and its task."""

    task: Task
    run: Run
    step: RunStep | None


class QueueService:
    """Lists and finds steps, ends chains."""

    def __init__(self, tasks: Tasks, coordinator: Coordinator, signs: Signs) -> None:
        self._tasks = tasks
        self._coordinator = coordinator
        self._signs = signs

    async def listing(self, user: User) -> list[dict[str, Any]]:
        """List the steps that have not ended, by age of their chains."""
        rows: list[dict[str, Any]] = []
        for task in sorted(await self._tasks.active(), key=lambda task: task.run.at if task.run else task.created):
            if task.run is None:
                continue
            visible = access.may_view(user, task)
            for position, step in enumerate(task.run.steps, start=1):
                if step.status.ended:
                    continue
                row = STEPS[step.name]
                rows.append(
                    {
                        "id": step.id,
                        "name": row.task_name,
                        "full_name": row.full_name,
                        "state": self._state(step),
                        "time_start": step.started.timestamp() if step.started else None,
                        "task_id": task.id if visible else None,
                        "task_name": task.original_name if visible else None,
                        "chain_position": position,
                        "chain_total": len(task.run.steps),
                        "chain_id": task.run.id,
                    }
                )
        return rows

    def _state(self, step: RunStep) -> str:
        if step.status is StepStatus.SCHEDULED:
            return "scheduled"
        return "active" if step.status is StepStatus.STARTED or self._works(step) else "pending"

    def _works(self, step: RunStep) -> bool:
        sign = self._signs.peek(step.id)
        return sign is not None and sign.working and step.status is StepStatus.READY

    async def find(self, some_id: str) -> Found:
        """Find a step or a chain by its id.

        Raises
        ------
        Missing
            When there is none.
        """
        run_id = some_id.partition("-")[0]
        task_id = await self._coordinator.run_ids.task_of(run_id)
        found = await self._tasks.find_run(task_id, run_id) if task_id else None
        if found is not None:
            task, run = found
            if some_id == run.id:
                return Found(task, run, None)
            step = next((step for step in run.steps if step.id == some_id), None)
            if step is not None:
                return Found(task, run, step)
        raise Missing("There is no such step or chain.")

    async def detail(self, user: User, some_id: str) -> dict[str, Any]:
        """Tell how a step or chain stands."""
        found = await self.find(some_id)
        visible = access.may_view(user, found.task)
        run, step = found.run, found.step
        if step is None:
            current = run.current
            state = _RUN[run.status]
            if current is not None and run.steps[0].id == current.id:
                state = self._celery(current)
            position = run.position(current) if current else len(run.steps)
        else:
            state, position = self._celery(step), run.position(step)
        ready = state in {"SUCCESS", "FAILURE", "REVOKED"}
        return {
            "id": some_id,
            "state": state,
            "ready": ready,
            "successful": state == "SUCCESS" if ready else None,
            "failed": state == "FAILURE" if ready else None,
            "task_id": found.task.id if visible else None,
            "task_name": found.task.original_name if visible else None,
            "chain_position": position,
            "chain_total": len(run.steps),
        }

    def _celery(self, step: RunStep) -> str:
        if step.status is StepStatus.READY and step.attempt > 1:
            return "STARTED" if self._works(step) else "RETRY"
        return "STARTED" if self._works(step) else _CELERY[step.status]

    async def terminate(self, user: User, some_id: str) -> dict[str, Any]:
        """Cancel the chain that a step belongs to."""
        found = await self.find(some_id)
        access.check_edit(user, found.task)
        revoked = await self._coordinator.cancel(found.task.id, found.run.id)
        return {"id": some_id, "task_id": found.task.id, "revoked_count": revoked, "state": "cancelled"}
