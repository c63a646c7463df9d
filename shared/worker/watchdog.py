"""Kills the steps' processes when the worker is gone. A process of its own that imports little.

Its standard input is a pipe whose only writer is the worker, which says `+<pid>` of each process that the fork server
has made, and `-<pid>` when it has ended. End of file means that the worker is dead, however it died.
"""

import os
import signal
import sys
from typing import Final

from .procfs import kill_tree

_CHUNK_BYTES: Final = 4096


def watch(pipe_fd: int) -> None:
    """Read to the end of the pipe, then kill what is left."""
    children: set[int] = set()
    rest = b""
    while chunk := os.read(pipe_fd, _CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"+"):
                children.add(int(line[1:]))
            else:
                children.discard(int(line[1:]))
    for pid in children:
        kill_tree(pid)


if __name__ == "__main__":
    # a terminal's or a supervisor's signal to all of us must not end it before the worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch(sys.stdin.fileno())
