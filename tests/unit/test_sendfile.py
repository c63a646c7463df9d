"""Files go through a connection whole and in order, on both event loops, whatever the client does."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from services.gateway.keys import REQUEST_ID
from services.gateway.routes.files import OpenFile

SIZE = 12 * 2**20
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    def go(work: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(work, 60))

    return go


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(SIZE // 4)))
    return path


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[str, int]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        request[REQUEST_ID] = "x"
        return OpenFile(request, os.open(path, os.O_RDONLY), path.name)

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0]
    finally:
        await runner.cleanup()


async def ask(address: tuple[str, int], count: int = 1, **headers: str) -> socket.socket:
    """Connect with a small buffer, so that the server must wait for us, and ask so many times at once."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, address)
    lines = ["GET / HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    await loop.sock_sendall(client, "\r\n".join(lines).encode() * count)
    return client


async def read(client: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = await asyncio.get_running_loop().sock_recv(client, min(2**20, size - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)


async def answer(client: socket.socket) -> tuple[bytes, bytes]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await read(client, 1)
    length = next(int(line.split()[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    return head, await read(client, length)


def test_whole_files_ranges_and_one_after_another(run: Callable[[Awaitable[None]], None], path: Path) -> None:
    async def work() -> None:
        content = path.read_bytes()
        async with serving(path) as address:
            before = descriptors()
            with await ask(address, count=3) as client:  # on one connection, asked for before the first has come
                for _ in range(3):
                    assert (await answer(client))[1] == content
            with await ask(address, Range="bytes=4000001-9000000") as client:
                head, body = await answer(client)
                assert head.startswith(b"HTTP/1.1 206")
                assert body == content[4000001:9000001]
            while descriptors() > before:
                await asyncio.sleep(0.01)

    run(work())


def test_a_client_that_goes_away_leaves_nothing_open(run: Callable[[Awaitable[None]], None], path: Path) -> None:
    async def work() -> None:
        async with serving(path) as address:
            before = descriptors()
            for _ in range(5):
                with await ask(address) as client:
                    assert len(await read(client, 100_000)) == 100_000
            while descriptors() > before:
                await asyncio.sleep(0.01)

    run(work())


def test_the_server_may_stop_meanwhile(run: Callable[[Awaitable[None]], None], path: Path) -> None:
    async def work() -> None:
        async with serving(path) as address:
            with await ask(address, Range="bytes=0-9") as client:
                await answer(client)  # the loop has opened what it needs
            client = await ask(address)
            await read(client, 100_000)
            before = descriptors()
        client.close()
        while descriptors() > before - 5:  # both ends, listener, the file, and our two for it
            await asyncio.sleep(0.01)

    run(work())


def test_a_file_that_becomes_shorter_ends_the_connection(run: Callable[[Awaitable[None]], None], path: Path) -> None:
    async def work() -> None:
        async with serving(path) as address:
            with await ask(address) as client:
                await read(client, 100_000)
                os.truncate(path, 0)
                rest = await read(client, SIZE)
                assert len(rest) < SIZE - 100_000  # and no wait for what will never come

    run(work())
