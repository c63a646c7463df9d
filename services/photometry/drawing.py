"""Drawing beside the work: plots are made in forked children while the step goes on."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from shared.errors import InternalError

Job = Callable[[], None]


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
            When one could not be drawn.
        """
        failed = 0
        while self._children:
            _, status = os.waitpid(self._children.pop(), 0)
            failed += status != 0
        if failed:
            raise InternalError("plots_failed", "The plots could not be drawn; this is a fault of the service.")
