"""The coordinator: the only writer of runs. Every transition is a compare-and-set on the task's revision."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from shared import tracing
from shared.broker import Broker, BrokerUnavailable, step_route
from shared.contracts.messages import StepDone, StepFailed, StepMessage, StepStarted
from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.taskdir import Manifest, TasksRoot

from ..counters import RETRIES
from ..model import Run, RunStep, Task, now
from ..storage import Changed, Tasks, Users
from . import config as configs
from . import runs
from .callbacks import Callbacks
from .cancelling import Cancelling
from .errors import Conflict, Missing, Unavailable
from .fairshare import FairShare
from .fences import Fences
from .others import check_others
from .places import Places
from .revisions import Revisions
from .run_ids import RunIds
from .signs import Signs

_TRIES: Final = 50  # of a compare-and-set; each failure means that somebody else got on
_BROKER_AWAY: Final = "The message broker is away; nothing was started. Try again later."

log = structlog.get_logger()


class Coordinator:
    """Starts runs, and takes in what the services report."""

    def __init__(
        self,
        tasks: Tasks,
        root: TasksRoot,
        broker: Broker,
        signs: Signs,
        callbacks: Callbacks,
        *,
        users: Users,
        max_steps_per_user: int,
    ) -> None:
        self.tasks = tasks
        self.root = root
        self.broker = broker
        self.signs = signs
        self.callbacks = callbacks
        self.run_ids = RunIds(tasks)
        self.shares = FairShare(tasks, Places(broker, users, max_steps_per_user))
        self.revisions = Revisions(tasks)
        self.revisions.after.append(callbacks.changed)
        self.fences = Fences(root)
        self.cancelling = Cancelling(self.revisions, self.fences, signs, broker, self.release)

    # ---- starting

    async def process(self, task: Task, request: runs.Request) -> Task:
        """Start a run, once for an idempotency key: a run that the same request has begun before is given again.

        Raises
        ------
        Invalid
            For a bad config value, or another task that the steps would read and the user may not see.
        Conflict
            When a run is active, or the image is just being changed.
        Unavailable
            When the broker is away; nothing is queued and nothing changed then.
        """
        if (begun := await self._begun(task, request)) is not None:
            return begun
        if task.running:
            raise Conflict("The task is running; wait for its end, or cancel it.")
        if task.pending:
            raise Conflict("The image of the task is just being changed; try again in a moment.")
        asked = configs.merge(task.asked, request.change)
        await check_others(self.tasks, request, asked)
        if not self.broker.connected:
            raise Unavailable(_BROKER_AWAY)
        if task.run is not None:
            await self.tasks.keep_run(task.id, task.run)
        run_id = await self.run_ids.new(task.id)
        try:
            async with self.shares.admission(request.user, request.steps[0]) as admit:
                new = runs.start(task, request, run_id=run_id, asked=asked, at=now(), admit=admit)
                started = await self._begin(task, new, request)
                self.shares.note_turn(started)
        except Changed:
            # by another start, which wins, or by an edit, which does not matter
            await self.release(request.user, request.steps[0])
            seen = await self.tasks.get(task.id)
            if seen is None:
                raise Missing(f"There is no task {task.id}.") from None
            return await self.process(seen, request)
        await self._release_waiting(started)
        return await self._announce(task, started)

    async def _begin(self, task: Task, new: Task, request: runs.Request) -> Task:
        """Write the start of a run, and before it whom to tell of its end: whatever dies then, that is not lost."""
        if new.run is None or request.callback_url is None:
            return await self.revisions.swap(task, new)
        await self.callbacks.expect(task, new.run, request.callback_url)
        try:
            return await self.revisions.swap(task, new)
        except Changed:
            await self.callbacks.forget(new.run.id)
            raise

    async def _begun(self, task: Task, request: runs.Request) -> Task | None:
        """Find the run that an earlier request of the same key has begun; None when there is none."""
        if request.key is None:
            return None
        if task.run is not None and task.run.key == request.key:
            run: Run | None = task.run
        else:
            run = await self.tasks.run_of_key(task.id, request.key)
        if run is None:
            return None
        if run.request != request.digest:
            raise Conflict("This Idempotency-Key was used for another request; use a new one.")
        return await self._promised(task, run, request) if run.active else replace(task, run=run)

    async def _promised(self, task: Task, run: Run, request: runs.Request) -> Task:
        """Give a run to a second request: from here on the gateway that has begun it does not undo it any more."""
        if run.status == "cancelling":
            raise Conflict("The same request is just being undone, or cancelled; ask again in a moment.")
        with contextlib.suppress(Changed):
            return await self.revisions.swap(task, task)
        seen = await self.tasks.get(task.id)
        if seen is None:
            raise Missing(f"There is no task {task.id}.")
        return await self.process(seen, request)

    async def _announce(self, before: Task, started: Task) -> Task:
        """Tell the broker of a start, or undo it."""
        try:
            await self.publish(started)
        except BrokerUnavailable as error:
            kept = await self._roll_back(before, started)
            if kept is None:
                raise Unavailable(_BROKER_AWAY) from error
            return kept
        return started

    async def _roll_back(self, before: Task, started: Task) -> Task | None:
        """Undo a start; gives the task instead if a worker, or the same request at another gateway, was faster.

        The broker may have been told after all: no worker may begin, or commit, any more.
        """
        run, step = started.run, started.run.current if started.run else None
        if run is None or step is None or await self.fences.committed(started.id, step) is not None:
            return await self.tasks.get(started.id)
        try:
            await self.revisions.swap(started, runs.begin_undo(before, started))
        except Changed:
            # somebody knows of it, and may have been promised its end: it goes on as soon as the broker is back
            return await self.tasks.get(started.id)
        # another gateway may end that, too, if this one stands still
        manifest = await self.fences.close(started.id, run.id, step)
        await self.revisions.change(
            before.id, run.id, lambda task: runs.settle_cancel(task, step, manifest, now())[0] if task.running else None
        )
        if manifest is None:
            if run.callback is not None:
                await self.callbacks.forget(run.id)
            return None
        task = await self.tasks.get(started.id)  # its commit counts
        return task if task is not None and task.run is not None and task.run.status == "done" else None

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
        with tracing.belonging(run.trace):
            await self.broker.publish(step_route(step.name), message, message_id=step.id)
        sign.owed = False
        sign.published = asyncio.get_running_loop().time()

    async def publish_again(self, task: Task) -> None:
        """Publish a step that may have been lost; the same message twice is harmless."""
        if not await self.cancelling.end_if_closed(task):
            await self.go_on(task)

    async def _release_waiting(self, task: Task) -> None:
        """Look, for a step that has just been held back, whether a place got free as that was written."""
        if held := runs.held_back(task):
            await self.release(*held)

    # ---- what the services report

    async def started(self, report: StepStarted) -> None:
        """Note in the store that a service works on a step, unless that is known or over."""

        def begin(task: Task) -> Task | None:
            found = task.run.current if task.run else None
            # releasing a step that waited has used one of its two writes; its signs of life are enough
            if found is not None and found.waited:
                return None
            return runs.begin(task, report.step_id, report.attempt, now())

        await self.revisions.change(report.task_id, report.run_id, begin)

    async def done(self, report: StepDone) -> None:
        """Take in the results of a step, and go on to the next."""
        found = await self.revisions.with_current(report.task_id, report.run_id, report.step_id)
        if found is None:
            await self._clear_ended(report.task_id, report.run_id)
            return
        task, step = found
        if report.attempt != step.attempt:
            # of several attempts only one has committed, and the folder knows which
            manifest = await self.fences.committed(task.id, step)
            if manifest is not None:
                await self.take_in(task.id, report.run_id, step, manifest)
            return
        await self._succeed(task.id, report.run_id, report.step_id, report)

    async def failed(self, report: StepFailed) -> None:
        """End a run whose step cannot succeed."""
        found = await self.revisions.with_current(report.task_id, report.run_id, report.step_id)
        if found is None:
            await self._clear_ended(report.task_id, report.run_id)
            return
        task, step = found
        manifest = await self.fences.committed(task.id, step)
        if manifest is not None:
            await self.take_in(task.id, report.run_id, step, manifest)
        elif report.attempt == step.attempt:
            await self._fail(task.id, report.run_id, report.step_id, report, committed=False)

    async def dead(self, message: StepMessage, reason: str) -> None:
        """End a run whose step no worker could take, unless it has committed after all."""
        task = await self.tasks.get(message.task_id)
        step = runs.current_of(task, message.run_id, message.step_id)
        if task is None or task.run is None or step is None:
            return
        manifest = await self.fences.committed(task.id, step)
        if manifest is not None:
            await self.take_in(task.id, message.run_id, step, manifest)
            return
        if message.attempt < step.attempt and not await self.fences.closed(task.id, message.run_id):
            return  # it was given up, and the next one may be at work
        # a copy of the message may be at work: from here on it cannot commit
        manifest = await self.fences.close(task.id, message.run_id, step)

        def end(seen: Task) -> Task | None:
            current = runs.current_of(seen, message.run_id, step.id)
            if current is None:
                return None
            if manifest is not None:
                return runs.end_closed(seen, current, manifest, now())
            return runs.fail(seen, step.id, current.attempt, reason, now(), committed=False)

        await self._end(task.id, message.run_id, step.id, end)

    async def take_in(self, task_id: int, run_id: str, step: RunStep, manifest: Manifest) -> None:
        """Let a commit have its effect."""
        if manifest.outcome == "done":
            await self._succeed(task_id, run_id, step.id, manifest)
        else:
            await self._fail(task_id, run_id, step.id, manifest, committed=True)

    async def _succeed(self, task_id: int, run_id: str, step_id: str, result: StepDone | Manifest) -> None:
        for _ in range(_TRIES):
            found = await self.revisions.with_current(task_id, run_id, step_id)
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
                    seconds, repeats = result.seconds, result.repeats
                    new = runs.succeed(task, step_id, result.computed, now(), admit, seconds=seconds, repeats=repeats)
                    if new is None:
                        return
                    new = await self.revisions.swap(task, new)
                    self.shares.note_turn(new)
            except Changed:
                continue
            self.signs.forget(step_id)
            if not new.running:
                await self.fences.clear(task_id, run_id)
            await self.go_on(new)
            await self._release_waiting(new)
            await self.release(run.user, step.name, began)
            return

    async def _fail(
        self, task_id: int, run_id: str, step_id: str, result: StepFailed | Manifest, *, committed: bool
    ) -> None:
        def end(task: Task) -> Task | None:
            attempt, error, seconds, repeats = result.attempt, result.error, result.seconds, result.repeats
            return runs.fail(
                task, step_id, attempt, error, now(), committed=committed, seconds=seconds, repeats=repeats
            )

        await self._end(task_id, run_id, step_id, end)

    async def _end(self, task_id: int, run_id: str, step_id: str, change: Callable[[Task], Task | None]) -> None:
        began = time.monotonic()
        new = await self.revisions.change(task_id, run_id, change)
        if new is not None and new.run is not None:
            self.signs.forget(step_id)
            name = next(step.name for step in new.run.steps if step.id == step_id)
            await self.fences.clear(task_id, run_id)
            await self.release(new.run.user, name, began)

    async def _clear_ended(self, task_id: int, run_id: str) -> None:
        """Remove what is left of a run, if it has ended: who ended it may have died, or not known it, before that."""
        found = await self.tasks.find_run(task_id, run_id)  # another may have begun since
        if found is not None and not found[1].active:
            await self.fences.clear(task_id, run_id)

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
            async with self.shares.place(user, step) as task_id:
                if task_id is None:
                    return
                new = await self.revisions.release(task_id, step)
                if new is None:  # it was cancelled, or deleted, meanwhile
                    self.shares.unused(user, step)
            if new is not None:
                await self.go_on(new)

    async def retry(self, task: Task, step: RunStep) -> None:
        """Give a silent attempt up: fence it, and publish the next one, unless it has committed after all."""
        if task.run is None or await self.cancelling.end_if_closed(task):
            return
        run_id = task.run.id
        new = await self.revisions.change(task.id, run_id, lambda seen: runs.retry(seen, step.id, step.attempt))
        if new is None:
            return
        await self.fences.give_up(task.id, run_id, step)
        manifest = await self.fences.committed(task.id, step)
        if manifest is not None:
            await self.take_in(task.id, run_id, step, manifest)
        else:
            RETRIES.labels(step.name).inc()
            log.warning("silent attempt given up", task=task.id, run=run_id, step=step.name, attempt=step.attempt)
            await self.go_on(new)

    async def cancel(self, task_id: int, run_id: str) -> int:
        """Cancel a run; see `Cancelling.cancel`."""
        return await self.cancelling.cancel(task_id, run_id)
