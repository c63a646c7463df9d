"""The REST API: the form of its errors, methods that work everywhere, health."""

import asyncio
import gzip
import io
import json
import random
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from services.gateway.app import build_app
from services.gateway.connections import Runner
from services.gateway.middlewares import answer_errors
from services.gateway.storage import Store
from services.gateway.storage.store import FORM
from shared.broker.memory import MemoryBroker
from shared.settings import GatewaySettings
from tests.support.gateway import Client, Gateway
from tests.support.store import free_port

ANN = {"groups": ["survey"]}


async def raw(site: Gateway, request: bytes) -> tuple[bytes, dict]:
    where = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, json.loads(body)


async def test_every_error_is_json(site: Gateway, ann: Client) -> None:
    for method, path, expected in (
        ("GET", "/nothing/", 404),
        ("PUT", "/tasks/", 405),
        ("GET", "/tasks/x/", 404),
        ("GET", "/tasks/99999999999999999999/", 404),
        ("GET", "/reference/nothing/", 404),
    ):
        async with ann.session.request(method, site.url + path, headers={"Accept": "text/html"}) as response:
            assert response.status == expected
            answer = await response.json()
            assert answer["detail"]
            assert answer["request_id"] == response.headers["X-Request-ID"]
    task = await ann.new_task()
    for options, expected in (
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"json": [1]}, 400),
        ({"data": b"<a/>", "headers": {"Content-Type": "text/xml"}}, 415),
        ({"data": b"[" * 2_000_000, "headers": {"Content-Type": "application/json"}}, 413),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
    ):
        for method, path in (("PATCH", f"/tasks/{task}/"), ("POST", "/tasks/")):
            body = {"data": io.BytesIO(options["data"])} if "data" in options else {}
            assert (await ann.call(method, path, **{**options, **body}))[0] == expected, options


@pytest.mark.parametrize("packing", ["br", "zstd", "exi", "gzip, gzip", "compress"])
async def test_a_body_packed_in_an_unknown_way_is_415(ann: Client, packing: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": packing}
    body = {"data": b'{"original_name": "a"}', "headers": headers}
    status, answer = await ann.call("POST", "/tasks/", **body)
    assert (status, "gzip" in answer["detail"]) == (415, True)
    assert await ann.ok("GET", "/tasks/") == []
    assert (await ann.call("POST", "/tasks/", **{**body, "headers": {**headers, "Content-Encoding": "identity"}}))[
        0
    ] == 201


PACKED = gzip.compress(b'{"title": "' + random.Random(1).randbytes(30_000).hex().encode() + b'"}')


@pytest.mark.parametrize(
    "sent",  # Content-Encoding, the body, and how many lines of the log it is worth
    [
        ("gzip", b"no gzip", 1),
        ("gzip", PACKED[:5000] + b"\xff" * 100 + PACKED[5100:], 1),
        ("gzip", PACKED[:-8] + b"12345678", 1),
        ("gzip", PACKED[:20], 0),
        ("gzip", PACKED[:5000], 0),
        ("deflate", b"nope", 1),
        ("deflate", zlib.compress(b'{"title": "a"}')[:-4], 1),
    ],
)
async def test_a_damaged_body_is_a_bad_request_and_no_fault(
    ann: Client,
    sent: tuple[str, bytes, int],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    packing, body, lines = sent

    async def piece_by_piece() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    task = await ann.new_task()
    headers = {"Content-Type": "application/json", "Content-Encoding": packing}
    for method, path in (("PATCH", f"/tasks/{task}/"), ("POST", "/tasks/")):
        for data in (body, piece_by_piece()):
            capsys.readouterr()
            status, answer = await ann.call(method, path, headers=headers, data=data)
            assert (status, bool(answer["detail"])) == (400, True)
            written = capsys.readouterr().out.splitlines()
            assert len(written) == lines, written
            assert all((answer["request_id"] in line and "damaged" in line) or "deflate" in line for line in written)
    assert not caplog.records  # no traceback
    assert [row["id"] for row in await ann.ok("GET", "/tasks/")] == [task]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_json_too(site: Gateway, request_bytes: bytes) -> None:
    head, body = await raw(site, request_bytes)
    assert head.split()[1] == b"400"
    assert b"application/json" in head
    assert body["detail"]


async def test_head_and_options_work_where_get_does(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    for path in (
        "/tasks/",
        f"/tasks/{task}/",
        f"/tasks/{task}/state",
        f"/tasks/{task}/files/",
        "/queue/",
        "/reference/",
    ):
        for method in ("HEAD", "OPTIONS"):
            status, _ = await ann.call(method, path, headers={"Accept": "image/png"})
            assert status == 200, (method, path)


async def test_a_store_that_is_away_is_503_soon(tmp_path: Path) -> None:
    url = f"mongodb://127.0.0.1:{free_port()}/none"
    settings = GatewaySettings(amqp_url="amqp://unused", mongo_url=url, data_dir=tmp_path)
    runner = Runner(build_app(settings, Store(url), MemoryBroker()), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession(headers={"Authorization": "Token abc"}) as session:
            began = time.monotonic()
            async with session.get(f"http://127.0.0.1:{port}/api/tasks/") as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
                assert (await response.json())["detail"] == "The store is away; try again later."
            assert time.monotonic() - began < 5
            async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                assert (response.status, (await response.json())["store"]) == (503, "away")
            async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                lines = (await response.text()).splitlines()
            assert "stdweb_store_away_total 0.0" not in lines
            assert "stdweb_store_seconds_count 0.0" not in lines
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("form", [None, FORM + 1])
async def test_a_store_of_another_version_ends_the_gateway(
    form: int | None, mongo_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = Store(mongo_url)
    await older.collection("tasks").insert_one({"_id": 1, "user": "ann"})
    if form is not None:
        await older.collection("counters").insert_one({"_id": "form", "value": form})
    settings = GatewaySettings(amqp_url="amqp://unused", mongo_url=mongo_url, data_dir=tmp_path)
    broken = asyncio.Event()
    runner = Runner(build_app(settings, Store(mongo_url), MemoryBroker(), broken.set), access_log=None)
    await runner.setup()
    await asyncio.wait_for(broken.wait(), 10)
    await runner.cleanup()
    said = capsys.readouterr()
    assert f"this version reads form {FORM}" in said.out + said.err
    assert await older.collection("tasks").count_documents({}) == 1
    assert await older.collection("runs").index_information() == {}
    older.close()


async def test_health_and_metrics(site: Gateway, ann: Client) -> None:
    root = site.url.removesuffix("/api")
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(root + path) as response:
                assert (response.status, (await response.json())["status"]) == (200, "ok")
        async with session.get(root + "/metrics") as response:
            assert "stdweb_request_seconds_count" in await response.text()


async def test_an_answer_that_breaks_off_is_not_taken_for_whole() -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100  # as much as the answer with the error would fill
        await response.prepare(request)
        await response.write(b"[1, ")
        raise ArithmeticError

    app = web.Application(middlewares=[answer_errors])
    app.router.add_get("/", break_off)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/") as got,
        ):
            assert got.status == 200
            with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
                await got.read()
    finally:
        await runner.cleanup()
