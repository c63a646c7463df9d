"""Finding and ending the processes of a stack.

Every process of a stack carries the stack's mark in its environment and so do the programs it starts. That is how they
are found after the supervisor was killed, whatever groups and sessions they made for themselves, and how a number that
the system has given to another program since is told apart.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

MARK: Final = "LOCAL_STACK_MARK"

_POLL_S: Final = 0.05

_EXEC_S: Final = 0.1
_EXEC_POLL_S: Final = 0.001


def marked(mark: str) -> dict[str, str]:
    """Give the environment variables that every process of the stack is started with."""
    # setproctitle would otherwise write titles over the environment, where the mark is looked for.
    return {MARK: mark, "SPT_NOENV": "1"}


def carries(pid: int, mark: str) -> bool:
    """Tell whether `pid` is a live process with the mark."""
    return f"{MARK}={mark}".encode() in _environment(pid).split(b"\0")


def _environment(pid: int) -> bytes:
    """Read a process's environment; empty when it has none, is gone or is another user's.

    Between being started and running its program, a process shows an empty environment for a moment: it is asked again.
    """
    deadline = time.monotonic() + _EXEC_S
    while True:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            os.readlink(f"/proc/{pid}/exe")  # threads of the kernel and processes that ended have none
        except OSError:
            return b""
        if environment or time.monotonic() > deadline:
            return environment
        time.sleep(_EXEC_POLL_S)


def members(mark: str) -> list[int]:
    """List the live processes with the mark, but this one."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return sorted(pid for pid in pids if pid != os.getpid() and carries(pid, mark))


def end(mark: str, grace_s: float) -> int:
    """End every process with the mark, gently first.

    Parameters
    ----------
    mark
        The stack's mark.
    grace_s
        Time between asking and killing, seconds.

    Returns
    -------
    int
        How many processes there were.
    """
    found = members(mark)
    _send(found, mark, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while members(mark) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    while left := members(mark):
        _send(left, mark, signal.SIGKILL)
        time.sleep(_POLL_S)
    return len(found)


def _send(pids: list[int], mark: str, number: signal.Signals) -> None:
    for pid in pids:
        if carries(pid, mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class PidFile:
    """Names the supervisor of a stack.

    Parameters
    ----------
    path
        The file.
    mark
        The stack's mark, by which a number used again by the system is told apart.
    """

    def __init__(self, path: Path, mark: str) -> None:
        self._path = path
        self._mark = mark

    def read(self) -> int | None:
        """Give the live supervisor's process id; None when there is none."""
        try:
            pid = int(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if carries(pid, self._mark) else None

    def write(self, pid: int) -> None:
        """Name the supervisor."""
        self._path.write_text(f"{pid}\n")

    def remove(self) -> None:
        """Forget the supervisor."""
        self._path.unlink(missing_ok=True)
