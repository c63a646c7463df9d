"""The guard before every public archive: time limits, few retries, a circuit breaker, one request at a time.

What is known of an archive's health, the locks and the answers live in the cache folder on the shared volume, so that
all replicas know the same. The folder may be emptied at any time.
"""

import contextlib
import fcntl
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, SpooledTemporaryFile
from typing import IO, Any, Final, TypeVar

import certifi
import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from .. import metrics
from ..errors import TransientError

Log = Callable[..., None]
T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 10.0
SILENCE_TIMEOUT_S: Final = 60.0  # VizieR thinks for a while before the first byte of a dense field
MAX_ANSWER_BYTES: Final = 512 * 1024**2
MEMORY_BYTES: Final = 32 * 1024**2
"""Larger answers are kept on disk until they are read."""
BREAKER_FAILURES: Final = 3
BREAKER_PAUSE_S: Final = 20.0
SERVER_FAULT: Final = 500
TOO_MANY_REQUESTS: Final = 429
LOCK_POLL_S: Final = 0.05


class ArchiveFaultError(Exception):
    """The answer of an archive is broken or incomplete; asking again may help."""


PASSING: Final = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ArchiveFaultError)


@dataclass(frozen=True)
class Archive:
    """A public service and how patient we are with it.

    Parameters
    ----------
    code
        Short name, for files and logs.
    title
        Name for users.
    deadline_s
        Longest time of one request with its answer, seconds.
    attempts
        How often one question is asked before it counts as a failure.
    """

    code: str
    title: str
    deadline_s: float
    attempts: int = 3


VIZIER: Final = Archive("vizier", "VizieR", 120.0)
SESAME: Final = Archive("sesame", "Sesame", 15.0)
TNS: Final = Archive("tns", "the transient name resolver", 15.0, attempts=2)
XMATCH: Final = Archive("xmatch", "CDS XMatch", 120.0)
SKYBOT: Final = Archive("skybot", "SkyBoT", 60.0)
HIPS: Final = Archive("hips2fits", "hips2fits", 20.0, attempts=1)  # pictures beside results are not worth waiting for
HIPS_TEMPLATES: Final = Archive("hips2fits", "hips2fits", 120.0)  # the same service, and no result without it
PS1: Final = Archive("ps1", "the Pan-STARRS archive", 300.0)  # 60 MB a file
LEGACY: Final = Archive("legacysurvey", "the Legacy Survey archive", 300.0)


def apply_ca_bundle(path: Path | None) -> None:
    """Make requests and astropy's downloads alike trust the certificates in `path`; call once, at process start.

    astropy's downloader knows no environment variable, it asks certifi where the bundle is.

    Parameters
    ----------
    path
        PEM file that replaces the default bundle; None changes nothing.
    """
    if path is None:
        return
    bundle = str(path.resolve(strict=True))
    os.environ["REQUESTS_CA_BUNDLE"] = bundle
    os.environ["SSL_CERT_FILE"] = bundle

    def where() -> str:
        return bundle

    certifi.where = certifi.core.where = where


class _BoundedAdapter(HTTPAdapter):
    """Reads the whole answer within a deadline, whatever time-outs the caller forgot; a trickle of bytes ends too.

    With `stream=True` the answer is read as well, into a file that the caller closes: a large one is not in memory.
    """

    def __init__(self, deadline_s: float) -> None:
        super().__init__()
        self.deadline_s = deadline_s

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **options: Any
    ) -> requests.Response:
        end = time.monotonic() + self.deadline_s
        options["timeout"] = (min(CONNECT_TIMEOUT_S, self.deadline_s), min(SILENCE_TIMEOUT_S, self.deadline_s))
        response = super().send(request, stream, *args, **options)
        body: IO[bytes] = SpooledTemporaryFile(MEMORY_BYTES) if stream else io.BytesIO()  # noqa: SIM115  handed over
        try:
            self._read(response, body, end)
            response.raw.close()
            response.raw = body
            response.headers.pop("Content-Encoding", None)  # the body is decoded by now
            if response.status_code >= SERVER_FAULT or response.status_code == TOO_MANY_REQUESTS:
                response.raise_for_status()
        except BaseException:
            response.raw.close()
            body.close()
            raise
        return response

    def _read(self, response: requests.Response, body: IO[bytes], end: float) -> None:
        while chunk := response.raw.read1(65536, decode_content=True):
            body.write(chunk)
            if time.monotonic() > end:
                msg = f"the answer took longer than {self.deadline_s:g} s"
                raise requests.Timeout(msg)
            if body.tell() > MAX_ANSWER_BYTES:
                msg = f"the answer is larger than {MAX_ANSWER_BYTES / 1024**2:g} MiB"
                raise ArchiveFaultError(msg)
        body.seek(0)


def session(deadline_s: float) -> requests.Session:
    """Make a session whose every request ends within `deadline_s` seconds; proxies come from the environment."""
    http = requests.Session()
    http.mount("https://", _BoundedAdapter(deadline_s))
    http.mount("http://", _BoundedAdapter(deadline_s))
    return http


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` into `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock `path` against all other processes on the shared volume; the system frees it when we die.

    Raises
    ------
    TransientError
        When somebody else holds it for longer than `timeout_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + timeout_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    message = "Another step waits for the same reference data too long; try again later."
                    raise TransientError("archive_unavailable", message, lock=path.name) from None
                time.sleep(LOCK_POLL_S)
        yield


class _Breaker:
    """Counts failed attempts in a row; after three the archive is left alone for a while, then one is enough."""

    def __init__(self, archive: Archive, cache_dir: Path) -> None:
        self.path = cache_dir / "archives" / f"{archive.code}.json"
        self._shown = metrics.ARCHIVE_PAUSED_UNTIL.labels(archive.code)

    def _read(self) -> tuple[int, float]:
        try:
            state = json.loads(self.path.read_text())
            return int(state["failures"]), float(state["until"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0.0

    def pause_s(self) -> float:
        """Tell for how many seconds the archive is still left alone; never more than a pause, clocks may differ."""
        until = self._read()[1]
        self._shown.set(until)
        return min(max(until - time.time(), 0.0), BREAKER_PAUSE_S)

    def note(self, *, failed: int) -> None:
        """Count failed attempts; 0 for an answer. A breaker that cannot be written breaks nothing."""
        if failed or self.path.exists():
            with contextlib.suppress(OSError):
                self._count(failed)

    def _count(self, failed: int) -> None:
        with locked(self.path.with_suffix(".lock"), timeout_s=5.0):
            failures = self._read()[0] + failed if failed else 0
            until = time.time() + BREAKER_PAUSE_S if failures >= BREAKER_FAILURES else 0.0
            self._shown.set(until)
            if failures:
                write_atomically(self.path, json.dumps({"failures": failures, "until": until}).encode())
            else:
                self.path.unlink(missing_ok=True)


def ask(archive: Archive, call: Callable[[requests.Session], T], cache_dir: Path, log: Log) -> T:
    """Ask an archive through its guard.

    Parameters
    ----------
    archive
        Whom.
    call
        Asks once, with the session that it gets; passing failures are raised as one of `PASSING`.
    cache_dir
        Folder on the shared volume where the archive's health is kept.
    log
        Takes a line of the step's log.

    Raises
    ------
    TransientError
        When the archive does not answer, or was found dead a moment ago.
    """
    breaker = _Breaker(archive, cache_dir)
    if (pause_s := breaker.pause_s()) > 0:
        log(f"{archive.title} did not answer lately, it is left alone for {pause_s:.0f} s more")
        metrics.ARCHIVE_CALLS.labels(archive.code, "paused").inc()
        raise unavailable(archive)

    def once() -> T:
        with session(archive.deadline_s) as http:
            return call(http)

    def note_retry(state: tenacity.RetryCallState) -> None:
        log(f"{archive.title}: attempt {state.attempt_number} failed ({_reason(state)}), asking again")

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(archive.attempts) | tenacity.stop_after_delay(archive.deadline_s),
        wait=tenacity.wait_exponential_jitter(initial=0.3, max=5.0, jitter=0.5),
        retry=tenacity.retry_if_exception_type(PASSING),
        before_sleep=note_retry,
        reraise=True,
    )
    began, outcome = time.monotonic(), "failed"
    try:
        answer = retrying(once)
        outcome = "answered"
    except PASSING as error:
        breaker.note(failed=retrying.statistics.get("attempt_number", 1))
        log(f"{archive.title} does not answer ({type(error).__name__})")
        raise unavailable(archive, reason=str(error)) from error
    finally:
        metrics.ARCHIVE_SECONDS.labels(archive.code).inc(time.monotonic() - began)
        metrics.ARCHIVE_CALLS.labels(archive.code, outcome).inc()
    breaker.note(failed=0)
    return answer


def spared(archive: Archive) -> None:
    """Count a question that the cache has answered."""
    metrics.ARCHIVE_CACHE_HITS.labels(archive.code).inc()


def _reason(state: tenacity.RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    return type(error).__name__


def unavailable(archive: Archive, reason: str = "left alone for a while") -> TransientError:
    """Make the error of an archive that does not answer."""
    message = (
        f"{archive.title} cannot be reached at the moment; try again later, or let the site install a local mirror."
    )
    return TransientError("archive_unavailable", message, archive=archive.code, reason=reason)
