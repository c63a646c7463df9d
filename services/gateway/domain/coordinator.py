"""The coordinator: the only writer of runs. Every transition is a compare-and-set on the task's revision."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import structlog

from shared.broker import Broker, BrokerUnavailable, control_route, step_route
from shared.contracts.messages import Cancel, StepDone, StepFailed, StepMessage, StepStarted
from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.taskdir import Commit, Manifest, NotFound, TaskDir, TasksRoot

from ..model import RunStep, Task, User, now
from ..storage import Changed, Tasks
from . import config as configs
from . import runs
from .errors import Conflict, Invalid, Missing, Unavailable
from .fairshare import FairShare
from .signs import Signs

_TRIES: Final = 50  # of a compare-and-set; each failure means that somebody else got on
_REMEMBERED: Final = 4096
_BROKER_AWAY: Final = "The message broker is away; nothing was started. Try again later."

log = structlog.get_logger()


class Coordinator:
    """Starts runs, takes in what the services report, cancels."""

    def __init__(self, tasks: Tasks, root: TasksRoot, broker: Broker, signs: Signs, max_steps_per_user: int) -> None:
        self.tasks = tasks
        self.root = root
        self.broker = broker
        self.signs = signs
        self.shares = FairShare(tasks, max_steps_per_user)
        self._latest: dict[int, Task] = {}

    # ---- what was last written here: saves reading it again; a wrong guess costs one failed compare-and-set

    async def _swap(self, old: Task, new: Task) -> Task:
        self._latest.pop(old.id, None)
        new = await self.tasks.swap(old, new)
        if new.running:
            if len(self._latest) >= _REMEMBERED:
                del self._latest[next(iter(self._latest))]
            self._latest[new.id] = new
        return new

    async def _with_current(self, task_id: int, run_id: str, step_id: str) -> tuple[Task, RunStep] | None:
        """Find a task whose current step is this one; None when there is none, or it is over."""
        task = self._latest.get(task_id)
        step = runs.current_of(task, run_id, step_id)
        if step is None:
            task = await self.tasks.get(task_id)
            step = runs.current_of(task, run_id, step_id)
        return (task, step) if task is not None and step is not None else None

    # ---- starting

    async def process(self, task: Task, user: User, names: object, config: object) -> Task:
        """Start a run of the named steps.

        Raises
        ------
        Invalid
            For no steps, an unknown step, a bad config value.
        Conflict
            When a run is active, or the image is just being changed.
        Unavailable
            When the broker is away; nothing is queued and nothing changed then.
        """
        steps = configs.step_names(names)
        change = configs.parse(config)
        if task.running:
            raise Conflict("The task is running; wait for its end, or cancel it.")
        if task.pending:
            raise Conflict("The image of the task is just being changed; try again in a moment.")
        asked = configs.merge(task.asked, change)
        if not self.broker.connected:
            raise Unavailable(_BROKER_AWAY)
        if task.run is not None:
            await self.tasks.keep_run(task.id, task.run)
        async with self.shares.admission(user.name, steps[0]) as admit:
            try:
                new = runs.start(task, steps, asked=asked, user=user.name, at=now(), admit=admit)
                started = await self._swap(task, new)
            except Changed:
                raise Conflict("The task has just been changed or started by another request.") from None
            self._note_wait(started)
        try:
            if not await self._mark(started):
                return started
            await self.publish(started)
        except (BrokerUnavailable, NotFound) as error:
            await self._roll_back(task, started)
            if isinstance(error, NotFound):
                raise Missing(f"There is no task {task.id}.") from None
            raise Unavailable(_BROKER_AWAY) from None
        return started

    async def _mark(self, task: Task) -> bool:
        """Say in the folder which run may work there; a cancel that came meanwhile has the last word."""
        folder = self.root.task(task.id)
        run_id = task.chain_id
        await asyncio.to_thread(folder.write_marker, run_id)
        seen = await self.tasks.get(task.id)
        current = seen.run.id if seen and seen.run and seen.run.status == "running" else None
        if current != run_id:
            await asyncio.to_thread(folder.write_marker, current)
        return current == run_id

    async def _roll_back(self, before: Task, started: Task) -> None:
        try:
            # the numbers stay used: the broker may have taken the message after all
            await self._swap(started, replace(before, rev=started.rev, seq=started.seq))
            await asyncio.to_thread(self.root.task(before.id).write_marker, None)
        except (Changed, NotFound):
            log.warning("roll back found the task changed", task=before.id)

    async def publish(self, task: Task) -> None:
        """Put the current step into its queue, if it has been released.

        Raises
        ------
        BrokerUnavailable
            When the broker did not confirm; the reconciler tries again.
        """
        run, step = task.run, task.run.current if task.run else None
        if run is None or step is None or run.status != "running" or step.status is not StepStatus.READY:
            return
        message = StepMessage(
            task_id=task.id,
            run_id=run.id,
            at=now(),
            step_id=step.id,
            step=step.name,
            attempt=step.attempt,
            seq=step.seq,
            position=run.position(step),
            total=len(run.steps),
            config=task.config(below_rank=STEPS[step.name].rank),
        )
        sign = self.signs.of(step.id, step.attempt)
        sign.owed = True
        await self.broker.publish(step_route(step.name), message, message_id=step.id)
        sign.owed = False
        sign.published = asyncio.get_running_loop().time()

    async def publish_again(self, task: Task) -> None:
        """Publish a step that may have been lost; the same message twice is harmless."""
        try:
            if await self._mark(task):
                await self.go_on(task)
        except NotFound:
            log.warning("task without a folder", task=task.id)

    def _note_wait(self, task: Task) -> None:
        step = task.run.current if task.run else None
        if task.run and step and step.status is StepStatus.WAITING:
            self.shares.held(task.run.user, step.name, task.id)

    # ---- what the services report

    async def started(self, report: StepStarted) -> None:
        """Note in the store that a service works on a step, unless that is known or over."""

        def begin(task: Task) -> Task | None:
            found = task.run.current if task.run else None
            # releasing a step that waited has used one of its two writes; its signs of life are enough
            if found is not None and found.waited:
                return None
            return runs.begin(task, report.step_id, report.attempt, now())

        await self._change(report.task_id, report.run_id, begin)

    async def done(self, report: StepDone) -> None:
        """Take in the results of a step, and go on to the next."""
        found = await self._with_current(report.task_id, report.run_id, report.step_id)
        if found is None:
            return
        task, step = found
        if report.attempt != step.attempt:
            # of several attempts only one has committed, and the folder knows which
            manifest = await self.committed(task, step)
            if manifest is not None:
                await self.take_in(task.id, report.run_id, step, manifest)
            return
        await self._succeed(task.id, report.run_id, report.step_id, report.computed)

    async def failed(self, report: StepFailed) -> None:
        """End a run whose step cannot succeed."""
        found = await self._with_current(report.task_id, report.run_id, report.step_id)
        if found is None:
            return
        task, step = found
        manifest = await self.committed(task, step)
        if manifest is not None:
            await self.take_in(task.id, report.run_id, step, manifest)
        elif report.attempt == step.attempt:
            await self.fail(task.id, report.run_id, report.step_id, report.attempt, report.error, committed=False)

    async def dead(self, message: StepMessage, reason: str) -> None:
        """End a run whose step no worker could take, unless it has committed after all."""
        task = await self.tasks.get(message.task_id)
        step = runs.current_of(task, message.run_id, message.step_id)
        if task is None or step is None:
            return
        manifest = await self.committed(task, step)
        if manifest is not None:
            await self.take_in(task.id, message.run_id, step, manifest)
        else:
            await self.fail(task.id, message.run_id, step.id, message.attempt, reason, committed=False)

    async def committed(self, task: Task, step: RunStep) -> Manifest | None:
        """Look into the folder for what a step has committed, whichever attempt."""
        commit = Commit(step.seq, STEPS[step.name].rank, step.name)
        return await asyncio.to_thread(self.root.task(task.id).manifest, commit)

    async def take_in(self, task_id: int, run_id: str, step: RunStep, manifest: Manifest) -> None:
        """Let a commit have its effect."""
        if manifest.outcome == "done":
            await self._succeed(task_id, run_id, step.id, manifest.computed)
        else:
            await self.fail(task_id, run_id, step.id, manifest.attempt, manifest.error, committed=True)

    async def _succeed(self, task_id: int, run_id: str, step_id: str, computed: dict[str, Any]) -> None:
        for _ in range(_TRIES):
            found = await self._with_current(task_id, run_id, step_id)
            if found is None:
                return
            task, step = found
            run = task.run
            if run is None:
                return
            began = time.monotonic()
            place = run.position(step)
            after = run.steps[place].name if place < len(run.steps) else None
            try:
                async with self.shares.admission(run.user, after) as admit:
                    new = runs.succeed(task, step_id, computed, now(), admit)
                    if new is None:
                        return
                    new = await self._swap(task, new)
                    self._note_wait(new)
            except Changed:
                continue
            self.signs.forget(step_id)
            await self.go_on(new)
            await self.release(run.user, step.name, began)
            return

    async def fail(self, task_id: int, run_id: str, step_id: str, attempt: int, error: str, *, committed: bool) -> None:
        """End a run as failed, with the reason."""
        began = time.monotonic()
        new = await self._change(
            task_id, run_id, lambda task: runs.fail(task, step_id, attempt, error, now(), committed=committed)
        )
        if new is not None and new.run is not None:
            self.signs.forget(step_id)
            name = next(step.name for step in new.run.steps if step.id == step_id)
            await self.release(new.run.user, name, began)

    async def go_on(self, task: Task) -> None:
        """Publish the current step; if the broker is away the reconciler does it later."""
        try:
            await self.publish(task)
        except BrokerUnavailable:
            log.warning("step not published", task=task.id)

    async def release(self, user: str, step: str, since: float | None = None) -> None:
        """Release steps of a user that wait for a place in a queue, as far as places are free.

        Parameters
        ----------
        since
            When the end of a step that gave its place back began to be written, on the monotonic clock, seconds.
        """
        if since is not None:
            self.shares.freed(user, step, since)
        while True:
            async with self.shares.lock(user, step):
                task_id = await self.shares.next(user, step)
                if task_id is None:
                    return
                new = await self._let_go(task_id, step)
                if new is None:
                    continue
            await self.go_on(new)

    async def _let_go(self, task_id: int, step: str) -> Task | None:
        for remembered in (True, False):
            task = self._latest.get(task_id) if remembered else await self.tasks.get(task_id)
            current = task.run.current if task and task.run else None
            new = runs.release(task, current.id) if task and current and current.name == step else None
            if task is None or new is None:
                continue
            try:
                return await self._swap(task, new)
            except Changed:
                continue
        return None

    async def _change(self, task_id: int, run_id: str, change: Callable[[Task], Task | None]) -> Task | None:
        for _ in range(_TRIES):
            task = await self.tasks.get(task_id)
            if task is None or task.run is None or task.run.id != run_id:
                return None
            new = change(task)
            if new is None:
                return None
            try:
                return await self._swap(task, new)
            except Changed:
                continue
        log.error("task changes too often", task=task_id)
        return None

    async def retry(self, task: Task, step: RunStep) -> None:
        """Give a silent attempt up: fence it, and publish the next one, unless it has committed after all."""
        if task.run is None:
            return
        run_id = task.run.id
        new = await self._change(task.id, run_id, lambda seen: runs.retry(seen, step.id, step.attempt))
        if new is None:
            return
        await asyncio.to_thread(self.root.task(task.id).fence)
        manifest = await self.committed(new, step)
        if manifest is not None:
            await self.take_in(task.id, run_id, step, manifest)
        else:
            log.warning("silent attempt given up", task=task.id, run=run_id, step=step.name, attempt=step.attempt)
            await self.go_on(new)

    # ---- cancelling

    async def cancel(self, task_id: int, run_id: str) -> int:
        """Cancel a run; what was not committed before has no effect.

        Returns
        -------
        int
            How many steps had not ended.

        Raises
        ------
        Invalid
            When the run has ended.
        """
        closed = await self._change(task_id, run_id, lambda task: runs.begin_cancel(task, run_id))
        task = closed or await self.tasks.get(task_id)
        if task is None or task.run is None or task.run.id != run_id or not task.run.active:
            raise Invalid("The task is not running.")
        return await self.finish_cancel(task)

    async def finish_cancel(self, task: Task) -> int:
        """Fence the folder of a run that is closed to reports, take in what was committed before, and end it."""
        run, step = task.run, task.run.current if task.run else None
        if run is None or step is None:
            return 0
        commit = Commit(step.seq, STEPS[step.name].rank, step.name)
        manifest = await asyncio.to_thread(_fence, self.root.task(task.id), commit)
        new, revoked = runs.settle_cancel(task, step, manifest, now())
        try:
            await self._swap(task, new)
        except Changed:
            seen = await self.tasks.get(task.id)
            if seen is not None and seen.chain_id not in {None, run.id}:
                # another has ended it, and the marker just taken away was that of the next run
                await self._mark(seen)
            return revoked
        self.signs.forget(step.id)
        await self.broker.tell(control_route(), Cancel(task_id=task.id, run_id=run.id, at=now()))
        await self.release(run.user, step.name)
        if not revoked:
            raise Invalid("The task has just ended.")
        return revoked

    async def resume_cancel(self, task: Task) -> None:
        """Finish a cancel that a gateway died in."""
        try:
            await self.finish_cancel(task)
        except Invalid:
            log.info("run had ended before its cancel", task=task.id)


def _fence(folder: TaskDir, commit: Commit) -> Manifest | None:
    try:
        folder.write_marker(None)
    except NotFound:
        return None
    folder.fence()
    return folder.manifest(commit)
