"""Messages between the gateway and the services. Frozen and versioned; no pixels, settings or secrets."""

from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

MAX_COMPUTED_BYTES: Final = 384 * 1024
"""Of the values that a step computes for the task's config, as JSON; with the config of at most 256 KiB, and what all
other steps computed, a message stays far below what a broker takes."""

REPEATS: Final = "How often it was begun anew, because its process had died or an archive did not answer"


class Message(BaseModel):
    """What all messages share."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    task_id: int
    run_id: str
    at: AwareDatetime = Field(description="When the sender made the message, UTC")


class StepMessage(Message):
    """A request to work on one step; routed by the step's name, its message id is `step_id`."""

    kind: Literal["step"] = "step"
    step_id: str
    step: str
    attempt: int = Field(ge=1)
    seq: int = Field(ge=1, description="Number of the commit, increasing within the task")
    position: int = Field(ge=1, description="Place in the chain")
    total: int = Field(ge=1, description="Steps of the chain")
    config: dict[str, Any] = Field(description="What was asked over what earlier steps computed")


class Report(Message):
    """What a service says of an attempt."""

    step_id: str
    step: str
    attempt: int
    worker: str


class StepStarted(Report):
    """A child process works on the step now."""

    kind: Literal["started"] = "started"


class FileInfo(BaseModel):
    """A committed file; `name` is relative to the task's folder, `size` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int


class StepDone(Report):
    """The attempt has committed whole results."""

    kind: Literal["done"] = "done"
    computed: dict[str, Any]
    files: tuple[FileInfo, ...]
    seconds: float
    peak_memory_bytes: int = 0
    repeats: int = Field(0, ge=0, description=REPEATS)


class StepFailed(Report):
    """The step cannot succeed; its log has been committed."""

    kind: Literal["failed"] = "failed"
    code: str
    error: str = Field(description="One sentence for the user")
    files: tuple[FileInfo, ...] = ()
    seconds: float = 0
    peak_memory_bytes: int = 0
    repeats: int = Field(0, ge=0, description=REPEATS)


class StepProgress(Report):
    """A sign of life; lossy. Sent at least every `HEARTBEAT_S`, with what is being done and new lines of the log."""

    kind: Literal["progress"] = "progress"
    fraction: float = Field(ge=0, le=1)
    phase: str = ""
    log: tuple[str, ...] = ()
    logged: int = Field(0, ge=0, description="Lines of the attempt's log so far, these included")


class Cancel(Message):
    """Stop working on this run; sent to every worker. It only hastens what the fence in the task folder makes true."""

    kind: Literal["cancel"] = "cancel"


HEARTBEAT_S = 5.0
"""Period of `StepProgress` and of the lease, seconds."""

LEASE_S = 30.0
"""A lease that has not changed for so long may be taken over, seconds."""
