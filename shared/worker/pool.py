"""The worker's side of the fork server: warm children that wait for work, and how they end."""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import structlog

from . import wire
from .procfs import kill_tree

log = structlog.get_logger(__name__)

FORK_SERVER: Final = "--fork-server"
_THREAD_SETTINGS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_MAX_DATAGRAM: Final = 4096
_FIRST_RESTART_S: Final = 0.5
_MAX_RESTART_S: Final = 30.0


class Child:
    """A process that waits for a job, does it, and ends.

    Parameters
    ----------
    pid
        Of the process, and of its session.
    reader, writer
        The wire to it.
    pool
        Where it came from.
    """

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pool: "Pool") -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self._pool = pool

    async def begin(self, job: wire.Frame) -> None:
        """Send the job.

        Raises
        ------
        WireClosed
            When the process is gone.
        """
        try:
            self._writer.write(wire.encode(job))
            await self._writer.drain()
        except OSError as error:
            raise wire.WireClosed from error

    async def read(self) -> wire.Frame:
        """Read what the process says next.

        Raises
        ------
        WireClosed
            When the process is gone.
        """
        return await wire.read(self._reader)

    async def kill(self) -> None:
        """Kill it with everything that it started."""
        await asyncio.to_thread(kill_tree, self.pid)

    def release(self, *, again: bool) -> None:
        """Let it wait for another job, or end by itself, after its answer."""
        self._pool.take_back(self, again=again)

    async def end(self) -> int | None:
        """Let go of it. Returns its exit code, negative for a signal, or None when the fork server did not say."""
        self._writer.close()
        return await self._pool.ended(self.pid)


class Pool:
    """Keeps warm children ready.

    Parameters
    ----------
    command
        Starts the service's program; `--fork-server` and a descriptor are added.
    spare
        How many children to keep ready.
    threads
        Native threads that a child may use.
    env
        Environment variables to set for the fork server.
    """

    def __init__(self, command: list[str], spare: int, threads: int, env: Mapping[str, str]) -> None:
        self._command = command
        self._spare = spare
        self.threads = threads
        self._env = {**os.environ, **dict.fromkeys(_THREAD_SETTINGS, str(threads)), **env}
        self._ids = itertools.count()
        self._pending: dict[int, socket.socket] = {}
        self._idle: asyncio.Queue[Child] = asyncio.Queue()
        self._exits: dict[int, asyncio.Future[int | None]] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._control: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self.warm = asyncio.Event()

    async def start(self) -> None:
        """Start watchdog and fork server; `warm` is set once a child waits."""
        self._watchdog = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-m", "shared.worker.watchdog"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._task = asyncio.create_task(self._supervise())

    async def get(self) -> Child:
        """Take a warm child; there is always another one, or one being made."""
        child = await self._idle.get()
        while self._exits[child.pid].done():  # died while it waited
            await child.end()
            self._fork()
            child = await self._idle.get()
        if self._idle.empty():
            self._fork()
        return child

    def take_back(self, child: Child, *, again: bool) -> None:
        """Keep a child for another job, or let it end."""
        if again and self._idle.qsize() <= self._spare and not self._exits[child.pid].done():
            self._idle.put_nowait(child)
        else:
            self.in_background(child.end())

    def in_background(self, action: Coroutine[Any, Any, object]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ended(self, pid: int) -> int | None:
        """Wait until a child has ended; see `Child.end`."""
        code = await self._exits[pid]
        del self._exits[pid]
        return code

    async def close(self) -> None:
        """End fork server, children and watchdog."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._control is not None:
            self._control.close()
        for process in (self._server, self._watchdog):
            if process is not None:
                if process.stdin is not None:
                    process.stdin.close()
                await asyncio.to_thread(process.wait)

    # ---- the fork server

    async def _supervise(self) -> None:
        restart_s = _FIRST_RESTART_S
        while True:
            try:
                control = await self._start_server()
            except OSError as error:  # no memory, or too many processes: that may pass
                log.warning("fork server not started", error=str(error), restart_s=restart_s)
            else:
                while datagram := await self._receive(control):
                    restart_s = _FIRST_RESTART_S
                    await self._heed(json.loads(datagram))
                await self._lost()
                log.error("fork server ended", restart_s=restart_s)
            await asyncio.sleep(restart_s)
            restart_s = min(2 * restart_s, _MAX_RESTART_S)

    async def _start_server(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                self._server = await asyncio.to_thread(
                    subprocess.Popen,
                    [*self._command, FORK_SERVER, str(theirs.fileno())],
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        self._control = ours
        return ours

    @staticmethod
    async def _receive(sock: socket.socket) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(sock, _MAX_DATAGRAM)
        except OSError:
            return b""

    async def _heed(self, frame: wire.Frame) -> None:
        match frame["t"]:
            case "warm":
                for _ in range(self._spare):
                    self._fork()
            case "forked":
                sock = self._pending.pop(frame["id"])
                reader, writer = await asyncio.open_unix_connection(sock=sock)
                self._exits[frame["pid"]] = asyncio.get_running_loop().create_future()
                self._tell_watchdog(f"+{frame['pid']}")
                self._idle.put_nowait(Child(frame["pid"], reader, writer, self))
                self.warm.set()
            case "died":
                self._exited(frame["pid"], frame["code"])

    def _exited(self, pid: int, code: int | None) -> None:
        future = self._exits.get(pid)
        if future is not None and not future.done():
            self._tell_watchdog(f"-{pid}")
            future.set_result(code)

    def _tell_watchdog(self, line: str) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            with contextlib.suppress(OSError):
                os.write(self._watchdog.stdin.fileno(), f"{line}\n".encode())

    def _fork(self) -> None:
        if self._control is None:
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        number = next(self._ids)
        with theirs:
            try:
                socket.send_fds(self._control, [json.dumps({"id": number}).encode()], [theirs.fileno()])
            except OSError:
                ours.close()
            else:
                self._pending[number] = ours

    async def _lost(self) -> None:
        """Kill what the fork server left: its death is the death of all its children."""
        self.warm.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            await asyncio.to_thread(self._server.wait)
        for sock in self._pending.values():
            sock.close()
        self._pending.clear()
        for pid in list(self._exits):
            await asyncio.to_thread(kill_tree, pid)
            self._exited(pid, None)
        while not self._idle.empty():
            await self._idle.get_nowait().end()
