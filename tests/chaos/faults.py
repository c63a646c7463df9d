"""What is done to the stack: which faults there are, on whom, for how long."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from .proxy import Mode
from .stack import GATEWAYS, SERVICES, WORKERS, Stack

BROKER: Final = ("broker",)
STORE: Final = ("store",)
VOLUME: Final = ("volume",)
_UP_S: Final = 60.0
_MOSTLY: Final = 0.85  # of the processes can be used when they are hit
BUSY_S: Final = 3.0  # how long to wait for a worker that has work


@dataclass(frozen=True)
class Fault:
    """One fault, as it was drawn.

    Parameters
    ----------
    kind
        Row of the table.
    victim
        Component, or connection `process > server`.
    hold_s
        How long it lasts, where it lasts.
    dice
        A number for what is decided on the way, from 0 to 1.
    """

    number: int
    kind: str
    victim: str
    hold_s: float
    dice: float


@dataclass(frozen=True)
class Kind:
    """A row of the table of faults.

    Parameters
    ----------
    victims
        On whom.
    hold_s
        Shortest and longest duration, seconds.
    do
        Does it, for as long as the block takes.
    share
        How often it comes, beside the others. What all have to wait for comes seldom: meanwhile nothing else can break.
    """

    victims: tuple[str, ...]
    hold_s: tuple[float, float]
    do: Callable[[Stack, Fault], "contextlib.AbstractAsyncContextManager[None]"]
    share: int = 1


@asynccontextmanager
async def _kill(stack: Stack, fault: Fault) -> AsyncIterator[None]:
    _signal(stack.pid(fault.victim), signal.SIGKILL)
    yield


@asynccontextmanager
async def _restart(stack: Stack, fault: Fault) -> AsyncIterator[None]:
    _signal(stack.pid(fault.victim), signal.SIGTERM)
    yield


@asynccontextmanager
async def _freeze(stack: Stack, fault: Fault) -> AsyncIterator[None]:
    """Stop a process alone, or with all of its own, as when the whole host stands still."""
    async with _frozen(tree(stack, fault.victim) if fault.dice < 0.5 else [stack.pid(fault.victim)]):
        yield


@asynccontextmanager
async def _freeze_child(stack: Stack, fault: Fault) -> AsyncIterator[None]:
    async with _frozen(working(stack, fault.victim)):
        yield


@asynccontextmanager
async def _kill_child(stack: Stack, fault: Fault) -> AsyncIterator[None]:
    for pid in working(stack, fault.victim)[:1]:
        _signal(pid, signal.SIGKILL)
    yield


@asynccontextmanager
async def _kill_helper(stack: Stack, fault: Fault, word: str) -> AsyncIterator[None]:
    for pid in tree(stack, fault.victim):
        if word in _command(pid):
            _signal(pid, signal.SIGKILL)
    yield


def _kill_fork_server(stack: Stack, fault: Fault) -> contextlib.AbstractAsyncContextManager[None]:
    return _kill_helper(stack, fault, "fork server")


@asynccontextmanager
async def _network(stack: Stack, fault: Fault, mode: Mode) -> AsyncIterator[None]:
    process, _, server = fault.victim.partition(" > ")
    proxies = [proxy for (who, where), proxy in stack.proxies.items() if where == server and process in {who, "all"}]
    for proxy in proxies:
        await proxy.misbehave(mode)
    try:
        yield
    finally:
        for proxy in proxies:
            await proxy.behave(cut=fault.dice < 0.5)


def _cut_off(mode: Mode) -> Callable[[Stack, Fault], contextlib.AbstractAsyncContextManager[None]]:
    return lambda stack, fault: _network(stack, fault, mode)


@asynccontextmanager
async def _fill(stack: Stack, fault: Fault) -> AsyncIterator[None]:
    """Fill the volume to the last byte, or so far that only the reserve is left."""
    ballast = stack.volume / "ballast"
    room = await asyncio.to_thread(os.statvfs, stack.volume)
    free = room.f_bavail * room.f_frsize
    leave = 0 if fault.dice < 0.7 else 4 * 2**20
    try:
        await asyncio.to_thread(_write, ballast, max(free - leave, 0))
        yield
    finally:
        ballast.unlink(missing_ok=True)


def _write(path: Path, size: int) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while size > 0:
            size -= file.write(bytes(min(size, 2**20)))


@asynccontextmanager
async def _alarm(stack: Stack, fault: Fault) -> AsyncIterator[None]:
    """Let the broker believe that its disk is full: it takes no more messages."""
    with contextlib.suppress(RuntimeError):  # a second fault may have taken it away
        await stack.rabbitmqctl("set_disk_free_limit", "100TB")
    try:
        yield
    finally:
        for _ in range(20):
            try:
                await stack.rabbitmqctl("set_disk_free_limit", "50MB")
            except RuntimeError:
                await asyncio.sleep(1)
            else:
                break


_PLAYERS = (*GATEWAYS, *SERVICES)
_TO_BROKER = tuple(f"{name} > broker" for name in (*_PLAYERS, "all"))
_TO_STORE = tuple(f"{name} > store" for name in (*GATEWAYS, "all"))
_LINKS = (*_TO_BROKER, *_TO_STORE)

KINDS: Final[dict[str, Kind]] = {
    "kill gateway": Kind(GATEWAYS, (0, 0), _kill, 4),
    "kill worker": Kind(SERVICES, (0, 0), _kill, 3),
    "kill child": Kind(WORKERS, (0, 0), _kill_child, 7),
    "kill fork server": Kind(WORKERS, (0, 0), _kill_fork_server, 3),
    "kill broker": Kind(BROKER, (0, 0), _kill),
    "kill store": Kind(STORE, (0, 0), _kill),
    "restart gateway": Kind(GATEWAYS, (0, 0), _restart, 4),
    "restart worker": Kind(SERVICES, (0, 0), _restart, 3),
    "restart broker": Kind(BROKER, (0, 0), _restart),
    "restart store": Kind(STORE, (0, 0), _restart),
    "freeze gateway": Kind(GATEWAYS, (6, 14), _freeze, 4),
    "freeze worker": Kind(SERVICES, (8, 14), _freeze, 4),
    "freeze child": Kind(WORKERS, (6, 12), _freeze_child, 4),
    "freeze broker": Kind(BROKER, (4, 10), _freeze),
    "freeze store": Kind(STORE, (4, 10), _freeze),
    "refuse": Kind(_LINKS, (2, 6), _cut_off(Mode.REFUSE), 5),
    "black hole": Kind(_LINKS, (6, 14), _cut_off(Mode.BLACK_HOLE), 4),
    "slow": Kind(_LINKS, (4, 8), _cut_off(Mode.SLOW), 4),
    "reset": Kind(_LINKS, (0, 0.5), _cut_off(Mode.RESET), 8),
    "disk full": Kind(VOLUME, (3, 8), _fill, 2),
    "broker's disk alarm": Kind(BROKER, (3, 8), _alarm),
}


DEADLY: Final = {"kill gateway", "kill worker", "kill broker", "kill store"} | {
    f"restart {name}" for name in ("gateway", "worker", "broker", "store")
}
"""Faults after which the process of the victim is another one."""


def stops_all(fault: Fault) -> bool:
    """Tell whether no run can end meanwhile."""
    return fault.victim in {*BROKER, *STORE, *VOLUME} or fault.victim.startswith("all >")


def draw(dice: random.Random, count: int, kinds: list[str] | None = None) -> list[Fault]:
    """Draw faults: every kind once, in random order, and then each as often as is its share."""
    names = list(kinds or KINDS)
    dice.shuffle(names)
    shares = [name for name in names for _ in range(KINDS[name].share)]
    while len(names) < count:
        dice.shuffle(shares)
        names += shares
    found = []
    for number, name in enumerate(names[:count], start=1):
        kind = KINDS[name]
        hold_s = round(dice.uniform(*kind.hold_s), 2)
        found.append(Fault(number, name, dice.choice(kind.victims), hold_s, round(dice.random(), 3)))
    return found


# ---- processes


def tree(stack: Stack, name: str) -> list[int]:
    """List a component's process and all below it."""
    pid = stack.pid(name)
    if pid is None:
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return [pid]


def working(stack: Stack, name: str) -> list[int]:
    """List the children of a worker that are at a step."""
    return [pid for pid in tree(stack, name) if " of task " in _command(pid)]


def tasks_of(stack: Stack, name: str) -> list[int]:
    """List the tasks whose steps a worker is at."""
    titles = [_command(pid) for pid in tree(stack, name)]
    return sorted({int(title.rpartition(" of task ")[2].split()[0]) for title in titles if " of task " in title})


@asynccontextmanager
async def _frozen(pids: list[int | None]) -> AsyncIterator[None]:
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            _signal(pid, signal.SIGCONT)


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


async def ready_for(stack: Stack, fault: Fault, busy_s: float = BUSY_S) -> None:
    """Wait, not for ever, until the victim is there, and a worker has work."""
    if fault.victim in stack.deaths():
        # broker and store, hit before they are up, would not get up; nor would others on which that came often
        up = fault.victim in {*BROKER, *STORE} or fault.dice < _MOSTLY
        await _until(lambda: stack.ready(fault.victim) if up else stack.pid(fault.victim), _UP_S)
    if fault.victim in WORKERS:
        await _until(lambda: working(stack, fault.victim), busy_s)


async def _until(condition: Callable[[], object], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
