"""The server: an aiohttp application behind a proxy that ends TLS with certificates of a throw-away authority."""

import asyncio
import enum
import threading
import urllib.parse
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aiohttp import web
from astropy.table import Table

from . import answers, crossmatch, images
from .ca import Authority


class Behaviour(enum.Enum):
    """How an archive treats its users."""

    OK = "ok"
    SLOW = "a byte now and then, for ever"
    BROKEN = "500"
    TRUNCATED = "half of the answer, then the connection ends"
    CUT = "half of the answer with a fitting length"
    GARBAGE = "a web page instead of the answer"
    DOWN = "the connection ends at once"
    NOTHING = "a picture without a pixel"
    LYING = "an image of another place and size"
    ABSENT = "404"


@dataclass(frozen=True)
class Asked:
    """One request that came in."""

    archive: str
    host: str
    path: str
    body: str


@dataclass
class ArchiveServer:
    """Use as a context manager; runs in a thread of its own.

    Parameters
    ----------
    folder
        For certificates.
    tables
        VizieR's catalogues by their ids there.
    names
        Positions by lower-case name, for Sesame.
    transients
        The same for TNS.
    bodies
        Name, RA, Dec (degrees) and V of those that SkyBoT knows, at any time.
    stars
        What the image archives show; without them hips2fits gives a picture with something in its middle.
    """

    folder: Path
    tables: dict[str, Table] = field(default_factory=dict)
    names: dict[str, tuple[float, float]] = field(default_factory=dict)
    transients: dict[str, tuple[float, float]] = field(default_factory=dict)
    bodies: list[tuple[str, float, float, float]] = field(default_factory=list)
    stars: images.Stars | None = None
    asked: list[Asked] = field(default_factory=list)
    _behaviours: dict[str, list[Behaviour]] = field(default_factory=dict)

    def behave(self, archive: str, *behaviours: Behaviour) -> None:
        """Set how an archive answers: one request each, the last one for good."""
        self._behaviours[archive] = list(behaviours)

    def reset(self) -> None:
        """Answer well again, and forget what was asked."""
        self._behaviours.clear()
        self.asked.clear()
        self.stars = None

    def count(self, archive: str) -> int:
        """Count the requests to an archive."""
        return sum(request.archive == archive for request in self.asked)

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self._proxy_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Give what a site sets to put this server in front of the archives."""
        return {
            "HTTPS_PROXY": self.url,
            "HTTP_PROXY": self.url,
            "NO_PROXY": "127.0.0.1,localhost",
            "STDWEB_CA_BUNDLE": str(self.authority.bundle),
        }

    def __enter__(self) -> Self:
        self.authority = Authority(self.folder)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="archives", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(timeout=10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._app_port = self._runner.addresses[0][1]
        self._proxy = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._proxy_port = self._proxy.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._proxy.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        # handlers whose client has gone: a loop must not be closed under them
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # the proxy

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, OSError):
                await self._relay(reader, writer)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, rest = head.split(b" ", 2)
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._app_port)
        try:
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await writer.drain()
                await writer.start_tls(self.authority.context_for(target.decode().rsplit(":", 1)[0]))
            else:  # a plain request names the whole address; one per connection is enough here
                url = urllib.parse.urlsplit(target)
                path = url.path + (b"?" + url.query if url.query else b"")
                version, headers = rest.split(b"\r\n", 1)
                inner_writer.write(b" ".join([method, path, version]) + b"\r\nConnection: close\r\n" + headers)
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        finally:
            inner_writer.close()

    # the archives

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        host, body = request.host.split(":")[0], await request.read()
        archive = answers.archive_of(host, request.path)
        if archive is None:
            return web.Response(status=502, text="nothing leaves this machine")
        self.asked.append(Asked(archive, host, request.raw_path, body.decode(errors="replace")))
        queue = self._behaviours.get(archive, [Behaviour.OK])
        behaviour = queue.pop(0) if len(queue) > 1 else queue[0]
        if behaviour in _WITHOUT_ANSWER:
            return await _WITHOUT_ANSWER[behaviour](request)
        answer = await asyncio.to_thread(self._content, archive, request, body)
        if answer is None:
            return web.Response(status=400, text=crossmatch.NO_TABLE.format("of that name"), content_type="text/xml")
        kind, content = answer
        if not content:
            return web.Response(status=404, text="not found")
        if behaviour is Behaviour.NOTHING:
            content = answers.without_pixels(content)
        if behaviour is Behaviour.LYING:
            content = await asyncio.to_thread(images.another, content)
        if behaviour in {Behaviour.OK, Behaviour.CUT, Behaviour.NOTHING, Behaviour.LYING}:
            length = len(content) // 2 if behaviour is Behaviour.CUT else len(content)
            return web.Response(body=content[:length], content_type=kind)
        return await _truncated(request, content)

    def _content(self, archive: str, request: web.Request, body: bytes) -> answers.Answer | None:
        query = request.query_string
        makers = {
            "vizier": lambda: answers.vizier(body.decode(), self.tables),
            "xmatch": lambda: (
                crossmatch.table_names(self.tables)
                if request.method == "GET"
                else crossmatch.xmatch(request.headers["Content-Type"], body, self.tables)
            ),
            "skybot": lambda: crossmatch.skybot(query, self.bodies),
            "sesame": lambda: answers.sesame(request.path, request.raw_path.partition("?")[2], self.names),
            "tns": lambda: answers.tns(body, self.transients),
            "hips2fits": lambda: answers.hips2fits(query, self.stars),
            "ps1": lambda: self._image(images.ps1_file, request.path),
            "legacysurvey": lambda: self._image(images.legacy_file, request.path),
        }
        return makers[archive]()

    def _image(self, file_of: Callable[[str, images.Stars], bytes | None], path: str) -> answers.Answer:
        assert self.stars is not None, "the image archives need stars"
        return "application/fits", file_of(path, self.stars) or b""


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def _down(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    with suppress(ConnectionError):
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b"<")
            await asyncio.sleep(0.05)
    return response


async def _truncated(request: web.Request, content: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _page(status: int, text: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text, content_type="text/html")

    return answer


_WITHOUT_ANSWER = {
    Behaviour.SLOW: _slow,
    Behaviour.DOWN: _down,
    Behaviour.BROKEN: _page(500, "internal error"),
    Behaviour.GARBAGE: _page(200, "<html><body>Down for maintenance</body></html>"),
    Behaviour.ABSENT: _page(404, "not found"),
}
