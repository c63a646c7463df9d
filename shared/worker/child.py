"""The process in which one step runs."""

import contextlib
import errno
import json
import math
import os
import resource
import signal
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, TextIO

from pydantic import ValidationError

from ..contracts.messages import MAX_COMPUTED_BYTES
from ..errors import DataError, InternalError, StepError, UsageError
from ..metrics import Carrier
from ..taskdir import NotFound, TaskDir, TasksRoot
from . import wire
from .gently import work_gently
from .procfs import kill_descendants
from .request import RequestContext, RequestSpec
from .step import Resources, StepContext, StepSpec

MAX_JOBS: Final = 100
_DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_NO_ROOM_BYTES: Final = 64 * 2**20  # what a program leaves when it fails for want of more, having removed its own
CHEAP_S: Final = 0.5
CHEAP_BYTES: Final = 32 * 2**20
"""A child that did its job faster, with less memory, may do another one: a fork costs more than the cheapest steps."""


def serve(sock: socket.socket, service: str, specs: Mapping[str, StepSpec | RequestSpec]) -> NoReturn:
    """Wait for a job and do it, end or wait again. Called in a fresh fork; that `sock` is closed ends it when idle."""
    code = 1
    try:
        os.setsid()
        work_gently()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o022)
        idle_bytes = _peak_memory_bytes()
        fresh = _state()
        carrier = Carrier()
        for number in range(MAX_JOBS):
            _title(f"stdweb {service}: idle")
            job = wire.receive(sock)
            _title(f"stdweb {service}: {job['step']} of task {job['task_id']}")
            last = number == MAX_JOBS - 1
            if not _Job(sock, job, specs[job["step"]], carrier).do(0 if last else idle_bytes + CHEAP_BYTES, fresh):
                break
            os.chdir("/")
        code = 0
    except wire.WireClosed:
        code = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the fork server's loop
        traceback.print_exc()
    finally:
        os._exit(code)


def _peak_memory_bytes() -> int:
    """Measure like `procfs.memory_bytes`, which is not asked often enough to see a short step."""
    shared_pages = int(Path("/proc/self/statm").read_text().split()[2])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(0, peak - shared_pages * resource.getpagesize())


def _state() -> tuple[object, ...]:
    """Tell what a step could leave behind for the next one: environment, open files, mask of modes."""
    mask = os.umask(0o022)
    os.umask(mask)
    # one of the numbers is that of the listing itself, the same each time unless something else was left open
    return dict(os.environ), sorted(os.listdir("/proc/self/fd")), mask


def _title(text: str) -> None:
    from setproctitle import setproctitle

    setproctitle(text)


class _Job:
    """A step, or the answer to a request, at work.

    Parameters
    ----------
    sock
        To the worker.
    job
        What the worker sent: step, task, config, folders, resources; or what is asked.
    spec
        Who does it.
    carrier
        Knows what of this process's metrics the worker has.
    """

    def __init__(self, sock: socket.socket, job: wire.Frame, spec: StepSpec | RequestSpec, carrier: Carrier) -> None:
        self._sock = sock
        self._carrier = carrier
        self._job = job
        self._spec = spec
        self._title = f"step {spec.step.name}" if isinstance(spec, StepSpec) else spec.title
        self._lock = threading.Lock()  # steps may draw plots in threads, and log from them
        self._began = time.monotonic()
        self._log: TextIO | None = None

    def do(self, cheap_bytes: int, fresh: tuple[object, ...]) -> bool:
        """Do the work and tell how it ended, after everything that it started has gone.

        Parameters
        ----------
        cheap_bytes
            Peak memory from which on the process is not used again.
        fresh
            What `_state` said before the first job; a process that a job has changed is not used again either.

        Returns
        -------
        bool
            Whether the process waits for another job.
        """
        work = Path(self._job["work"])
        os.chdir(work)
        with contextlib.ExitStack() as stack:
            if isinstance(self._spec, StepSpec) and self._spec.step.log is not None:
                self._log = (work / self._spec.step.log).open("w", buffering=1)
                stack.callback(self._close_log, self._log)
            answer = self._answer(work)
        kill_descendants(set())
        peak = _peak_memory_bytes()
        quick = time.monotonic() - self._began < CHEAP_S
        again = quick and peak < cheap_bytes and threading.active_count() == 1 and not answer.get("internal")
        again = again and _state() == fresh
        self._send({**answer, "peak_memory_bytes": peak, "again": again})
        return again

    @staticmethod
    def _close_log(log: TextIO) -> None:
        with contextlib.suppress(OSError):  # lines that a full disk did not take
            log.close()

    def _answer(self, work: Path) -> wire.Frame:
        try:
            computed = self._run(work)
            check_plain(computed)
        except StepError as error:
            internal = isinstance(error, InternalError)
            if internal and is_disk_full(error, work):
                return self._disk_full()
            facts = f"{error.details!r}" + (traceback.format_exc() if internal else "")
            more = {"retry": error.retry, "internal": internal, "facts": facts}
            return self._failure(error.code, error.user_message, parameter=error.details.get("parameter"), **more)
        except MemoryError:
            return self._failure("memory_limit", f"The {self._title} ran out of memory; try a smaller image.")
        except Exception as error:  # noqa: BLE001 - the edge: whatever a step raises ends as a failed step
            if is_disk_full(error, work):
                return self._disk_full()
            text = f"The {self._title} stopped because of a fault in this service; its operators can see the cause."
            return self._failure("internal", text, internal=True, facts=traceback.format_exc())
        return {"t": "done", "computed": computed}

    def _run(self, work: Path) -> dict[str, Any]:
        if isinstance(self._spec, StepSpec):
            return self._spec.run(self._context(work, self._spec))
        request = self._spec.requests.validate_python(self._job["request"])
        self._spec.run(RequestContext(request=request, work=work, task=self._task()))
        return {}

    def _task(self, task_id: int | None = None) -> TaskDir:
        return TasksRoot(Path(self._job["data_dir"])).task(task_id or self._job["task_id"])

    def _open_of(self, task_id: int, name: str) -> BinaryIO | None:
        try:
            fd, _ = self._task(task_id).open(name)
        except NotFound:
            return None
        return os.fdopen(fd, "rb")

    def _failure(self, code: str, text: str, **more: object) -> wire.Frame:
        self._say(f"Failed: {text}")
        return {"t": "error", "code": code, "error": text, **more}

    def _disk_full(self) -> wire.Frame:
        return self._failure("disk_full", "There is no space left for the results; try again later.", retry=True)

    def _context(self, work: Path, spec: StepSpec) -> StepContext:
        job = self._job
        try:
            params = spec.step.params.of(job["config"])
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            code = "bad_config"
            raise UsageError(code, f"The option {where} cannot be used: {first['msg']}") from error
        mirror = job["mirror_dir"]
        resources = Resources(
            cache_dir=Path(job["cache_dir"]),
            mirror_dir=None if mirror is None else Path(mirror),
            astrometry_indexes=tuple(Path(path) for path in job["astrometry_indexes"]),
            threads=job["threads"],
            data_dir=Path(job["data_dir"]),
        )
        return StepContext(
            task_id=job["task_id"],
            params=params,
            config=job["config"],
            work=work,
            resources=resources,
            find=self._task().find,
            open_of=self._open_of,
            say=self._say,
            show=lambda fraction, phase: self._send({"t": "progress", "fraction": fraction, "phase": phase}),
        )

    def _say(self, line: str) -> None:
        text = f"{time.monotonic() - self._began:8.2f}  {line}"
        with self._lock:
            if self._log is not None:
                with contextlib.suppress(OSError):  # a full disk: the line is told all the same
                    self._log.write(text + "\n")
        self._send({"t": "log", "line": text})

    def _send(self, frame: wire.Frame) -> None:
        with self._lock:
            if news := self._carrier.news():
                frame = {**frame, "counted": news}
            data = wire.encode(frame)
            try:
                self._sock.sendall(data)
            except OSError:
                # the worker is gone, and the watchdog is on its way
                os.kill(0, signal.SIGKILL)


def is_disk_full(error: Exception, work: Path) -> bool:
    """Tell whether a failure is that of a full disk, for which programs and libraries have words of their own."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    volume = os.statvfs(work)
    return volume.f_bavail * volume.f_frsize < _NO_ROOM_BYTES


def check_plain(computed: object) -> None:
    """Refuse computed values that are not plain finite JSON.

    Raises
    ------
    InternalError
        Naming the key.
    DataError
        When it is more than a message may hold.
    """
    if not isinstance(computed, dict):
        code = "internal"
        raise InternalError(code, "The step gave no computed values.")
    for key, value in computed.items():
        if not isinstance(key, str) or not _is_plain(value):
            code = "internal"
            raise InternalError(code, f"The step computed no finite value for {key}.", value=repr(value))
    size = len(json.dumps(computed, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    if size > MAX_COMPUTED_BYTES:
        code = "too_much_computed"
        raise DataError(
            code,
            f"The step computed {size >> 10} KiB for the config of the task; at most {MAX_COMPUTED_BYTES >> 10} KiB "
            "are allowed. Ask for fewer targets, or give them shorter names.",
        )


def _is_plain(value: Any) -> bool:
    if value is None or type(value) in {bool, int, str}:
        return True
    if type(value) is float:
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return False
