"""Drawing beside the work: plots are made in forked children while the step goes on."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from shared.errors import InternalError, TransientError

Job = Callable[[], None]

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Desk:
    """Runs drawing jobs in forked children; used as a context manager, which waits for them or ends them.

    A fork and not a thread, because matplotlib holds the interpreter's lock; and not a pool, because a fork sees the
    arrays without copying them.
    """

    def __init__(self) -> None:
        self._children: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
            return
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._children.clear()

    def draw(self, jobs: Sequence[Job]) -> None:
        """Start jobs, one after the other in one child; here and now when the system has no room for a child."""
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError:
            for job in jobs:
                job()
            return
        if pid:
            self._children.append(pid)
            return
        status = 1
        try:
            for job in jobs:
                job()
            status = 0
        except OSError as exc:
            status = exc.errno if exc.errno in _NO_SPACE else 1
            traceback.print_exc()
            sys.stderr.flush()
        except BaseException:  # noqa: BLE001  the edge of a process: nothing may get past it
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def wait(self) -> None:
        """Wait until all plots are there.

        Raises
        ------
        InternalError
            When one could not be drawn: without its plots a step has no result.
        TransientError
            When there is no space to write them.
        """
        ends = set()
        while self._children:
            _, status = os.waitpid(self._children.pop(), 0)
            ends.add(os.waitstatus_to_exitcode(status))
        if ends & set(_NO_SPACE):
            raise TransientError("disk_full", "There is no space left for the results; try again later.")
        if ends - {0}:
            raise InternalError("plots_failed", "The plots could not be drawn; this is a fault of the service.")
