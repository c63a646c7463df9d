"""Running a task, and stopping it."""

from aiohttp import web

from ..domain.errors import Invalid
from ..keys import COORDINATOR, TASKS, USER
from .operation import Operation
from .replies import read_fields, reply, task_id_of


async def process(request: web.Request) -> web.Response:
    """Start a run."""
    task = await request.app[TASKS].for_edit(task_id_of(request), request[USER])
    fields = await read_fields(request)
    task = await request.app[COORDINATOR].process(task, request[USER], fields.get("steps"), fields.get("config"))
    run = task.run
    if run is None:
        raise Invalid("The task is not running.")
    steps = [step.name for step in run.steps]
    return reply({"id": task.id, "state": task.state, "celery_id": run.id, "steps": steps})


async def cancel(request: web.Request) -> web.Response:
    """Cancel the run of a task."""
    task = await request.app[TASKS].for_edit(task_id_of(request), request[USER])
    if task.chain_id is None:
        raise Invalid("The task is not running.")
    revoked = await request.app[COORDINATOR].cancel(task.id, task.chain_id)
    return reply({"id": task.id, "state": "cancelled", "revoked_count": revoked})


ROUTES = (
    Operation("POST", "/api/tasks/{id}/process", process),
    Operation("POST", "/api/tasks/{id}/cancel", cancel),
)
