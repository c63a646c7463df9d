"""A stack of which each measurement chooses the workers, and what its processes cost."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import psutil

from stdweb.settings import StackSettings, StackState
from stdweb.stack.components import broker_node, components, resolve
from stdweb.stack.supervisor import Component, Report, Supervisor

ROOT = Path(__file__).parents[1]
BENCH = Path(__file__).parent
START_S = 180.0
OURSELVES = "clients"
"""What this program costs: the clients, and the gateway where it plays one."""


@dataclass(frozen=True)
class Workers:
    """Processes of one kind.

    Parameters
    ----------
    module
        What `python -m` starts.
    count
        How many.
    slots
        Steps that each works on at once.
    environment
        What else it is told.
    """

    module: str
    count: int = 1
    slots: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


def sleepers(steps: Mapping[str, float], count: int = 1, slots: int = 1) -> Workers:
    """Workers that sleep: by the names of their steps, for how long each, seconds."""
    pairs = ",".join(f"{name}={seconds:g}" for name, seconds in steps.items())
    return Workers("scale_worker", count, slots, {"SCALE_SLEEP": pairs})


@dataclass(frozen=True)
class Cost:
    """What processes have used since they began, by what they are: seconds of processor; and bytes written."""

    cpu_s: dict[str, float]
    written: dict[str, int]

    def since(self, before: Self) -> Self:
        """Give the difference."""
        return type(self)(
            {name: value - before.cpu_s.get(name, 0.0) for name, value in self.cpu_s.items()},
            {name: value - before.written.get(name, 0) for name, value in self.written.items()},
        )


class Site:
    """A running stack."""

    def __init__(self, state: StackState) -> None:
        self.state = state

    def cost(self) -> Cost:
        """Measure what its processes have used; those that have ended count for the process that started them."""
        report = Report.read(self.state.folder)
        assert report is not None
        cpu_s: dict[str, float] = {OURSELVES: time.process_time()}
        written: dict[str, int] = {}
        for name, health in report.components.items():
            kind = name.rpartition(".")[0] or name
            root = psutil.Process(health.pid)
            for process in (root, *root.children(recursive=True)):
                try:
                    used, io = process.cpu_times(), process.io_counters()
                except psutil.NoSuchProcess:
                    continue
                cpu_s[kind] = cpu_s.get(kind, 0.0) + used.user + used.system + used.children_user + used.children_system
                written[kind] = written.get(kind, 0) + io.write_bytes
        return Cost(cpu_s, written)


@asynccontextmanager
async def site(*workers: Workers, gateway: bool = True) -> AsyncIterator[Site]:
    """Run broker and workers, and store and gateway unless the measurement plays them."""
    folder = Path(tempfile.mkdtemp(prefix="stdweb-scale-"))
    state = StackState.open(folder)
    state.choose_ports()
    ports = _free_ports(1 + sum(kind.count for kind in workers))
    settings = StackSettings(port=ports.pop())
    resolve(state, settings)
    state.save()
    local = components(state, settings)
    wanted = {"rabbitmq"} | ({"store", "gateway"} if gateway else set())
    parts = [part for part in local if part.name in wanted]
    like = next(part for part in local if part.name == "photometry")
    processes = [kind for kind in workers for _ in range(kind.count)]
    parts += [_worker(state, like, kind, number, ports.pop()) for number, kind in enumerate(processes, 1)]
    supervisor = Supervisor(parts, folder)
    running = asyncio.create_task(supervisor.run())
    try:
        await _ready(folder, running)
        yield Site(state)
    finally:
        supervisor.stop()
        await running
        shutil.rmtree(folder, ignore_errors=True)


def _worker(state: StackState, like: Component, kind: Workers, number: int, port: int) -> Component:
    own = {
        "STDWEB_AMQP_URL": broker_node(state).url,
        "STDWEB_BROKER_DECLARES": "true",
        "STDWEB_SLOTS": str(kind.slots),
        "STDWEB_HEALTH_PORT": str(port),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{BENCH}",
    }
    argv = [sys.executable, "-m", kind.module]
    environment = {**like.env, **own, **kind.environment}
    return Component(f"{kind.module}.{number}", argv, environment, partial(_answers, port), like.tier)


async def _answers(port: int) -> bool:
    def ask() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=3) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return await asyncio.to_thread(ask)


async def _ready(folder: Path, running: asyncio.Task[None]) -> None:
    deadline = time.monotonic() + START_S
    while (report := Report.read(folder)) is None or not report.ready:
        if time.monotonic() > deadline or running.done():
            raise SystemExit(f"The stack does not start: see {folder / 'logs'}")
        await asyncio.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
