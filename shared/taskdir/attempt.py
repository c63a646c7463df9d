"""An attempt at a step: claimed, kept alive, committed or fenced."""

import contextlib
import errno
import os
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .commits import Commit, Manifest
from .disk import delete
from .folder import WORK, NotFound, TaskDir

_LEASE: Final = "lease"


class Fenced(Exception):
    """The attempt's folder was taken away: cancelled, deleted, or taken over. Nothing of it may be published."""


@dataclass(frozen=True)
class AttemptKey:
    """Which attempt at which step of which run."""

    run_id: str
    step: str
    attempt: int

    @property
    def folder(self) -> str:
        """Name of its folder in `.work`."""
        return f"{self.run_id}/{self.step}-{self.attempt}"


@dataclass(frozen=True)
class Attempt:
    """A claimed attempt: its folder is ours until a fence takes it.

    Parameters
    ----------
    work
        Where the step writes.
    owner
        Unique name of this claim, so that a worker that was frozen never commits another's work.
    """

    task: TaskDir
    key: AttemptKey
    owner: str
    work: Path
    lease_fd: int
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    _closed: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def beat(self, count: int) -> None:
        """Show that the attempt is alive. Written through the descriptor: after a fence it changes nothing."""
        with self._lock:
            # a closed descriptor's number may be another file's by now
            if not self._closed.is_set():
                os.pwrite(self.lease_fd, f"{self.owner} {count:012d}".encode(), 0)
                if count:
                    os.fdatasync(self.lease_fd)  # NFS would keep it from other hosts for as long as a lease lasts

    def held(self) -> bool:
        """Tell whether no fence has taken the folder."""
        return self.work.is_dir()

    def commit(self, commit: Commit, manifest: Manifest) -> None:
        """Publish what is in the folder as it is.

        Raises
        ------
        Fenced
            When another has the commit, or the folder is gone.
        """
        if not self.task.commit(self.work, commit, manifest):
            raise Fenced
        self.close()

    @property
    def closed(self) -> bool:
        """Whether we have let go of it."""
        return self._closed.is_set()

    def close(self) -> None:
        """Let go of the attempt and delete what is left of it; once is enough, twice does nothing."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            os.close(self.lease_fd)
        parent = self.work.parent
        if _owner_of(parent) != self.owner:
            return
        try:
            # after a commit nothing else is in it
            (parent / _LEASE).unlink()
            parent.rmdir()
        except OSError:
            delete(parent)


def look(task: TaskDir, key: AttemptKey) -> str | None:
    """Read the lease of an attempt; None when nobody works at it. It is alive as long as this value changes."""
    try:
        return (task.path / WORK / key.folder / _LEASE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


def fence(task: TaskDir, key: AttemptKey) -> None:
    """Take an attempt's folder away: whoever had it cannot commit any more."""
    task.root.trash(task.path / WORK / key.folder)


def claim(task: TaskDir, key: AttemptKey) -> Attempt:
    """Take an attempt, fencing whoever had it.

    The folder is made under another name and appears in one rename: of two that claim at once each has one of its own,
    and the later one stays.

    Raises
    ------
    Fenced
        When the run was closed.
    NotFound
        When the task has no folder.
    """
    owner = uuid.uuid4().hex
    folder = task.path / WORK / key.folder
    fresh = folder.with_name(f".{owner}")
    lease_fd = -1
    try:
        (task.path / WORK).mkdir(exist_ok=True)
        folder.parent.mkdir(exist_ok=True)
        fresh.mkdir()
        (fresh / owner).mkdir()
        lease_fd = os.open(fresh / _LEASE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        attempt = Attempt(task, key, owner, folder / owner, lease_fd)
        attempt.beat(0)
        _appear(fresh, folder, task)
    except OSError as error:
        if lease_fd >= 0:
            os.close(lease_fd)
        if not isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError):
            raise
        raise (Fenced() if task.exists() else NotFound(task.task_id)) from error
    return attempt


def _appear(fresh: Path, folder: Path, task: TaskDir) -> None:
    while True:
        try:
            fresh.rename(folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            task.root.trash(folder)
        else:
            return


def _owner_of(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / _LEASE).read_text().split(" ")[0]
    return ""
