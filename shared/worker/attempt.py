"""One attempt at one step: the child, its signs of life, and the commit."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

import structlog

from .. import metrics, tracing
from ..broker import Broker, progress_route
from ..contracts.messages import StepDone, StepFailed, StepMessage, StepProgress, StepStarted
from ..contracts.steps import Step
from ..settings import WorkerSettings
from ..taskdir import Attempt, Commit, Fenced, Manifest
from .beside import beside
from .execution import Execution, Outcome, Stop
from .pool import Pool
from .results import keep_only, names_to_keep, report_of
from .wire import Frame

log = structlog.get_logger(__name__)

MAX_TRIES: Final = 3  # of a step whose failures pass
_CHILD_S: Final = 30.0  # to wait for a child: one that comes no sooner may be had by another worker
_NEWS_S: Final = 0.5  # between progress messages that have news
_QUICK_S: Final = 0.25  # a step that ends sooner is reported once: with its end
_MAX_LINES: Final = 500  # of the log in one progress message; the log file has all


class Repeat(Enum):
    """Why the step's message goes round once more."""

    DIED = "died"
    TRANSIENT = "transient"
    STOPPING = "stopping"
    NO_CHILD = "no child"


Ended = StepDone | StepFailed | Repeat | None


@dataclass(frozen=True)
class _Result:
    """What will be committed."""

    computed: dict[str, Any]
    code: str = ""
    error: str = ""


class WorkedAttempt:
    """A claimed attempt at work.

    Parameters
    ----------
    message, step
        What to do.
    attempt
        Our claim.
    broker, pool, settings, worker
        As in `StepHandler`.
    report
        Publishes until it is confirmed.
    """

    def __init__(
        self,
        message: StepMessage,
        step: Step,
        attempt: Attempt,
        *,
        broker: Broker,
        pool: Pool,
        settings: WorkerSettings,
        worker: str,
        report: Callable[[StepStarted], Coroutine[Any, Any, None]],
    ) -> None:
        self.message = message
        self._step = step
        self._attempt = attempt
        self._broker = broker
        self._pool = pool
        self._settings = settings
        self._worker = worker
        self._report = report
        self._execution: Execution | None = None
        self._stop: Stop | None = None
        self._starting: asyncio.TimerHandle | None = None
        self._logged = 0
        self._repeats = 0
        self._started: asyncio.Task[None] | None = None
        self._news_s = min(_NEWS_S, settings.heartbeat_s)

    async def stop(self, why: Stop) -> None:
        """Kill the child, or do not start it."""
        self._stop = self._stop or why
        if self._execution is not None:
            await self._execution.stop(why)

    async def run(self, *, deaths: int, tries: int) -> Ended:
        """Work, and commit.

        Parameters
        ----------
        deaths
            How many children have died of this message.
        tries
            How many attempts at it met a passing failure.

        Returns
        -------
        Ended
            What to report, or why to try again; None when nothing of it counts.
        """
        self._repeats = deaths + tries
        try:
            async with beside(self._beat, after_s=self._news_s):
                report = await self._work(deaths, tries)
        finally:
            if self._starting is not None:
                self._starting.cancel()
        if isinstance(report, StepDone | StepFailed) and self._started is not None:
            await self._started
        return report

    async def _work(self, deaths: int, tries: int) -> Ended:
        try:
            with tracing.span("wait for a process"):
                async with asyncio.timeout(_CHILD_S):
                    child = await self._pool.get()
        except TimeoutError:
            return Repeat.NO_CHILD
        self._execution = Execution(child, self._step.time_limit_s, self._settings.step_memory_bytes)
        if self._stop is not None:
            await self._execution.stop(self._stop)
        self._running()
        with tracing.span(f"run {self._step.name}"):
            outcome = await self._execution.run(self._job())
            result = self._judge(outcome, deaths, tries)
        if not isinstance(result, _Result):
            return result
        with tracing.span("commit"):
            return await self._commit(result, outcome)

    def _job(self) -> Frame:
        settings, message = self._settings, self.message
        return {
            "step": message.step,
            "task_id": message.task_id,
            "config": message.config,
            "work": str(self._attempt.work),
            "data_dir": str(settings.data_dir),
            "cache_dir": str(settings.data_dir / "cache"),
            "mirror_dir": None if settings.mirror_dir is None else str(settings.mirror_dir),
            "astrometry_indexes": [str(path) for path in settings.astrometry_indexes],
            "threads": self._pool.threads,
        }

    # ---- signs of life

    def _running(self) -> None:
        now = datetime.now(UTC)
        metrics.QUEUE_WAIT_SECONDS.labels(self._step.name).observe(max(0.0, (now - self.message.at).total_seconds()))
        started = StepStarted(at=now, **self._common())
        self._starting = asyncio.get_running_loop().call_later(_QUICK_S, self._tell_started, started)

    def _tell_started(self, started: StepStarted) -> None:
        self._started = asyncio.create_task(self._report(started))

    def _common(self) -> dict[str, Any]:
        message = self.message
        return {
            "task_id": message.task_id,
            "run_id": message.run_id,
            "step_id": message.step_id,
            "step": message.step,
            "attempt": message.attempt,
            "worker": self._worker,
        }

    async def _beat(self) -> None:
        """Keep the lease changing, tell the progress, and stop what has been fenced; begins after `_news_s`."""
        loop = asyncio.get_running_loop()
        count, beat_at = 0, loop.time() - self._news_s
        while True:
            due = loop.time() - beat_at >= self._settings.heartbeat_s
            if due:
                count, beat_at = count + 1, loop.time()
                if not await asyncio.to_thread(self._alive, count):
                    await self.stop(Stop.FENCED)
                    return
            await self._tell(always=due)
            await asyncio.sleep(self._news_s)

    def _alive(self, count: int) -> bool:
        try:
            self._attempt.beat(count)
            return self._attempt.held()
        except OSError as error:
            # a volume that hiccups is no reason to stop: the commit decides
            log.warning("lease not renewed", error=str(error))
            return True

    async def _tell(self, *, always: bool) -> None:
        if self._execution is None or not (always or self._execution.live.news):
            return
        live = self._execution.live
        self._logged += len(live.lines)
        lines, live.lines = live.lines[-_MAX_LINES:], []
        live.news = False
        progress = StepProgress(
            at=datetime.now(UTC),
            fraction=live.fraction,
            phase=live.phase,
            log=tuple(lines),
            logged=self._logged,
            **self._common(),
        )
        await self._broker.tell(progress_route(progress), progress)

    # ---- the end

    def _judge(self, outcome: Outcome, deaths: int, tries: int) -> _Result | Repeat | None:
        label = outcome.stop or ("died" if outcome.answer is None else outcome.answer["t"])
        if label != "done":
            tracing.fail(str(label))
        tracing.note(outcome=str(label), peak_memory_bytes=outcome.peak_memory_bytes)
        metrics.STEP_SECONDS.labels(self._step.name, str(label)).observe(outcome.seconds)
        metrics.STEP_MEMORY_BYTES.labels(self._step.name).observe(outcome.peak_memory_bytes)
        log.info(
            "step ended", outcome=str(label), seconds=round(outcome.seconds, 3), peak_memory=outcome.peak_memory_bytes
        )
        if outcome.stop is not None:
            return self._judge_stop(outcome.stop)
        if outcome.answer is None:
            name = self._step.name
            metrics.CHILD_DEATHS.labels(name).inc()
            log.error("child died", exit_code=outcome.exit_code, deaths=deaths + 1)
            if deaths + 1 < self._settings.max_child_deaths:
                return Repeat.DIED
            text = f"The step {name} crashed {deaths + 1} times, probably for lack of memory; try a smaller image."
            return _Result({}, "crashed", text)
        return self._judge_answer(outcome.answer, tries)

    def _judge_stop(self, stop: Stop) -> _Result | Repeat | None:
        name = self._step.name
        match stop:
            case Stop.CANCELLED | Stop.FENCED:
                return None
            case Stop.STOPPING:
                return Repeat.STOPPING
            case Stop.TIME_LIMIT:
                minutes = self._step.time_limit_s / 60
                text = f"The step {name} took longer than its limit of {minutes:.3g} minutes; try a smaller image."
                return _Result({}, "time_limit", text)
            case Stop.MEMORY_LIMIT:
                size = self._settings.step_memory_bytes / 2**30
                text = f"The step {name} needed more than its {size:.3g} GiB of memory; try a smaller image."
                return _Result({}, "memory_limit", text)

    def _judge_answer(self, answer: Frame, tries: int) -> _Result | Repeat:
        if answer["t"] == "done":
            return _Result(answer["computed"])
        log_it = log.error if answer.get("internal") else log.info
        log_it("step failed", code=answer["code"], error=answer["error"], facts=answer.get("facts", ""))
        if answer.get("retry") and tries + 1 < MAX_TRIES:
            return Repeat.TRANSIENT
        return _Result({}, answer["code"], answer["error"])

    async def _commit(self, result: _Result, outcome: Outcome) -> StepDone | StepFailed | None:
        try:
            manifest = await asyncio.to_thread(self._publish, result, outcome)
        except (Fenced, FileNotFoundError, NotADirectoryError):
            log.info("attempt fenced")
            return None
        await self._tell(always=False)
        return report_of(manifest, self.message, self._worker)

    def _publish(self, result: _Result, outcome: Outcome) -> Manifest:
        done = not result.code
        message, step = self.message, self._step
        files = keep_only(self._attempt.work, names_to_keep(step, done=done))
        manifest = Manifest(
            run_id=message.run_id,
            step_id=message.step_id,
            step=message.step,
            attempt=message.attempt,
            owner=self._attempt.owner,
            outcome="done" if done else "failed",
            code=result.code,
            error=result.error,
            computed=result.computed,
            files=files,
            seconds=outcome.seconds,
            peak_memory_bytes=outcome.peak_memory_bytes,
            repeats=self._repeats,
        )
        self._attempt.commit(Commit(message.seq, step.rank, step.name), manifest)
        return manifest
