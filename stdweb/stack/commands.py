"""Start, stop and look at a stack."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..settings import StackError, StackSettings, StackState, port_is_free
from . import processes
from .components import resolve
from .supervisor import Report

_START_S: Final = 300.0  # a first start compiles and makes the broker's files
_STOP_S: Final = 60.0
_GRACE_S: Final = 15.0
_TRIES: Final = 4
_TAIL_LINES: Final = 15
_POLL_S: Final = 0.1


def up(folder: Path) -> StackState:
    """Start the stack of `folder` in the background and wait until it can be used; one that runs is left as it is.

    Raises
    ------
    StackError
        It cannot be started; nothing of it is left running.
    """
    settings = StackSettings.read()
    with _alone(folder):
        state = StackState.open(folder)
        pid_file = processes.PidFile(folder / "supervisor.pid", state.mark)
        supervisor = pid_file.read()
        if supervisor is None:
            processes.end(state.mark, _GRACE_S)
            if not port_is_free(settings.host, settings.port):
                raise StackError(
                    f"Port {settings.port} is taken by another program. Choose another one: "
                    f"STDWEB_PORT={settings.port + 1} make up"
                )
            state.choose_ports()
            resolve(state, settings)
            state.save()
            supervisor = _spawn(state)
            pid_file.write(supervisor)
        try:
            _await_ready(state, supervisor)
        except (StackError, KeyboardInterrupt):
            _stop(state, pid_file)
            raise
    return state


def down(folder: Path) -> bool:
    """End the stack of `folder`, and what a killed supervisor left of it; tell whether there was anything."""
    if StackState.load(folder) is None:
        return False
    with _alone(folder):
        state = StackState.open(folder)
        return _stop(state, processes.PidFile(folder / "supervisor.pid", state.mark))


def report(folder: Path) -> tuple[StackState, Report] | None:
    """Tell what runs; None when nothing does.

    Raises
    ------
    StackError
        The supervisor was killed and left processes.
    """
    state = StackState.load(folder)
    if state is None:
        return None
    if processes.PidFile(folder / "supervisor.pid", state.mark).read() is None:
        if left := processes.members(state.mark):
            raise StackError(
                f"The supervisor is gone and left {len(left)} processes. Start afresh: make up. End them: make down"
            )
        return None
    current = Report.read(folder)
    return None if current is None else (state, current)


def _spawn(state: StackState) -> int:
    (state.folder / "status.json").unlink(missing_ok=True)
    logs = state.folder / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / "supervisor.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "stdweb.stack", "run", "--state", str(state.folder)],
            env=dict(os.environ) | processes.marked(state.mark),
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return process.pid


def _await_ready(state: StackState, supervisor: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        current = Report.read(state.folder)
        if current is not None and current.ready:
            return
        for name, health in current.components.items() if current else ():
            if health.never_ready >= _TRIES:
                raise StackError(f"{name} does not start. The end of its log:\n{_tail(state, name)}")
        if not processes.carries(supervisor, state.mark):
            raise StackError(f"The supervisor ended. The end of its log:\n{_tail(state, 'supervisor')}")
        if time.monotonic() > deadline:
            late = [name for name, health in current.components.items() if health.state != "ready"] if current else []
            raise StackError(
                f"Not ready after {_START_S:.0f} s: {', '.join(late) or 'everything'}. Logs: {state.folder / 'logs'}"
            )
        time.sleep(_POLL_S)


def _stop(state: StackState, pid_file: processes.PidFile) -> bool:
    supervisor = pid_file.read()
    if supervisor is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while processes.carries(supervisor, state.mark) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    left = processes.end(state.mark, _GRACE_S)
    pid_file.remove()
    return supervisor is not None or left > 0


def _tail(state: StackState, name: str) -> str:
    path = state.folder / "logs" / f"{name}.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) + f"\n(all of it: {path})"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep two calls for one stack from running at the same time."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
