"""An address in front of others, whose connections can be cut."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from yarl import URL


class Relay:
    """Hands each connection on to the first of some addresses that takes it.

    Parameters
    ----------
    urls
        The addresses, alike but for their ports.
    """

    def __init__(self, *urls: str) -> None:
        self._urls = [URL(url) for url in urls]
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut everything, and listen no more."""
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Its own address."""
        return str(self._urls[0].with_port(self._server.sockets[0].getsockname()[1]))

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for url in self._urls:
            with contextlib.suppress(OSError):
                there, back = await asyncio.open_connection(url.host, url.port)
                await asyncio.gather(self._pour(reader, back), self._pour(there, writer))
                return
        writer.close()

    async def _pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()
