"""What was done with a task, and what came of it."""

import asyncio

from aiohttp import web
from pydantic import Field

from shared.contracts.results import Candidates, Measurements, SubtractionMeasurements

from ..domain.addresses import site_of
from ..domain.results import candidates, difference_candidates, difference_measurements, measurements
from ..keys import CALLBACKS, ROOT, TASKS, USER
from ..model import Run, RunStep, User
from ..storage.callbacks import Status
from .operation import Operation, read_query
from .replies import iso, reply, task_id_of
from .schemas import Answer, Fields, QueryNumber, RunRow


class Page(Fields):
    """How much to list."""

    limit: QueryNumber = Field(100, ge=1, le=1000, description="At most so many runs, the newest ones")


class Results(Answer):
    """Measurements of a task."""

    id: int
    state: str
    targets: Measurements | None = Field(description="Forced photometry of the targets; null when there is none")
    candidates: Candidates | None = Field(description="Found by `simple_transients`; null when it did not run")
    sub_targets: SubtractionMeasurements | None = Field(
        description="Forced photometry of the targets in the difference; null when there is none"
    )
    sub_candidates: Candidates | None = Field(description="Found by `subtraction`; null when it did not search")


def _step(step: RunStep) -> dict[str, object]:
    seconds = (step.ended - step.started).total_seconds() if step.ended and step.started else None
    return {
        "id": step.id,
        "name": step.name,
        "state": step.status,
        "started": iso(step.started),
        "ended": iso(step.ended),
        "seconds": seconds,
        "attempts": step.attempt + step.repeats,
    }


def _callback(run: Run, status: Status | None, user: User) -> dict[str, object] | None:
    if run.callback is None:
        return None
    own = user.is_staff or user.name == run.user
    return {
        "url": run.callback if own else site_of(run.callback),  # with many services the path is the secret
        "state": status.state if status else None,
        "attempts": status.attempts if status else 0,
        "problem": status.problem if status else None,
        "at": iso(status.at) if status else None,
        "next": iso(status.following) if status else None,
    }


def _run(run: Run, status: Status | None, user: User) -> dict[str, object]:
    return {
        "id": run.id,
        "state": run.status,
        "user": run.user,
        "created": iso(run.at),
        "ended": iso(run.ended),
        "version": run.version or None,
        "error": run.error,
        "config": run.asked,
        "steps": [_step(step) for step in run.steps],
        "callback": _callback(run, status, user),
    }


async def runs(request: web.Request) -> web.Response:
    """List the runs of a task, the newest first."""
    limit = read_query(request, Page).limit
    task = await request.app[TASKS].for_view(task_id_of(request), request[USER])
    found = await request.app[TASKS].history(task, limit)
    statuses = await request.app[CALLBACKS].statuses(found)
    return reply([_run(run, statuses.get(run.id), request[USER]) for run in found])


async def results(request: web.Request) -> web.Response:
    """Show what was measured."""
    task = await request.app[TASKS].for_view(task_id_of(request), request[USER])
    root = request.app[ROOT]
    found = {
        "targets": await measurements(root, task),
        "candidates": await candidates(root, task),
        "sub_targets": await difference_measurements(root, task),
        "sub_candidates": await difference_candidates(root, task),
    }
    rows = {name: value and await asyncio.to_thread(value.model_dump, mode="json") for name, value in found.items()}
    return reply({"id": task.id, "state": task.state, **rows})


ROUTES = (
    Operation("GET", "/api/tasks/{id}/runs", runs, reply=list[RunRow], query=Page),
    Operation("GET", "/api/tasks/{id}/results", results, reply=Results),
)
