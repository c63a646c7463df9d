"""Answers requests in children of the worker's pool: a file that is wrong in a new way must not hurt the service.

Nothing here decides what takes effect: files are left in a folder that belongs to the asker, who commits it, or has
moved it away. Each attempt has a folder of its own in it, so that a request that is delivered twice spoils nothing.
"""

import asyncio
import contextlib
import uuid
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import Histogram
from pydantic import ValidationError

from ..contracts.rpc import FolderRequest, Prepared, Refusal
from ..metrics import REGISTRY
from ..settings import WorkerSettings
from ..taskdir import TasksRoot
from .execution import Execution, Outcome, Stop
from .pool import Pool
from .request import RequestSpec
from .results import keep_only
from .wire import Frame

_CHILD_S: Final = 20.0  # to wait for a child
_DEATHS: Final = 2  # after which the image is to blame: one may be killed for what others need

REQUEST_SECONDS: Final = Histogram(
    "stdweb_worker_request_seconds",
    "From taking a request to its answer",
    ["request", "outcome"],
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100),
    registry=REGISTRY,
)

log = structlog.get_logger(__name__)


class RequestHandler:
    """Answers requests of one kind.

    Parameters
    ----------
    pool
        Where children come from.
    settings
        Limits, and the shared volume.
    spec
        Who does the work.
    """

    def __init__(self, pool: Pool, settings: WorkerSettings, spec: RequestSpec) -> None:
        self._pool = pool
        self._settings = settings
        self.spec = spec
        self._root = TasksRoot(settings.data_dir)
        self._working: set[Execution] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    async def answer(self, body: bytes) -> Prepared | Refusal:
        """Answer one request."""
        began = asyncio.get_running_loop().time()
        try:
            request = self.spec.requests.validate_json(body)
        except ValidationError as error:  # of another version of the gateway
            log.warning("request not understood", error=str(error))
            return Refusal(code="bad_message", error="The service does not understand the request.", status="fault")
        with structlog.contextvars.bound_contextvars(task=request.task_id, request=request.request_id):
            reply = await self._answer(request)
        seconds = asyncio.get_running_loop().time() - began
        outcome = reply.code if isinstance(reply, Refusal) else "prepared"
        REQUEST_SECONDS.labels(self.spec.rpc.name, outcome).observe(seconds)
        log.info(
            "request answered",
            rpc=self.spec.rpc.name,
            task=request.task_id,
            request=request.request_id,
            outcome=outcome,
            seconds=round(seconds, 3),
        )
        return reply

    async def stop(self, drain_s: float, grace_s: float) -> None:
        """Let what works end, for `drain_s` seconds; what does not is refused, within `grace_s` seconds."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_s)
        for execution in list(self._working):
            await execution.stop(Stop.STOPPING)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)

    async def _answer(self, request: FolderRequest) -> Prepared | Refusal:
        for _ in range(_DEATHS):
            reply = await self._attempt(request)
            if reply is not None:
                return reply
        text = f"The {self.spec.title} crashed: the image is damaged, or needs too much memory."
        return Refusal(code="crashed", error=text)

    async def _attempt(self, request: FolderRequest) -> Prepared | Refusal | None:
        """Do the work in a child; None when it died of it."""
        if self._stopping or not self._pool.warm.is_set():
            return _later("restarting")
        name = uuid.uuid4().hex
        work = self._root.incoming(request.source) / name
        try:
            await asyncio.to_thread(work.mkdir)
            async with asyncio.timeout(_CHILD_S):
                child = await self._pool.get()
        except (FileNotFoundError, NotADirectoryError):
            return _later("given_up")  # the asker does not wait any more
        except TimeoutError:
            return _later("no_child")
        execution = Execution(child, self.spec.time_limit_s, self._settings.step_memory_bytes)
        self._working.add(execution)
        self._idle.clear()
        try:
            outcome = await execution.run(self._job(request, work))
            if outcome.answer is None and outcome.stop is None:
                log.error("child died", exit_code=outcome.exit_code)
                return None
            return self._refused(outcome) or await self._prepared(name, work)
        finally:
            self._working.discard(execution)
            if not self._working:
                self._idle.set()

    def _job(self, request: FolderRequest, work: Path) -> Frame:
        return {
            "step": self.spec.rpc.name,
            "task_id": request.task_id,
            "request": request.model_dump(mode="json"),
            "work": str(work),
            "data_dir": str(self._settings.data_dir),
        }

    async def _prepared(self, name: str, work: Path) -> Prepared | Refusal:
        try:
            files = await asyncio.to_thread(keep_only, work, self.spec.files)
        except (FileNotFoundError, NotADirectoryError):
            return _later("given_up")
        return Prepared(folder=name, files=files)

    def _refused(self, outcome: Outcome) -> Refusal | None:
        title = self.spec.title
        match outcome.stop:
            case Stop.TIME_LIMIT:
                text = f"The {title} took longer than its limit of {self.spec.time_limit_s:g} s; try a smaller image."
                return Refusal(code="time_limit", error=text)
            case Stop.MEMORY_LIMIT:
                size = self._settings.step_memory_bytes / 2**30
                text = f"The {title} needed more than its {size:.3g} GiB of memory; try a smaller image."
                return Refusal(code="memory_limit", error=text)
            case None:
                assert outcome.answer is not None
                return self._said(outcome.answer)
        return _later("restarting")

    def _said(self, answer: Frame) -> Refusal | None:
        if answer["t"] == "done":
            return None
        internal = bool(answer.get("internal"))
        (log.error if internal else log.info)("request failed", code=answer["code"], facts=answer.get("facts", ""))
        parameter = answer.get("parameter")
        if internal:
            return Refusal(code=answer["code"], error=answer["error"], status="fault")
        status = "later" if answer.get("retry") else "missing" if answer["code"] == "no_image" else "bad"
        return Refusal(code=answer["code"], error=answer["error"], status=status, parameter=parameter)


def _later(code: str) -> Refusal:
    return Refusal(code=code, error="The service cannot do this just now; try again later.", status="later")
