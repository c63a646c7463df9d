"""A TCP proxy between one process and one server, which can be told to misbehave."""

import asyncio
import contextlib
import socket
import struct
from enum import StrEnum
from typing import Final

_CHUNK_BYTES: Final = 65536
_SLOW_DELAY_S: Final = 0.15
_SLOW_BYTES: Final = 8192


class Mode(StrEnum):
    """How the proxy treats connections."""

    PASS = "pass"
    REFUSE = "refuse"  # nobody listens, and what was connected is cut
    BLACK_HOLE = "black hole"  # accepted and never answered; what is sent arrives when that has passed, if ever
    SLOW = "slow"
    RESET = "reset"  # every connection is cut once; new ones work


class Proxy:
    """Forwards connections to a port of this host.

    Parameters
    ----------
    port
        To listen on; 0 picks a free one, which is then kept.
    target
        Port to forward to.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self.port = port
        self._mode = Mode.PASS
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End all connections."""
        await self._stop_listening()
        self._cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def misbehave(self, mode: Mode) -> None:
        """Behave in another way from now on."""
        self._mode = mode
        if mode is Mode.BLACK_HOLE:
            self._open.clear()
        else:
            self._open.set()
        if mode is Mode.REFUSE:
            await self._stop_listening()
        elif self._server is None:
            await self.start()
        if mode in {Mode.REFUSE, Mode.RESET}:
            self._cut()

    async def behave(self, *, cut: bool = False) -> None:
        """Forward again.

        Parameters
        ----------
        cut
            Whether connections that stood still are cut instead of going on.
        """
        if cut:
            self._cut()
        await self.misbehave(Mode.PASS)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _cut(self) -> None:
        """End connections without a word, as a host does that lost its power."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        for link in self._links:
            link.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        self._writers.add(writer)
        far_writer = None
        try:
            await self._open.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(far_writer)
            ways = [
                asyncio.create_task(self._pump(reader, far_writer)),
                asyncio.create_task(self._pump(far_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the link was cut
        finally:
            self._links.discard(link)
            for end in (writer, far_writer):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_SLOW_BYTES if self._mode is Mode.SLOW else _CHUNK_BYTES):
                await self._open.wait()
                if self._mode is Mode.SLOW:
                    await asyncio.sleep(_SLOW_DELAY_S)
                writer.write(data)
                await writer.drain()
