"""What a gateway shows of the whole site: steps that wait, room on the volume, whether the store answers.

Every gateway reads the same store and shows the same figures: take the largest of them, never their sum. While the
store is away there are none, rather than old ones that somebody would scale on.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from prometheus_client import Gauge

from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.metrics import REGISTRY

from .domain.signs import Signs
from .model import Run, RunStep, Task

WAITING: Final = Gauge("stdweb_steps_waiting", "Steps held back by fair share", ["step"], registry=REGISTRY)
QUEUED: Final = Gauge(
    "stdweb_steps_queued", "Steps sent to their queue that nobody works on", ["step"], registry=REGISTRY
)
WORKING: Final = Gauge("stdweb_steps_working", "Steps that a service works on", ["step"], registry=REGISTRY)
DEMAND: Final = Gauge(
    "stdweb_step_demand",
    "Steps whose turn has come and that have not ended: waiting, queued or worked on; services are scaled on it",
    ["step"],
    registry=REGISTRY,
)
OLDEST: Final = Gauge(
    "stdweb_step_oldest_wait_seconds",
    "For how long the step has waited that has waited longest, held back or in its queue; 0 when none waits",
    ["step"],
    registry=REGISTRY,
)
STORE_UP: Final = Gauge("stdweb_store_up", "Whether the store answered when it was last asked", registry=REGISTRY)
VOLUME_FREE: Final = Gauge("stdweb_volume_free_bytes", "Free space of the shared volume", registry=REGISTRY)
VOLUME_SIZE: Final = Gauge("stdweb_volume_size_bytes", "Size of the shared volume", registry=REGISTRY)
VOLUME_RESERVE: Final = Gauge(
    "stdweb_volume_reserve_bytes", "Free space below which uploads are refused", registry=REGISTRY
)

_OF_STEPS: Final = (WAITING, QUEUED, WORKING, DEMAND, OLDEST)


class Backlog:
    """Shows how many steps wait, and how long.

    Parameters
    ----------
    signs
        What was heard of the steps that are worked on.
    """

    def __init__(self, signs: Signs) -> None:
        self._signs = signs
        self._held: Counter[str] = Counter()
        self._held_since: dict[str, datetime] = {}

    def show(self, active: Iterable[Task], at: datetime, *, held: bool) -> None:
        """Show what the store says.

        Parameters
        ----------
        active
            Tasks with a run that has not ended.
        held
            Whether those are among them whose step is held back; otherwise what was known of these still counts.
        """
        queued, working, since = Counter[str](), Counter[str](), dict[str, datetime]()
        if held:
            self._held, self._held_since = Counter(), {}
        for run, step in _turns(active):
            if step.status is StepStatus.WAITING:
                self._held[step.name] += 1
                _keep_first(self._held_since, step.name, _turn_came(run, step))
            elif self._works(step):
                working[step.name] += 1
            else:
                queued[step.name] += 1
                _keep_first(since, step.name, _turn_came(run, step))
        for name, first in self._held_since.items():
            _keep_first(since, name, first)
        for name in STEPS:
            WAITING.labels(name).set(self._held[name])
            QUEUED.labels(name).set(queued[name])
            WORKING.labels(name).set(working[name])
            DEMAND.labels(name).set(self._held[name] + queued[name] + working[name])
            OLDEST.labels(name).set(max(0.0, (at - since[name]).total_seconds()) if name in since else 0.0)
        STORE_UP.set(1)

    def _works(self, step: RunStep) -> bool:
        sign = self._signs.peek(step.id)
        return step.status is StepStatus.STARTED or (sign is not None and sign.working and sign.attempt == step.attempt)

    def hide(self) -> None:
        """Show nothing: the store is away, and what it said last is old."""
        for gauge in _OF_STEPS:
            gauge.clear()
        STORE_UP.set(0)


def _turns(active: Iterable[Task]) -> Iterable[tuple[Run, RunStep]]:
    for task in active:
        step = task.run.current if task.run else None
        if task.run is not None and step is not None and task.run.status == "running":
            yield task.run, step


def _turn_came(run: Run, step: RunStep) -> datetime:
    before = run.steps[run.position(step) - 2] if run.position(step) > 1 else None
    return before.ended if before is not None and before.ended is not None else run.at


def _keep_first(since: dict[str, datetime], name: str, at: datetime) -> None:
    since[name] = min(since.get(name, at), at)


def show_volume(folder: Path, reserve_bytes: int) -> None:
    """Show how full the shared volume is."""
    usage = shutil.disk_usage(folder)
    VOLUME_FREE.set(usage.free)
    VOLUME_SIZE.set(usage.total)
    VOLUME_RESERVE.set(reserve_bytes)
