"""The service's side of the processes that draw."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from shared.contracts.rpc import Refusal

from .renderer import READY

log = structlog.get_logger(__name__)

_THREADS: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_RESTART_S: Final = 1.0
_DYING_S: Final = 5.0
_DEATHS: Final = 2  # after which the image is to blame: one may be killed for what others need


@dataclass
class _Asked:
    request: bytes
    reply: "asyncio.Future[bytes]"
    deaths: int = 0


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
        self._asked: asyncio.Queue[_Asked] = asyncio.Queue()
        self._keepers: list[asyncio.Task[None]] = []
        self.warm = asyncio.Event()

    def start(self) -> None:
        """Start all; `warm` is set once one of them can draw."""
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._count)]

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
        asked = _Asked(request, asyncio.get_running_loop().create_future())
        self._asked.put_nowait(asked)
        return await asked.reply

    async def close(self) -> None:
        """End all."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self) -> None:
        """Have one renderer running, and another one when it ends."""
        while True:
            try:
                process = await self._new_process()
            except OSError as error:  # no memory, or too many processes: that may pass
                log.warning("renderer not started", error=str(error), restart_s=_RESTART_S)
            else:
                try:
                    assert process.stdout is not None
                    if await process.stdout.readline() == READY:
                        self.warm.set()
                        await self._serve(process, process.stdout)
                        continue
                    log.error("renderer died while starting", code=await _code(process), restart_s=_RESTART_S)
                finally:
                    await _end(process)
            await asyncio.sleep(_RESTART_S)

    async def _serve(self, process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> None:
        """Answer one request after the other, as long as the process lives."""

        def leave(reply: "asyncio.Future[bytes]") -> None:
            if reply.cancelled():  # at work for somebody who has gone
                _kill(process)

        while True:
            asked = await self._asked.get()
            if output.at_eof() or process.returncode is not None:  # had done its share, or died while it waited
                self._asked.put_nowait(asked)
                return
            if asked.reply.done():
                continue
            asked.reply.add_done_callback(leave)
            try:
                answer = await _exchange(process, output, asked.request)
                code = 0 if answer else await _code(process)
            except BaseException:
                if not asked.reply.done():
                    asked.reply.set_result(self._epitaph(-signal.SIGKILL))
                raise
            if code:
                asked.reply.remove_done_callback(leave)
                self._died_over(asked, code)
                return
            if not asked.reply.done():
                asked.reply.set_result(answer)

    def _died_over(self, asked: _Asked, code: int) -> None:
        """Have another renderer try, or give the reason."""
        asked.deaths += 1
        if asked.reply.done():
            return
        if code == -signal.SIGALRM or asked.deaths == _DEATHS:
            asked.reply.set_result(self._epitaph(code))
        else:
            log.warning("renderer died, the picture is begun again", code=code)
            self._asked.put_nowait(asked)

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
            await _end(await starting)
            raise

    def _epitaph(self, code: int) -> bytes:
        log.warning("renderer died", code=code)
        if code == -signal.SIGALRM:
            text = f"The picture takes more than the {self._time_limit_s} s that are allowed. Ask for a smaller width."
            refusal = Refusal(code="too_slow", error=text, parameter="path")
        else:
            text = "The image cannot be drawn: it is damaged, or needs too much memory."
            refusal = Refusal(code="died", error=text, parameter="path")
        return refusal.model_dump_json().encode()


async def _exchange(process: asyncio.subprocess.Process, output: asyncio.StreamReader, request: bytes) -> bytes:
    """Send a line and read one; empty when the process died over it."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(request + b"\n")
        await process.stdin.drain()
    line = await output.readline()
    return line if line.endswith(b"\n") else b""


async def _code(process: asyncio.subprocess.Process) -> int:
    """Wait for the end of a process that has closed its output.

    To kill what is dead already would hide how it died: the library would collect it before the event loop does.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DYING_S):
            return await process.wait()
    _kill(process)
    return await process.wait()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process, and wait until its pipes are closed as well."""
    assert process.stdin is not None
    assert process.stdout is not None
    if process.returncode is None:
        _kill(process)
    await process.wait()
    process.stdin.close()
    with contextlib.suppress(OSError):
        await process.stdin.wait_closed()
    await process.stdout.read()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
