"""Tasks, runs and users, as the gateway thinks of them."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS

VIEW_ALL: Final = "view_all_tasks"
EDIT_ALL: Final = "edit_all_tasks"
GRANTS: Final = (VIEW_ALL, EDIT_ALL)

RunStatus = Literal["running", "cancelling", "done", "failed", "cancelled"]


def now() -> datetime:
    """Give the time in UTC, to the millisecond that the store keeps."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


@dataclass(frozen=True)
class User:
    """Somebody who may call the API.

    Parameters
    ----------
    quota_bytes
        What the files of the user's tasks may take, 0 for no limit; None for what the site allows.
    max_steps
        Steps of the user that may be in a queue; None for what the site allows, which is never exceeded.
    """

    name: str
    is_staff: bool = False
    groups: frozenset[str] = frozenset()
    grants: frozenset[str] = frozenset()
    quota_bytes: int | None = None
    max_steps: int | None = None


@dataclass(frozen=True)
class RunStep:
    """One step of a run.

    Parameters
    ----------
    seq
        Number of its commit in the task.
    repeats
        How often that attempt was begun anew, because its process had died or an archive did not answer. Known at its
        end.
    waited
        Whether it was held back by fair share; releasing it took one of its two writes.
    """

    id: str
    name: str
    seq: int
    status: StepStatus = StepStatus.SCHEDULED
    attempt: int = 1
    repeats: int = 0
    waited: bool = False
    started: datetime | None = None
    ended: datetime | None = None


@dataclass(frozen=True)
class Run:
    """A chain of steps; at most one of them is neither scheduled nor ended.

    Parameters
    ----------
    user
        Who began it.
    version
        Of the software that began it.
    asked
        What was asked of the task when it began; None in a listing that would become too long.
    key
        Digest of the idempotency key of the request that began it.
    request
        Digest of what that request asked; None without a key.
    error
        Why it failed.
    callback
        Address that is told of its end, without its query; None when nobody wants to know.
    trace
        Trace of the request that began it; None when traces were off.
    """

    id: str
    at: datetime
    user: str
    steps: tuple[RunStep, ...]
    status: RunStatus = "running"
    ended: datetime | None = None
    version: str = ""
    asked: dict[str, Any] | None = field(default_factory=dict)
    key: str | None = None
    request: str | None = None
    error: str | None = None
    callback: str | None = None
    trace: str | None = None

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.status in {"running", "cancelling"}

    @property
    def current(self) -> RunStep | None:
        """The step whose turn it is; None when the run has ended."""
        if not self.active:
            return None
        return next((step for step in self.steps if not step.status.ended), None)

    def position(self, step: RunStep) -> int:
        """Place of a step in the chain, from 1."""
        return 1 + next(index for index, other in enumerate(self.steps) if other.id == step.id)

    def with_step(self, step: RunStep) -> "Run":
        """Replace a step by its id."""
        return replace(self, steps=tuple(step if other.id == step.id else other for other in self.steps))


@dataclass(frozen=True)
class Pending:
    """A change of `image.fits` that has begun: no run may start until it has ended.

    Parameters
    ----------
    kind
        Name of the commit.
    source
        Name of the folder to commit, below the folder for incoming files.
    """

    kind: Literal["upload", "delete", "edit"]
    seq: int
    owner: str
    source: str
    at: datetime


@dataclass(frozen=True)
class Task:
    """A task. `rev` changes with every write of the coordinator; title and groups are not its business.

    Parameters
    ----------
    before
        As it was before its run, while the start of that is being undone: whoever comes by can end that.
    """

    id: int
    original_name: str
    title: str
    user: str
    groups: tuple[str, ...]
    created: datetime
    modified: datetime
    state: str
    asked: dict[str, Any] = field(default_factory=dict)
    computed: dict[str, dict[str, Any]] = field(default_factory=dict)
    completed: datetime | None = None
    error: str | None = None
    seq: int = 0
    rev: int = 0
    run: Run | None = None
    pending: Pending | None = None
    before: "Task | None" = None

    @property
    def running(self) -> bool:
        """Whether a run has not ended."""
        return self.run is not None and self.run.active

    @property
    def chain_id(self) -> str | None:
        """Id of the running chain."""
        return self.run.id if self.run is not None and self.run.active else None

    def config(self, below_rank: int | None = None) -> dict[str, Any]:
        """Overlay what the steps computed, in their order, by what was asked.

        Parameters
        ----------
        below_rank
            Take only what steps of lower rank computed; None takes all.
        """
        merged: dict[str, Any] = {}
        for step in sorted(STEPS.values(), key=lambda step: step.rank):
            if below_rank is None or step.rank < below_rank:
                merged.update(self.computed.get(step.name, {}))
        return {**merged, **self.asked}


@dataclass(frozen=True)
class Preset:
    """A named config that tasks may start from.

    Parameters
    ----------
    files
        Names of the files that go with it.
    """

    id: int
    name: str
    config: dict[str, Any]
    files: tuple[str, ...] = ()
