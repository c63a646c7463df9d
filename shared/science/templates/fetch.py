"""Files of image archives through a cache on the shared volume: each is downloaded once, by whoever needs it first."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final

import requests

from ...errors import DataError, TransientError
from ..archives import PASSING, Archive, ArchiveFaultError, Log, ask, locked, spared
from ..fits_layout import BLOCK_BYTES, bytes_to_image

DOWNLOADS: Final = 4
"""Files that a step downloads at a time: more is impolite."""
CACHE_BYTES: Final = 50 * 1024**3
"""What the cache of images may hold; the files that were not used for longest go first."""

_ABSENT_S: Final = 24 * 3600.0
"""How long an archive's word is taken that it has no such file."""
_NOT_FOUND: Final = 404


@dataclass(frozen=True)
class Wanted:
    """A file of an archive.

    Parameters
    ----------
    urls
        Where it is; the next one is asked when one fails.
    name
        Path within the cache of templates.
    query
        Parameters of the request.
    """

    urls: Sequence[str]
    name: str
    query: Mapping[str, str] = field(default_factory=dict)


class ImageCache:
    """The cache of one archive's files.

    Parameters
    ----------
    archive
        Whom to ask.
    cache_dir
        The shared volume's cache folder.
    log
        Takes lines of the step's log.
    """

    def __init__(self, archive: Archive, cache_dir: Path, log: Log) -> None:
        self.archive = archive
        self._cache_dir = cache_dir
        self._folder = cache_dir / "templates"
        self._log = log
        self._speaking = threading.Lock()
        self.downloaded = 0

    def each(self, groups: Sequence[Sequence[Wanted]]) -> Iterator[tuple[int, list[Path | None]]]:
        """Get groups of files, several at a time, and give each group's number and paths in order as they are there.

        A path is None where the archive has no such file. When one cannot be had the others are no longer asked for.

        Raises
        ------
        TransientError
            When the archive does not answer, or sends what is no FITS file.
        """
        pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix=self.archive.code)
        try:
            jobs = [[pool.submit(self.get, wanted) for wanted in group] for group in groups]
            for number, group in enumerate(jobs):
                yield number, [job.result() for job in group]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def get(self, wanted: Wanted) -> Path | None:
        """Get one file; see `each`."""
        path = self._folder / wanted.name
        with _writing():
            path.parent.mkdir(parents=True, exist_ok=True)
        timeout_s = self.archive.deadline_s * (self.archive.attempts + 1)
        with locked(path.with_name(f".{path.name}.lock"), timeout_s):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if status.st_size > 0:
                    os.utime(path)  # used now
                    spared(self.archive)
                    return path
                if time.time() - status.st_mtime < _ABSENT_S:
                    spared(self.archive)
                    return None
            body = ask(self.archive, _asking(wanted), self._cache_dir, self.say)
            self._store(body, path)
        if body is None:
            return None
        self.downloaded += 1
        _prune(self._folder, CACHE_BYTES)
        return path

    def forget(self, path: Path, reason: str) -> TransientError:
        """Drop a file that turned out to be not what was asked for, and make the error that says so."""
        path.unlink(missing_ok=True)
        self.say(f"{self.archive.title} sent something else than the image that was asked for: {reason}")
        message = f"{self.archive.title} sent an image that cannot be used; try again later, or set another template."
        return TransientError("bad_answer", message, archive=self.archive.code, reason=reason)

    def say(self, *words: object) -> None:
        """Write a line of the log, from any thread."""
        with self._speaking:
            self._log(*words)

    def _store(self, body: IO[bytes] | None, path: Path) -> None:
        with _writing(), contextlib.ExitStack() as stack:
            if body is not None:
                stack.enter_context(body)
            part = stack.enter_context(NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False))
            stack.callback(Path(part.name).unlink, missing_ok=True)
            if body is not None:
                shutil.copyfileobj(body, part, 1 << 20)
            part.flush()
            Path(part.name).chmod(0o644)
            Path(part.name).replace(path)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = "Reference images cannot be kept: the site's cache is full or not writable. Try again later."
        raise TransientError("cache_full", message, reason=str(error)) from error


def _asking(wanted: Wanted) -> Callable[[requests.Session], IO[bytes] | None]:
    def call(http: requests.Session) -> IO[bytes] | None:
        failure: Exception | None = None
        for url in wanted.urls:
            try:
                answer = http.get(url, params=dict(wanted.query), stream=True)
                body: Any = answer.raw  # a file that holds the whole answer
                if answer.status_code == _NOT_FOUND:
                    body.close()
                    return None
                try:
                    answer.raise_for_status()
                    _check(body)
                except PASSING:
                    body.close()
                    raise
            except PASSING as error:
                failure = error
            else:
                whole: IO[bytes] = body
                return whole
        raise failure or ArchiveFaultError

    return call


def _check(body: Any) -> None:
    """Refuse what is no FITS file, or ends before its first image does; leaves the file at its start."""
    size_bytes = body.seek(0, os.SEEK_END)
    body.seek(0)
    start = body.read(6)
    body.seek(0)
    if start != b"SIMPLE":
        raise ArchiveFaultError("the answer is no FITS file")
    try:
        declared_bytes = bytes_to_image(body, size_bytes)
    except DataError as error:
        raise ArchiveFaultError("the answer is no valid FITS file") from error
    if declared_bytes >= size_bytes + BLOCK_BYTES:  # some writers leave the last block's padding out
        raise ArchiveFaultError("the answer is cut off")
    body.seek(0)


def _prune(folder: Path, limit_bytes: int) -> None:
    """Remove the files that were not used for longest, until the rest fits; they can be had again."""
    held = []
    for path in folder.rglob("*.fits*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if status.st_size > 0 and not path.name.startswith("."):
                held.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in held)
    for _, size, path in sorted(held):
        if total <= limit_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
