"""Shapes of answers, and of fields of requests that several routes share."""

import re
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from shared.contracts.states import StepStatus

from ..domain import config as configs

StepName = Annotated[str, Field(examples=["inspect", "photometry"])]
Time = Annotated[AwareDatetime, Field(description="ISO 8601, UTC, ending in Z", examples=["2026-11-23T04:05:06.789Z"])]
Config = Annotated[
    dict[str, Any],
    Field(
        description="What was asked, and what the steps computed", examples=[{"filter": "R", "fwhm": 3.1, "zp": 24.9}]
    ),
]


def _digits(value: object) -> object:
    if isinstance(value, str) and re.fullmatch("-?[0-9]+", value) is None:
        msg = "must be a whole number in digits"
        raise ValueError(msg)
    return value


QueryNumber = Annotated[int, BeforeValidator(_digits)]
"""A whole number of a query: digits, and nothing that only can be read as one, as " 1.0" could."""

ConfigChange = Annotated[
    dict[str, Any],
    BeforeValidator(configs.parse),
    WithJsonSchema(
        {
            "anyOf": [
                {"$ref": "#/components/schemas/Config"},
                {"type": "string", "description": "The same as JSON, or as a Python literal"},
                {"type": "null"},
            ]
        }
    ),
]
"""Changes of a config, as clients send them."""


class Answer(BaseModel):
    """What all answers share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Fields(BaseModel):
    """Fields of a request; those that are not known are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(Answer):
    """Why a request was refused."""

    detail: str = Field(description="What was wrong, and what is allowed", examples=["There is no task 7."])
    errors: dict[str, list[str]] | None = Field(None, description="Messages by field")
    request_id: str = Field(description="Also in the header X-Request-ID, and in the server's log")


class TaskRow(Answer):
    """A task in a listing."""

    id: int
    original_name: str
    title: str
    state: str = Field(examples=["uploaded", "running", "photometry_done", "inspect_failed", "cancelled"])
    user: str
    created: Time
    modified: Time


class TaskPage(Answer):
    """A page of the listing."""

    count: int
    next: str | None = Field(description="Address of the next page")
    previous: str | None = Field(description="Address of the page before")
    results: list[TaskRow]


class Progress(Answer):
    """How far the running step is."""

    fraction: float = Field(ge=0, le=1)
    phase: str


class TaskWhole(TaskRow):
    """A task."""

    groups: list[str]
    completed: Time | None = Field(description="When the last run ended")
    config: Config
    celery_id: str | None = Field(description="Id of the running chain")
    path: str = Field(description="Folder of the task")
    error: str | None = Field(description="Why the last run failed")
    step: StepName | None = Field(description="What runs now")
    progress: Progress | None


class TaskState(Answer):
    """The state of a task; it contains `running` until the whole chain has ended."""

    id: int
    state: str
    celery_id: str | None


class StepRow(Answer):
    """A step in the queue."""

    id: str
    name: str = Field(examples=["task_photometry"])
    full_name: str = Field(examples=["stdweb.celery_tasks.task_photometry"])
    state: Literal["active", "pending", "scheduled"]
    time_start: float | None = Field(description="Seconds since the epoch")
    task_id: int | None = Field(description="null for other people's tasks")
    task_name: str | None
    chain_position: int = Field(ge=1)
    chain_total: int = Field(ge=1)
    chain_id: str


class StepDetail(Answer):
    """A step, or a chain."""

    id: str
    state: Literal["PENDING", "STARTED", "SUCCESS", "FAILURE", "REVOKED", "RETRY"]
    ready: bool
    successful: bool | None
    failed: bool | None
    task_id: int | None
    task_name: str | None
    chain_position: int
    chain_total: int


class Cancelled(Answer):
    """A cancelled run."""

    id: int
    state: Literal["cancelled"]
    revoked_count: int = Field(description="Steps that had not ended, the running one included")


class Terminated(Answer):
    """A cancelled chain, by the id of the queue."""

    id: str
    task_id: int
    revoked_count: int
    state: Literal["cancelled"]


class FileRow(Answer):
    """A file or folder."""

    name: str
    path: str
    size: int = Field(description="Bytes")
    modified: Time
    is_dir: bool


class Stored(Answer):
    """A file that was stored."""

    path: str
    size: int = Field(description="Bytes")


class RunStepRow(Answer):
    """A step of a run."""

    id: str
    name: StepName
    state: StepStatus
    started: Time | None
    ended: Time | None
    seconds: float | None = Field(description="From start to end")
    attempts: int = Field(
        ge=1,
        description="More than one where its process had died, fell silent, or an archive did not answer; "
        "complete when it has ended",
    )


class CallbackRow(Answer):
    """What became of telling an address of the end of a run."""

    url: str = Field(description="Without its query; for others than who asked, and staff, without its path, too")
    state: Literal["waiting", "pending", "delivered", "given_up"] | None = Field(
        description="For the end of the run; for an attempt; no attempt follows; null when it is long ago"
    )
    attempts: int
    problem: str | None = Field(description="Why the last attempt failed")
    at: Time | None = Field(description="Of the last attempt")
    next: Time | None = Field(description="When it is tried again")


class RunRow(Answer):
    """A run in the history of a task."""

    id: str
    state: Literal["running", "cancelling", "done", "failed", "cancelled"]
    user: str
    created: Time
    ended: Time | None
    version: str | None = Field(description="Of the software that began it")
    error: str | None
    config: dict[str, Any] | None = Field(
        description="What was asked when it began; null from the run on with which all configs have more than 4 MB"
    )
    steps: list[RunStepRow]
    callback: CallbackRow | None
