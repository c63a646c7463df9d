"""The service's side of the processes that draw."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import Final

import structlog

from shared.contracts.rpc import Refusal

from .renderer import READY

log = structlog.get_logger(__name__)

_THREADS: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_RESTART_S: Final = 1.0
_DYING_S: Final = 5.0


class Pool:
    """Keeps some renderers running, each with one request at a time.

    Parameters
    ----------
    count
        How many.
    arguments
        Of the renderer: folder, memory in bytes, time in seconds.
    env
        Environment variables to set for them.
    """

    def __init__(self, count: int, arguments: tuple[str, str, str], env: Mapping[str, str]) -> None:
        self._count = count
        self._command = (sys.executable, "-m", "services.preview.renderer", *arguments)
        self._time_limit_s = arguments[2]
        self._env = {**os.environ, **_THREADS, **env}
        self._idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self._all: set[asyncio.subprocess.Process] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self.warm = asyncio.Event()

    def start(self) -> None:
        """Start all; `warm` is set once one of them can draw."""
        for _ in range(self._count):
            self._start_one()

    def _start_one(self) -> None:
        task = asyncio.create_task(self._spawn())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _spawn(self) -> None:
        while True:
            try:
                process = await self._new_process()
            except OSError as error:  # no memory, or too many processes: that may pass
                log.warning("renderer not started", error=str(error), restart_s=_RESTART_S)
            else:
                self._all.add(process)
                assert process.stdout is not None
                if await process.stdout.readline() == READY:
                    self._idle.put_nowait(process)
                    self.warm.set()
                    return
                self._all.discard(process)
                log.error("renderer died while starting", code=await process.wait(), restart_s=_RESTART_S)
            await asyncio.sleep(_RESTART_S)

    async def ask(self, request: bytes) -> bytes:
        """Have a request answered, waiting for a renderer to be free.

        Parameters
        ----------
        request
            JSON, one line.

        Returns
        -------
        bytes
            JSON of the reply; a refusal where the renderer died.
        """
        process = await self._free()
        assert process.stdin is not None
        assert process.stdout is not None
        done = False
        try:
            with contextlib.suppress(OSError):
                process.stdin.write(request + b"\n")
                await process.stdin.drain()
            reply = await process.stdout.readline()
            done = reply.endswith(b"\n")
            return reply if done else self._epitaph(await self._code(process))
        finally:
            if done:
                self._idle.put_nowait(process)
            else:
                self._all.discard(process)
                self._start_one()
                if process.returncode is None:  # at work for somebody who has gone
                    _kill(process)

    async def _code(self, process: asyncio.subprocess.Process) -> int:
        """Wait for the end of a process that has closed its output.

        To kill what is dead already would hide how it died: the library would collect it before the event loop does.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DYING_S):
                return await process.wait()
        _kill(process)
        return await process.wait()

    async def _new_process(self) -> asyncio.subprocess.Process:
        """Start a process; when the pool closes meanwhile, it must not be left behind."""
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self._command, env=self._env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            process = await starting
            _kill(process)
            await process.wait()
            raise

    async def _free(self) -> asyncio.subprocess.Process:
        while True:
            process = await self._idle.get()
            assert process.stdout is not None
            if not process.stdout.at_eof() and process.returncode is None:
                return process
            self._all.discard(process)  # it had done its share, or died while it waited
            self._start_one()

    def _epitaph(self, code: int) -> bytes:
        log.warning("renderer died", code=code)
        if code == -signal.SIGALRM:
            text = f"The picture takes more than the {self._time_limit_s} s that are allowed. Ask for a smaller width."
            refusal = Refusal(code="too_slow", error=text, parameter="path")
        else:
            text = "The image cannot be drawn: it is damaged, or needs too much memory."
            refusal = Refusal(code="died", error=text, parameter="path")
        return refusal.model_dump_json().encode()

    async def close(self) -> None:
        """End all."""
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for process in self._all:
            _kill(process)
        await asyncio.gather(*(process.wait() for process in self._all))


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
