"""What a worker does with a step message: it looks before it works, and acknowledges after the effect."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import ValidationError

from .. import metrics, tracing
from ..broker import (
    CHILD_DEATHS,
    Broker,
    BrokerUnavailable,
    Delivery,
    Route,
    delay_route,
    delays_for,
    report_route,
    step_route,
)
from ..broker.topology import HeaderValue
from ..contracts.messages import Cancel, StepDone, StepFailed, StepMessage, StepStarted
from ..settings import WorkerSettings
from ..taskdir import Attempt, AttemptKey, Fenced, NotFound, TaskDir, TasksRoot, claim, look
from .attempt import Ended, Repeat, WorkedAttempt
from .execution import Stop
from .pool import Pool
from .results import past_report
from .step import StepSpec

log = structlog.get_logger(__name__)

LEASE_SEEN: Final = "x-lease-seen"
LEASE_UNCHANGED_MS: Final = "x-lease-unchanged-ms"
TRIES: Final = "x-tries"
_REPUBLISH_S: Final = 0.5


@dataclass(frozen=True)
class _Seen:
    """What the folder says about a message: what was committed, whether it is over, and whose lease there is."""

    past: StepDone | StepFailed | None
    over: bool
    lease: str | None


@dataclass(frozen=True)
class _Request:
    """A step message with what it is about."""

    message: StepMessage
    spec: StepSpec
    task: TaskDir
    key: AttemptKey
    headers: Mapping[str, object]

    def count(self, name: str) -> int:
        """Read a counter from the headers."""
        value = self.headers.get(name, 0)
        return value if isinstance(value, int) else 0


class StepHandler:
    """Handles step messages of one service.

    Parameters
    ----------
    broker
        Where reports go.
    pool
        Where children come from.
    settings
        Limits and periods.
    specs
        Steps by name.
    worker
        Name of this worker, for reports.
    """

    def __init__(
        self, broker: Broker, pool: Pool, settings: WorkerSettings, specs: Mapping[str, StepSpec], worker: str
    ) -> None:
        self._broker = broker
        self._pool = pool
        self._settings = settings
        self._specs = specs
        self._worker = worker
        self._root = TasksRoot(settings.data_dir)
        self._delays_s = delays_for(settings.lease_poll_s)
        self._slots = {name: asyncio.Semaphore(settings.slots) for name in specs}
        self._working: set[WorkedAttempt] = set()
        self._handling = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    async def handle(self, delivery: Delivery) -> None:
        """Handle a step message, to its acknowledgement."""
        request = self._read(delivery)
        if request is None:
            await delivery.reject()
            return
        message = request.message
        structlog.contextvars.bind_contextvars(
            task_id=message.task_id, run_id=message.run_id, step_id=message.step_id, step=message.step
        )
        tracing.note(task=message.task_id, run=message.run_id, step=message.step, attempt=message.attempt)
        self._handling += 1
        self._idle.clear()
        try:
            await self._handle(request)
        except BrokerUnavailable:
            # nothing has been done that a copy of this message would not find
            await asyncio.sleep(_REPUBLISH_S)
            await delivery.requeue()
        except Exception:
            log.exception("step message failed")
            await asyncio.sleep(self._settings.heartbeat_s)
            await delivery.requeue()
        else:
            await delivery.ack()
        finally:
            self._handling -= 1
            if not self._handling:
                self._idle.set()

    async def control(self, delivery: Delivery) -> None:
        """Kill what works for a run that was cancelled."""
        cancel = Cancel.model_validate_json(delivery.body)
        for work in list(self._working):
            if work.message.run_id == cancel.run_id:
                await work.stop(Stop.CANCELLED)

    async def stop(self, drain_s: float, grace_s: float) -> None:
        """Let what works end, for `drain_s` seconds; what does not goes back to its queue, within `grace_s` seconds."""
        self._stopping = True
        if not await self._finished(drain_s):
            for work in list(self._working):
                await work.stop(Stop.STOPPING)
            await self._finished(grace_s)

    async def _finished(self, within_s: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), within_s)
        except TimeoutError:
            return False
        return True

    # ---- looking

    def _read(self, delivery: Delivery) -> _Request | None:
        try:
            message = StepMessage.model_validate_json(delivery.body)
        except ValidationError:
            log.exception("poison message", message_id=delivery.message_id)
            return None
        spec = self._specs.get(message.step)
        if spec is None:
            log.error("message of a step that is not ours", step=message.step)
            return None
        key = AttemptKey(message.run_id, message.step, message.attempt)
        return _Request(message, spec, self._root.task(message.task_id), key, delivery.headers)

    async def _handle(self, request: _Request) -> None:
        slot = self._slots[request.message.step]
        if slot.locked() and not await self._needs_work(request, await asyncio.to_thread(self._look, request)):
            return  # and has not waited for its turn
        async with slot:
            if self._stopping:
                msg = "the worker stops"
                raise BrokerUnavailable(msg)
            if not self._pool.warm.is_set():
                # the fork server does not come up: others may have the message meanwhile
                self._decided(request, "no child")
                await self._again(request, delay_route(request.message.step, self._delays_s[0]), {})
                return
            await self._work(request)

    async def _needs_work(self, request: _Request, seen: _Seen) -> bool:
        if seen.past is not None:
            self._decided(request, "reported again")
            await self._report(seen.past)
            return False
        if seen.over:
            self._decided(request, "dropped")
            return False
        if seen.lease is None:
            return True
        unchanged_ms = self._unchanged_ms(request, seen.lease)
        if unchanged_ms >= self._settings.lease_s * 1000:
            self._decided(request, "taken over")
            return True
        self._decided(request, "delayed")
        headers: dict[str, HeaderValue] = {LEASE_SEEN: seen.lease, LEASE_UNCHANGED_MS: unchanged_ms}
        await self._again(request, delay_route(request.message.step, self._delays_s[0]), headers)
        return False

    def _unchanged_ms(self, request: _Request, lease: str) -> int:
        """Tell how long this message has seen the same lease."""
        if request.headers.get(LEASE_SEEN) != lease:
            return 0
        return request.count(LEASE_UNCHANGED_MS) + round(self._delays_s[0] * 1000)

    def _look(self, request: _Request) -> _Seen:
        task, message = request.task, request.message
        past = past_report(task, message, request.spec.step, self._worker)
        over = past is None and (not task.exists() or task.closed(message.run_id) or task.passed(message.seq))
        return _Seen(past, over, None if over else look(task, request.key))

    def _decided(self, request: _Request, decision: str) -> None:
        metrics.MESSAGES.labels(request.message.step, decision).inc()
        tracing.note(decision=decision)
        log.info("step message", decision=decision)

    # ---- working

    async def _work(self, request: _Request) -> None:
        seen, attempt = await asyncio.to_thread(self._look_and_claim, request)
        if attempt is None:
            if not await self._needs_work(request, seen):
                return
            attempt = await asyncio.to_thread(_claim, request)  # its lease has run out
        if attempt is None:
            self._decided(request, "dropped")  # closed as we came
            return
        try:
            await self._run(request, attempt)
        finally:
            if not attempt.closed:
                await asyncio.to_thread(attempt.close)

    def _look_and_claim(self, request: _Request) -> tuple[_Seen, Attempt | None]:
        """Look, and take what is nobody's, in one visit to the volume."""
        seen = self._look(request)
        free = seen.past is None and not seen.over and seen.lease is None
        return seen, _claim(request) if free else None

    async def _run(self, request: _Request, attempt: Attempt) -> None:
        message, spec = request.message, request.spec
        self._decided(request, "worked on")
        metrics.ATTEMPTS.labels(message.step).inc()
        work = WorkedAttempt(
            message,
            spec.step,
            attempt,
            broker=self._broker,
            pool=self._pool,
            settings=self._settings,
            worker=self._worker,
            report=self._report,
        )
        self._working.add(work)
        try:
            with metrics.RUNNING.labels(message.step).track_inprogress():
                ended = await work.run(deaths=request.count(CHILD_DEATHS), tries=request.count(TRIES))
        finally:
            self._working.discard(work)
        await self._follow(request, attempt, ended)

    async def _follow(self, request: _Request, attempt: Attempt, ended: Ended) -> None:
        if isinstance(ended, StepDone | StepFailed):
            if isinstance(ended, StepFailed):
                metrics.FAILURES.labels(ended.step, ended.code).inc()
            await self._report(ended)
        elif isinstance(ended, Repeat):
            # our lease must not hold the next one up
            await asyncio.to_thread(attempt.close)
            if ended is Repeat.STOPPING:
                msg = "the worker stops"
                raise BrokerUnavailable(msg)
            step = request.message.step
            if ended is Repeat.NO_CHILD:
                await self._again(request, delay_route(step, self._delays_s[0]), {})
            elif ended is Repeat.DIED:
                await self._again(request, step_route(step), {CHILD_DEATHS: request.count(CHILD_DEATHS) + 1})
            else:
                tries = request.count(TRIES) + 1
                delay_s = self._delays_s[min(tries, len(self._delays_s)) - 1]
                await self._again(request, delay_route(step, delay_s), {TRIES: tries})

    # ---- sending

    async def _again(self, request: _Request, route: Route, headers: dict[str, HeaderValue]) -> None:
        """Publish a copy of the message with our own headers only; the broker's would make it look like a cycle."""
        kept: dict[str, HeaderValue] = {name: count for name in (CHILD_DEATHS, TRIES) if (count := request.count(name))}
        message = request.message
        await self._broker.publish(route, message, message_id=message.step_id, headers={**kept, **headers})

    async def _report(self, report: StepStarted | StepDone | StepFailed) -> None:
        """Publish a report until it is confirmed, under one id. The step's message stays unacknowledged meanwhile."""
        message_id = f"{report.step_id}-{report.attempt}-{report.kind}"
        while True:
            try:
                await self._broker.publish(report_route(report), report, message_id=message_id)
            except BrokerUnavailable as error:
                log.warning("report not confirmed", report=report.kind, error=str(error))
                await asyncio.sleep(_REPUBLISH_S)
            else:
                return


def _claim(request: _Request) -> Attempt | None:
    """Take the attempt; None when the task is gone, or the run is closed."""
    try:
        return claim(request.task, request.key)
    except (NotFound, Fenced):
        return None
