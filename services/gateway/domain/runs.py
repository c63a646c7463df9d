"""What happens to a run. Pure: each function gives the task as it would be, or None where nothing changes.

All of them are idempotent, and refuse what does not fit (run, step, attempt, state): replaying, reordering or
duplicating a message changes nothing. The caller writes the result by compare-and-set on `Task.rev`.
"""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from shared.contracts import states
from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.taskdir import Manifest

from ..model import Run, RunStep, Task, User, now
from .addresses import shown

Admit = Callable[[str], bool]
"""Whether fair share releases a step of this name now."""

VERSION: Final = importlib.metadata.version("stdweb")
"""Of this software."""

_RELEASED: Final = {StepStatus.READY, StepStatus.STARTED}


@dataclass(frozen=True)
class Request:
    """Who asks for a run of which steps, after which change of the config.

    Parameters
    ----------
    key
        Digest of the idempotency key; None without one.
    callback_url
        Address to be told of the end; None when nobody wants to know.
    viewer
        Who asks, with what they may see; None for somebody who may see only their own tasks.
    trace
        Trace that it belongs to; None when traces are off.
    """

    user: str
    steps: Sequence[str]
    change: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    callback_url: str | None = None
    viewer: User | None = None
    trace: str | None = None

    @property
    def digest(self) -> str | None:
        """Digest of what is asked, to tell another request under the same key; None without a key."""
        if self.key is None:
            return None
        asked = [list(self.steps), dict(self.change), self.callback_url]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def start(task: Task, request: Request, *, run_id: str, asked: dict[str, Any], at: datetime, admit: Admit) -> Task:
    """Begin a run. The caller has checked that none is active."""
    steps = tuple(
        RunStep(id=f"{run_id}-{index}", name=name, seq=task.seq + index)
        for index, name in enumerate(request.steps, start=1)
    )
    run = Run(
        id=run_id,
        at=at,
        user=request.user,
        steps=steps,
        version=VERSION,
        asked=asked,
        key=request.key,
        request=request.digest,
        callback=None if request.callback_url is None else shown(request.callback_url),
        trace=request.trace,
    )
    run = _turn(run, admit)
    return replace(
        task,
        asked=asked,
        seq=task.seq + len(steps),
        run=run,
        state=states.RUNNING,
        error=None,
        completed=None,
        modified=at,
    )


def _turn(run: Run, admit: Admit) -> Run:
    step = run.current
    if step is None:
        return run
    if admit(step.name):
        return run.with_step(replace(step, status=StepStatus.READY))
    return run.with_step(replace(step, status=StepStatus.WAITING, waited=True))


def _find(task: Task, step_id: str) -> tuple[Run, RunStep] | None:
    run = task.run
    if run is None or run.status != "running":
        return None
    step = run.current
    return (run, step) if step is not None and step.id == step_id else None


def begin(task: Task, step_id: str, attempt: int, at: datetime) -> Task | None:
    """A service works on the step."""
    found = _find(task, step_id)
    if found is None or found[1].attempt != attempt or found[1].status is not StepStatus.READY:
        return None
    run, step = found
    return replace(task, run=run.with_step(replace(step, status=StepStatus.STARTED, started=at)))


def release(task: Task, step_id: str) -> Task | None:
    """Fair share lets a step go."""
    found = _find(task, step_id)
    if found is None or found[1].status is not StepStatus.WAITING:
        return None
    run, step = found
    return replace(task, run=run.with_step(replace(step, status=StepStatus.READY)))


def retry(task: Task, step_id: str, attempt: int) -> Task | None:
    """Give up an attempt that is silent, and ask for the next."""
    found = _find(task, step_id)
    if found is None or found[1].attempt != attempt or found[1].status not in _RELEASED:
        return None
    run, step = found
    again = replace(step, status=StepStatus.READY, attempt=attempt + 1, started=None)
    return replace(task, run=run.with_step(again))


def _drop_from(task: Task, rank: int) -> dict[str, dict[str, Any]]:
    return {name: keys for name, keys in task.computed.items() if name in STEPS and STEPS[name].rank < rank}


def _is_plain(value: object) -> bool:
    """Tell whether JSON has a value, and it says something: no NaN, no infinity, no None."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(item is None or _is_plain(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(item is None or _is_plain(item) for item in value)
    return value is not None


def _ended(step: RunStep, status: StepStatus, at: datetime, seconds: float, repeats: int) -> RunStep:
    """End a step that was worked on for some seconds; of a quick one the start was never reported."""
    started = step.started or at - timedelta(seconds=seconds)
    return replace(step, status=status, started=started, ended=at, repeats=repeats)


def succeed(
    task: Task,
    step_id: str,
    computed: dict[str, Any],
    at: datetime,
    admit: Admit,
    *,
    seconds: float = 0,
    repeats: int = 0,
) -> Task | None:
    """The step has committed results. Whatever the attempt: there is one commit, and it counts."""
    found = _find(task, step_id)
    if found is None:
        return None
    run, step = found
    row = STEPS[step.name]
    run = run.with_step(_ended(step, StepStatus.DONE, at, seconds, repeats))
    kept = _drop_from(task, row.rank)
    if known := {key: value for key, value in computed.items() if _is_plain(value)}:
        kept[step.name] = known
    task = replace(task, computed=kept)
    if run.current is None:
        ended = replace(run, status="done", ended=at)
        return replace(task, run=ended, state=states.done(row.state), completed=at, modified=at)
    return replace(task, run=_turn(run, admit))


def fail(
    task: Task,
    step_id: str,
    attempt: int,
    error: str,
    at: datetime,
    *,
    committed: bool,
    seconds: float = 0,
    repeats: int = 0,
) -> Task | None:
    """The step cannot succeed: the run ends, and results of earlier steps stay.

    Parameters
    ----------
    committed
        Whether the step's log was committed; its earlier results, and those of later steps, are hidden then.
    """
    found = _find(task, step_id)
    if found is None or (found[1].attempt != attempt and not committed):
        return None
    run, step = found
    row = STEPS[step.name]
    run = run.with_step(_ended(step, StepStatus.FAILED, at, seconds, repeats))
    run = replace(_revoke(run, at), status="failed", ended=at, error=error)
    return replace(
        task,
        run=run,
        state=states.failed(row.state),
        error=error,
        completed=at,
        modified=at,
        computed=_drop_from(task, row.rank) if committed else task.computed,
    )


def _revoke(run: Run, at: datetime) -> Run:
    steps = tuple(
        step if step.status.ended else replace(step, status=StepStatus.CANCELLED, ended=at) for step in run.steps
    )
    return replace(run, steps=steps)


def begin_cancel(task: Task, run_id: str) -> Task | None:
    """Close the run to reports, while its folder is being fenced."""
    run = task.run
    if run is None or run.id != run_id or run.status != "running":
        return None
    return replace(task, run=replace(run, status="cancelling"))


def begin_undo(before: Task, started: Task) -> Task:
    """Close a run that has just begun, to be as if it never had; all that needs is kept with it."""
    return replace(started, run=started.run and replace(started.run, status="cancelling"), before=before)


def undo(task: Task) -> Task | None:
    """Take a start back; None when that is not being done. The numbers of its steps stay used."""
    return None if task.before is None else replace(task.before, rev=task.rev, seq=task.seq)


def reopen(task: Task) -> Task | None:
    """See a run that is being cancelled as running, to take in a commit that came before the fence."""
    if task.run is None or task.run.status != "cancelling":
        return None
    return replace(task, run=replace(task.run, status="running"))


def end_cancel(task: Task, at: datetime) -> Task | None:
    """End a run as cancelled."""
    run = task.run
    if run is None or not run.active:
        return None
    run = replace(_revoke(run, at), status="cancelled", ended=at)
    return replace(task, run=run, state=states.CANCELLED, completed=at, modified=at)


def image_changed(task: Task, at: datetime, state: str) -> Task:
    """The image was replaced or removed: what was computed from it goes."""
    return replace(task, pending=None, computed={}, state=state, error=None, modified=at)


def end_state(run: Run) -> str:
    """Name the state that a run has left its task in."""
    if run.status == "cancelled":
        return states.CANCELLED
    failed = next((step for step in run.steps if step.status is StepStatus.FAILED), None)
    return states.failed(STEPS[failed.name].state) if failed else states.done(STEPS[run.steps[-1].name].state)


def current_of(task: Task | None, run_id: str, step_id: str) -> RunStep | None:
    """Give the current step of a running task, if it is this one."""
    if task is None or task.run is None or task.run.id != run_id or task.run.status != "running":
        return None
    step = task.run.current
    return step if step is not None and step.id == step_id else None


def held_back(task: Task) -> tuple[str, str] | None:
    """Tell whose step of which name fair share holds back; None when it does not."""
    step = task.run.current if task.run else None
    if task.run is None or step is None or step.status is not StepStatus.WAITING:
        return None
    return task.run.user, step.name


def settle_cancel(task: Task, step: RunStep, manifest: Manifest | None, at: datetime) -> tuple[Task, int]:
    """End a run that is closed to reports.

    Parameters
    ----------
    manifest
        What its current step had committed before the fence, which counts; None when it had not.

    Returns
    -------
    tuple
        The task as it would be, and how many steps were revoked: none if the commit had ended the run, or its start
        was being undone.
    """
    if manifest is not None:
        task = replace(_with_commit(task, step, manifest), before=None)
    elif (undone := undo(task)) is not None:
        return undone, 0
    if task.run is None or not task.run.active:
        return task, 0
    revoked = sum(not other.status.ended for other in task.run.steps)
    return end_cancel(task, at) or task, revoked


def end_closed(task: Task, step: RunStep, manifest: Manifest, at: datetime) -> Task | None:
    """End a running task whose folder was closed too late: its current step has committed, the others cannot."""
    closing = None if task.run is None else begin_cancel(task, task.run.id)
    return None if closing is None else settle_cancel(closing, step, manifest, at)[0]


def _with_commit(task: Task, step: RunStep, manifest: Manifest) -> Task:
    """Take in a commit that came before the fence of a cancel."""
    opened = reopen(task)
    if opened is None:
        return task
    seconds, repeats = manifest.seconds, manifest.repeats
    if manifest.outcome == "done":
        taken = succeed(opened, step.id, manifest.computed, now(), lambda _: True, seconds=seconds, repeats=repeats)
    else:
        attempt, error = manifest.attempt, manifest.error
        taken = fail(opened, step.id, attempt, error, now(), committed=True, seconds=seconds, repeats=repeats)
    return taken or task
