"""One step in one child: limits, memory, cancelling, and how it ended."""

import asyncio
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from .. import metrics, tracing
from . import wire
from .beside import beside
from .pool import Child
from .procfs import memory_bytes

_POLL_S: Final = 0.2  # between looks at time and memory


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

    async def run(self, job: wire.Frame) -> Outcome:
        """Have the child do the job."""
        began = time.monotonic()
        answer: wire.Frame | None = None
        try:
            async with beside(self._guard, after_s=_POLL_S):
                answer = await self._converse(job)
        except wire.WireClosed:
            pass
        finally:
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

    async def _converse(self, job: wire.Frame) -> wire.Frame:
        """Send the job, and listen up to the answer."""
        parts = tracing.Parts()
        try:
            await self._child.begin(job)
            while True:
                frame = await self._child.read()
                metrics.add(frame.get("counted", []))
                match frame["t"]:
                    case "log":
                        self.live.lines.append(frame["line"])
                        self.live.news = True
                    case "progress":
                        self.live.fraction, self.live.phase = frame["fraction"], frame["phase"]
                        parts.begin(self.live.phase)
                        self.live.news = True
                    case _:
                        return frame
        finally:
            parts.end()

    async def _guard(self) -> None:
        """Look at time and memory; called when the first `_POLL_S` seconds have passed."""
        ends = time.monotonic() - _POLL_S + self._time_limit_s
        while True:
            used = await asyncio.to_thread(memory_bytes, self._child.pid)
            self._peak = max(self._peak, used)
            if used > self._memory_limit_bytes:
                await self.stop(Stop.MEMORY_LIMIT)
                return
            if time.monotonic() >= ends:
                await self.stop(Stop.TIME_LIMIT)
                return
            await asyncio.sleep(_POLL_S)
