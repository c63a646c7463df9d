"""Finding, measuring and ending a step's processes, by /proc. Standard library only: the watchdog imports this."""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ROUNDS: Final = 50  # of killing what appeared while killing


@dataclass(frozen=True)
class Process:
    """What is known of a process: its parent, its session, and whether it is dead but not yet waited for."""

    parent: int
    session: int
    dead: bool


def snapshot() -> dict[int, Process]:
    """Look at every process of the machine, by id."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                # the name of the program, in parentheses, may hold anything
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                found[int(name)] = Process(int(fields[1]), int(fields[3]), fields[0] in "ZX")
    return found


def members(root: int, processes: dict[int, Process]) -> set[int]:
    """Select a process, its session, and all their descendants, whatever sessions those have made; no dead ones."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    todo = [root, *(pid for pid, process in processes.items() if process.session == root)]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    return {pid for pid in found if pid in processes and not processes[pid].dead}


def children_of(pid: int) -> set[int]:
    """List the children of a process; much cheaper than a snapshot."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                found.update(int(child) for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def memory_bytes(root: int) -> int:
    """Sum up the memory that a process and its descendants do not share with files, bytes."""
    total = 0
    todo, seen = [root], {root}
    while todo:
        pid = todo.pop()
        below = children_of(pid) - seen
        seen |= below
        todo += below
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/statm").read_text().split()
            total += (int(fields[1]) - int(fields[2])) * _PAGE_BYTES
    return total


def kill_tree(root: int) -> None:
    """Kill a process with its session and descendants.

    The root is stopped first and killed last: as long as it lives, what it started can be found.
    """
    _send(root, signal.SIGSTOP)
    for _ in range(_ROUNDS):
        found = members(root, snapshot()) - {root}
        if not found:
            break
        for pid in found:
            _send(pid, signal.SIGKILL)
    _send(root, signal.SIGKILL)


def kill_descendants(spared: set[int]) -> None:
    """Kill and wait for what the calling process, a subreaper, has below it, but for `spared` and theirs."""
    me = os.getpid()
    if children_of(me) <= spared:
        return
    for _ in range(_ROUNDS):
        processes = snapshot()
        found = {pid for pid, process in processes.items() if process.parent == me and pid not in spared}
        if not found:
            return
        for pid in found:
            kill_tree(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
