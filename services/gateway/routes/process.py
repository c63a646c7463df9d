"""Running a task, and stopping it."""

from typing import Annotated, Final

from aiohttp import web
from pydantic import BeforeValidator, Field, WithJsonSchema

from shared import tracing
from shared.contracts import states
from shared.contracts.steps import STEPS

from ..domain import config as configs
from ..domain.addresses import MAX_URL
from ..domain.errors import Invalid
from ..domain.runs import Request
from ..keys import CALLBACKS, COORDINATOR, QUOTA, TASKS, USER
from .operation import Operation, check
from .replies import idempotency_key, read_fields, reply, task_id_of
from .schemas import Answer, Cancelled, ConfigChange, Fields, StepName, Time

_STEPS: Final = {
    "type": "array",
    "items": {"type": "string", "enum": list(STEPS)},
    "minItems": 1,
    "maxItems": configs.MAX_STEPS,
    "examples": [["inspect", "photometry"]],
}


class Start(Fields):
    """What to run."""

    steps: Annotated[list[str], BeforeValidator(configs.step_names), WithJsonSchema(_STEPS)] = Field(
        description="In the order in which they run"
    )
    config: ConfigChange = Field({}, description="Merged into the task's config first; null removes a key")
    callback_url: str | None = Field(
        None,
        max_length=MAX_URL,
        description="Public address, http or https, to POST the result to when the run has ended, signed with the "
        "secret of `POST /api/callbacks/secret/`; sent again for a day until the answer is 2xx or 410",
    )


class Started(Answer):
    """A run that has begun."""

    id: int
    state: str
    celery_id: str = Field(description="Id of the chain")
    steps: list[StepName]


class Ended(Answer):
    """What is sent to `callback_url`."""

    event_id: str = Field(description="The same each time that it is sent")
    task_id: int
    run_id: str = Field(description="Id of the chain")
    state: str = Field(description="That the run has left the task in", examples=["photometry_done", "inspect_failed"])
    error: str | None = Field(description="Why it failed")
    created: Time
    ended: Time


async def process(request: web.Request) -> web.Response:
    """Start a run."""
    task = await request.app[TASKS].for_edit(task_id_of(request), request[USER])
    start = check(Start, await read_fields(request))
    url = start.callback_url
    if url is not None:
        await request.app[CALLBACKS].check(request[USER].name, url)
    user = request[USER]
    await request.app[QUOTA].check(task.user)
    trace = tracing.carried().get(tracing.HEADER)
    asked = Request(user.name, start.steps, start.config, idempotency_key(request), url, viewer=user, trace=trace)
    task = await request.app[COORDINATOR].process(task, asked)
    run = task.run
    if run is None:
        raise Invalid("The task is not running.")
    steps = [step.name for step in run.steps]
    return reply({"id": task.id, "state": states.RUNNING, "celery_id": run.id, "steps": steps})


async def cancel(request: web.Request) -> web.Response:
    """Cancel the run of a task."""
    task = await request.app[TASKS].for_edit(task_id_of(request), request[USER])
    if task.chain_id is None:
        raise Invalid("The task is not running.")
    revoked = await request.app[COORDINATOR].cancel(task.id, task.chain_id)
    return reply({"id": task.id, "state": "cancelled", "revoked_count": revoked})


ROUTES = (
    Operation(
        "POST", "/api/tasks/{id}/process", process, reply=Started, body=Start, errors=(409, 413), keyed=True, told=Ended
    ),
    Operation("POST", "/api/tasks/{id}/cancel", cancel, reply=Cancelled, errors=(400,)),
)
