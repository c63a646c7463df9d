"""The process that has imported what steps need, and forks a child for each of them. It does nothing else.

It talks to the worker by datagrams over one socket: `fork`, with the child's socket, is answered by `forked`; `died`
is told of each child that ended. When the worker closes the socket all of its children are killed.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
from collections.abc import Mapping
from typing import Final

from . import procfs
from .child import serve
from .gently import work_gently
from .request import RequestSpec
from .step import StepSpec

_PR_SET_CHILD_SUBREAPER: Final = 36
_MAX_DATAGRAM: Final = 4096


def run_fork_server(control_fd: int, service: str, specs: Mapping[str, StepSpec | RequestSpec]) -> None:
    """Import, then fork on request until the worker closes the socket.

    Parameters
    ----------
    control_fd
        Our end of the socket.
    service
        Name of the service, for titles.
    specs
        Steps and requests by name.
    """
    from setproctitle import setproctitle

    setproctitle(f"stdweb {service}: fork server")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    become_subreaper()
    work_gently()
    for warm in dict.fromkeys(spec.warm for spec in specs.values()):
        warm()
    gc.collect()
    gc.freeze()  # children that collect garbage would otherwise copy every page
    with socket.socket(fileno=control_fd) as control:
        _ForkServer(control, service, specs).loop()


def become_subreaper() -> None:
    """Adopt orphans from below, so that they can be found; in children a fork does not inherit it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class _ForkServer:
    def __init__(self, control: socket.socket, service: str, specs: Mapping[str, StepSpec | RequestSpec]) -> None:
        self._control = control
        self._service = service
        self._specs = specs
        self._children: set[int] = set()

    def loop(self) -> None:
        wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        self._tell({"t": "warm"})
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_r, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_r, _MAX_DATAGRAM)
                self._reap()
            if self._control.fileno() in ready and not self._answer((wake_r, wake_w)):
                break
        for pid in self._children:
            procfs.kill_tree(pid)
        procfs.kill_descendants(set())

    def _answer(self, ours: tuple[int, int]) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, _MAX_DATAGRAM, 1)
        if not data:
            return False
        with socket.socket(fileno=fds[0]) as sock:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                self._control.close()
                for fd in ours:
                    os.close(fd)
                become_subreaper()
                serve(sock, self._service, self._specs)
        self._children.add(pid)
        self._tell({"t": "forked", "id": json.loads(data)["id"], "pid": pid})
        return True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in self._children:
                    self._children.discard(pid)
                    self._tell({"t": "died", "pid": pid, "code": os.waitstatus_to_exitcode(status)})
        # what the dead ones left behind is ours now
        procfs.kill_descendants(self._children)

    def _tell(self, frame: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(frame).encode())
