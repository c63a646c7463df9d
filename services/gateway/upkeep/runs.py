"""Active runs that nothing brings on."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from shared.broker import BrokerUnavailable, Depth
from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.taskdir import AttemptKey, look

from ..domain.errors import Unavailable
from ..domain.images import STALE
from ..model import Run, RunStep, Task, now
from .findings import Finding
from .site import Site

_CONNECT_S: Final = 10.0
_SETTLE: Final = timedelta(seconds=60)  # what has just changed is still under way
_AWAY: Final = "The broker does not answer. Does it run? Without it: --no-queues"


async def check_runs(site: Site, active: list[Task]) -> list[Finding]:
    """Look at runs that have not ended, and at changes of images.

    Raises
    ------
    Unavailable
        When the broker does not answer.
    """
    found = [_pending(site, task) for task in await site.tasks.pending() if _is_stale(task)]
    broker = site.broker  # said to be unknown before it is waited for
    try:
        async with asyncio.timeout(_CONNECT_S):
            await broker.ready()
            depths = {name: await broker.depth(step.queue) for name, step in STEPS.items()}
    except (BrokerUnavailable, TimeoutError):
        raise Unavailable(_AWAY) from None
    waiting = Counter(
        task.run.current.name
        for task in active
        if task.run and task.run.current and task.run.current.status is StepStatus.READY
    )
    for task in active:
        run, step = task.run, task.run.current if task.run else None
        if run is None or step is None or now() - _since(run, step) < _SETTLE:
            continue
        finding = await _check_run(site, task, run, step)
        if finding is None and step.status is StepStatus.READY:
            finding = await _check_queue(site, task, step, depths[step.name], waiting[step.name])
        if finding is not None:
            found.append(finding)
    return found


def _since(run: Run, step: RunStep) -> datetime:
    ends = [other.ended for other in run.steps if other.ended]
    return step.started or max([run.at, *ends])


async def _check_run(site: Site, task: Task, run: Run, step: RunStep) -> Finding | None:
    subject = f"task {task.id}"
    if run.status == "cancelling":
        return Finding("run", subject, "its cancel has not ended", "end it", partial(_resume, site, task))
    if step.status is StepStatus.WAITING:
        return None
    manifest = await site.coordinator.fences.committed(task.id, step)
    if manifest is not None:
        return Finding(
            "run",
            subject,
            f"{step.name} has committed, and the store does not know",
            "take it in",
            partial(_take_in, site, task, step),
        )
    if await site.coordinator.fences.closed(task.id, run.id):
        return Finding(
            "run",
            subject,
            "its folder is closed to the run that is active",
            "end the run as cancelled",
            partial(_publish, site, task),
        )
    return None


async def _check_queue(site: Site, task: Task, step: RunStep, depth: Depth, ready: int) -> Finding | None:
    key = AttemptKey(task.run.id if task.run else "", step.name, step.attempt)
    lease = await asyncio.to_thread(look, site.root.task(task.id), key)
    if lease is not None or depth.messages >= ready:
        return None
    return Finding(
        "run",
        f"task {task.id}",
        f"{step.name} waits, and its queue holds fewer messages than steps",
        "publish its message again, which does no harm",
        partial(_publish, site, task),
    )


async def _resume(site: Site, task: Task) -> bool:
    seen = await site.tasks.get(task.id)
    if seen is None or seen.rev != task.rev:
        return False
    await site.coordinator.cancelling.resume(seen)
    return True


async def _take_in(site: Site, task: Task, step: RunStep) -> bool:
    manifest = await site.coordinator.fences.committed(task.id, step)
    if manifest is None or task.run is None:
        return False
    await site.coordinator.take_in(task.id, task.run.id, step, manifest)
    return True


async def _publish(site: Site, task: Task) -> bool:
    seen = await site.tasks.get(task.id)
    if seen is None or seen.rev != task.rev:
        return False
    await site.coordinator.publish_again(seen)
    return True


def _is_stale(task: Task) -> bool:
    return task.pending is not None and now() - task.pending.at > STALE


def _pending(site: Site, task: Task) -> Finding:
    kind = task.pending.kind if task.pending else "change"
    return Finding(
        "image",
        f"task {task.id}",
        f"a change of its image ({kind}) has not ended",
        "end it, as its files say",
        partial(_mend_image, site),
    )


async def _mend_image(site: Site) -> bool:
    await site.images.mend(now())
    return True
