"""Keeps the processes of a stack running: starts them in order, restarts what dies, ends them in the reverse order."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import structlog
from pydantic import BaseModel

_FIRST_DELAY_S: Final = 0.25
_LONGEST_DELAY_S: Final = 15.0
_STEADY_S: Final = 30.0  # after so long a life the next death counts as a first one
_POLL_S: Final = 0.1
_LOG_BYTES: Final = 20 * 2**20

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True)
class Component:
    """One process of the stack.

    Parameters
    ----------
    name
        Its name, for people and for its log file.
    argv
        Program and arguments.
    env
        Its whole environment.
    ready
        Tells whether it can be used now.
    tier
        Started when all of a lower tier are ready, ended before them.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    ready: Callable[[], Awaitable[bool]] = field(repr=False)
    tier: int = 0


class Health(BaseModel):
    """What is known of one process."""

    state: Literal["waiting", "starting", "ready", "restarting", "ended"] = "waiting"
    pid: int | None = None
    deaths: int = 0
    never_ready: int = 0
    """Deaths since it was last ready."""


class Report(BaseModel):
    """What the supervisor tells: one line a process."""

    components: dict[str, Health]

    @property
    def ready(self) -> bool:
        """Whether every process can be used."""
        return all(health.state == "ready" for health in self.components.values())

    @classmethod
    def read(cls, folder: Path) -> "Report | None":
        """Read the supervisor's last report; None when there is none."""
        try:
            return cls.model_validate_json((folder / "status.json").read_text())
        except FileNotFoundError:
            return None


class Supervisor:
    """Runs components until it is told to stop.

    Parameters
    ----------
    components
        What to run.
    folder
        Where reports (`status.json`) and the components' output (`logs/<name>.log`) go.
    grace_s
        Time between asking a component to end and killing it, seconds; a broker needs 6.
    """

    def __init__(self, components: Sequence[Component], folder: Path, grace_s: float = 20.0) -> None:
        self._components = components
        self._grace_s = grace_s
        self._folder = folder
        self._report = Report(components={component.name: Health() for component in components})
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End all components; `run` returns when they have ended."""
        self._stop.set()

    async def run(self) -> None:
        """Start all, keep them running, end them."""
        (self._folder / "logs").mkdir(exist_ok=True)
        self._tell()
        tiers = sorted({component.tier for component in self._components})
        keepers: dict[int, list[tuple[asyncio.Event, asyncio.Task[None]]]] = {}
        for tier in tiers:
            keepers[tier] = []
            for component in (one for one in self._components if one.tier == tier):
                ending = asyncio.Event()
                keepers[tier].append((ending, asyncio.create_task(self._keep(component, ending))))
            await self._until(lambda tier=tier: self._tier_ready(tier))  # type: ignore[misc]
        await self._stop.wait()
        for tier in reversed(tiers):
            for ending, _ in keepers[tier]:
                ending.set()
            await asyncio.gather(*(task for _, task in keepers[tier]))

    def _tier_ready(self, tier: int) -> bool:
        names = [component.name for component in self._components if component.tier == tier]
        return all(self._report.components[name].state == "ready" for name in names)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self._stop.is_set():
            await asyncio.sleep(_POLL_S)

    async def _keep(self, component: Component, ending: asyncio.Event) -> None:
        health = self._report.components[component.name]
        delay_s = _FIRST_DELAY_S
        while not ending.is_set():
            born = time.monotonic()
            try:
                process = await self._start(component)
            except OSError as error:  # no memory, no space: that may pass
                log.warning("component not started", component=component.name, error=str(error), again_in_s=delay_s)
                health.never_ready += 1
                await self._pause(ending, delay_s)
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
                continue
            self._set(health, "starting", process.pid)
            watcher = asyncio.create_task(self._watch(component, health))
            died = asyncio.create_task(process.wait())
            asked = asyncio.create_task(ending.wait())
            await asyncio.wait({died, asked}, return_when=asyncio.FIRST_COMPLETED)
            watcher.cancel()
            asked.cancel()
            if ending.is_set():
                await _end(process, died, self._grace_s)
                break
            _kill_group(process.pid)  # what it left behind must not hold its ports
            health.deaths += 1
            health.never_ready += 1
            self._set(health, "restarting", None)
            log.warning("component died", component=component.name, code=process.returncode, again_in_s=delay_s)
            if time.monotonic() - born > _STEADY_S:
                delay_s = _FIRST_DELAY_S
            await self._pause(ending, delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        self._set(health, "ended", None)

    @staticmethod
    async def _pause(ending: asyncio.Event, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), delay_s)

    async def _start(self, component: Component) -> asyncio.subprocess.Process:
        path = self._folder / "logs" / f"{component.name}.log"
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.rename(path.with_suffix(".log.1"))
        with path.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *component.argv,
                env=dict(component.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _watch(self, component: Component, health: Health) -> None:
        while not await component.ready():
            await asyncio.sleep(_POLL_S)
        health.never_ready = 0
        self._set(health, "ready", health.pid)

    def _set(self, health: Health, state: Literal["starting", "ready", "restarting", "ended"], pid: int | None) -> None:
        health.state, health.pid = state, pid
        self._tell()

    def _tell(self) -> None:
        path = self._folder / "status.json"
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(self._report.model_dump_json(indent=2))
            fresh.rename(path)
        except OSError as error:  # a full disk must not end the supervision
            log.warning("report not written", error=str(error))


async def _end(process: asyncio.subprocess.Process, died: "asyncio.Task[int]", grace_s: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    await asyncio.wait({died}, timeout=grace_s)
    _kill_group(process.pid)
    await died


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
