"""One step in one child: limits, memory, cancelling, and how it ended."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from .. import metrics, tracing
from . import wire
from .pool import Child
from .procfs import members, memory_bytes, snapshot

_POLL_S: Final = 0.2  # between looks at the memory


class Stop(StrEnum):
    """Why a child was killed."""

    CANCELLED = "cancelled"
    FENCED = "fenced"
    STOPPING = "stopping"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `answer` is its last word; without one it was stopped, or died by itself."""

    answer: dict[str, Any] | None
    stop: Stop | None
    exit_code: int | None
    seconds: float
    peak_memory_bytes: int


@dataclass
class Live:
    """What a running step has said since it was last asked."""

    fraction: float = 0.0
    phase: str = ""
    lines: list[str] = field(default_factory=list)
    news: bool = False


class Execution:
    """A child at work.

    Parameters
    ----------
    child
        Warm and idle.
    time_limit_s
        Of the step, seconds.
    memory_limit_bytes
        Of the child with everything that it started.
    """

    def __init__(self, child: Child, time_limit_s: float, memory_limit_bytes: int) -> None:
        self._child = child
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._stop: Stop | None = None
        self._peak = 0
        self._ended = False
        self.live = Live()

    async def stop(self, why: Stop) -> None:
        """Kill the child with everything that it started; the first reason counts."""
        if not self._ended:
            self._stop = self._stop or why
            await self._child.kill()

    async def run(self, job: wire.Frame, running: Callable[[], None]) -> Outcome:
        """Do the job.

        Parameters
        ----------
        job
            For the child.
        running
            Called when the child works.
        """
        began = time.monotonic()
        answer: wire.Frame | None = None
        parts = tracing.Parts()
        guards = [asyncio.create_task(self._guard_time()), asyncio.create_task(self._guard_memory())]
        try:
            await self._child.begin(job)
            while answer is None:
                frame = await self._child.read()
                metrics.add(frame.get("counted", []))
                match frame["t"]:
                    case "running":
                        running()
                    case "log":
                        self.live.lines.append(frame["line"])
                        self.live.news = True
                    case "progress":
                        self.live.fraction, self.live.phase = frame["fraction"], frame["phase"]
                        parts.begin(self.live.phase)
                        self.live.news = True
                    case _:
                        answer = frame
        except wire.WireClosed:
            pass
        finally:
            parts.end()
            for guard in guards:
                guard.cancel()
            await asyncio.gather(*guards, return_exceptions=True)
            if answer is None:
                await self._child.kill()
            self._ended = True
        code = None
        if answer is None:
            code = await self._child.end()
        else:
            self._child.release(again=answer["again"] and self._stop is None)
            self._peak = max(self._peak, answer["peak_memory_bytes"])
        return Outcome(answer if self._stop is None else None, self._stop, code, time.monotonic() - began, self._peak)

    async def _guard_time(self) -> None:
        await asyncio.sleep(self._time_limit_s)
        await self.stop(Stop.TIME_LIMIT)

    async def _guard_memory(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            used = await asyncio.to_thread(self._memory)
            self._peak = max(self._peak, used)
            if used > self._memory_limit_bytes:
                await self.stop(Stop.MEMORY_LIMIT)

    def _memory(self) -> int:
        with contextlib.suppress(OSError):
            return memory_bytes(members(self._child.pid, snapshot()))
        return 0
