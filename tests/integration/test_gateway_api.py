"""The REST API but for runs: authentication, tasks, files, errors."""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from services.gateway import keys
from services.gateway.app import Runner, build_app
from services.gateway.domain.errors import Unauthenticated
from services.gateway.storage import Store
from shared.broker.memory import MemoryBroker
from shared.settings import GatewaySettings
from tests.support.gateway import Client, Gateway, gateway, until
from tests.support.store import embedded_store, free_port, mongo_url

__all__ = ["embedded_store", "mongo_url"]


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(mongo_url, tmp_path, max_upload_bytes=8 * 2**20) as running:
        yield running


@pytest.fixture
async def ann(site: Gateway) -> AsyncIterator[Client]:
    async with site.client("ann", groups=["survey"]) as client:
        yield client


async def raw(site: Gateway, request: bytes) -> tuple[bytes, dict]:
    where = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, json.loads(body)


# ---- authentication


async def test_login_gives_a_token_that_works(site: Gateway) -> None:
    await site.admin.add_user("ann", "right")
    async with aiohttp.ClientSession() as session:
        for body in (
            {"data": {"username": "ann", "password": "right"}},
            {"json": {"username": "ann", "password": "right"}},
        ):
            async with session.post(f"{site.url}/auth/token/", **body) as response:
                assert response.status == 200
                token = (await response.json())["token"]
            async with session.get(f"{site.url}/tasks/", headers={"Authorization": f"Token {token}"}) as response:
                assert (response.status, await response.json()) == (200, [])


async def test_unknown_user_and_wrong_password_look_the_same(site: Gateway) -> None:
    await site.admin.add_user("ann", "right")
    answers: list[tuple[int, str]] = []
    seconds: dict[str, list[float]] = {"ann": [], "nobody": []}
    async with aiohttp.ClientSession() as session:
        for _ in range(8):
            for name, took in seconds.items():
                began = time.perf_counter()
                async with session.post(
                    f"{site.url}/auth/token/", data={"username": name, "password": "wrong"}
                ) as response:
                    answers.append((response.status, (await response.json())["detail"]))
                took.append(time.perf_counter() - began)
    assert len(set(answers)) == 1
    assert answers[0][0] == 400
    # without hashing, one would be faster by a factor of ten and more
    fastest = [min(took) for took in seconds.values()]
    assert max(fastest) < 4 * min(fastest)


@pytest.mark.parametrize("body", [{}, {"username": "ann"}, {"username": ["ann"], "password": 3}])
async def test_login_without_name_or_password(site: Gateway, body: dict) -> None:
    async with aiohttp.ClientSession() as session, session.post(f"{site.url}/auth/token/", json=body) as response:
        assert response.status == 400
        assert "password" in (await response.json())["errors"]


@pytest.mark.parametrize("header", [None, "Token", "Token nonsense", "Bearer abc", "Token \u00e9"])
async def test_without_a_known_token_nobody_gets_in(site: Gateway, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        for path in ("/tasks/", "/tasks/1/state/", "/queue/", "/nothing/"):
            async with session.get(site.url + path) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Token"
                assert (await response.json())["detail"]
        async with session.get(f"{site.url}/reference/") as response:
            assert list(await response.json()) == ["filters", "catalogs", "templates"]


async def test_tokens_are_kept_as_hashes_and_can_be_revoked(site: Gateway) -> None:
    await site.admin.add_user("ann")
    token = await site.admin.create_token("ann")
    stored = await site.store.collection("tokens").find({}).to_list(None)
    assert token not in json.dumps(stored, default=str)
    auth = site.app[keys.AUTH]
    assert (await auth.user(f"Token {token}")).name == "ann"
    assert await site.admin.revoke_tokens("ann") == 1
    auth._cache.clear()
    with pytest.raises(Unauthenticated, match="Invalid token"):
        await auth.user(f"Token {token}")


# ---- tasks


async def test_create_and_read(site: Gateway, ann: Client) -> None:
    task = await ann.new_task(
        b"SIMPLE" * 1000, name="a b.fits", title="M 31", config='{"filter": "R"}', groups="survey"
    )
    found = await ann.ok("GET", f"/tasks/{task}")
    assert {
        key: found[key] for key in ("id", "original_name", "title", "state", "user", "groups", "config", "path")
    } == {
        "id": task,
        "original_name": "a b.fits",
        "title": "M 31",
        "state": "uploaded",
        "user": "ann",
        "groups": ["survey"],
        "config": {"filter": "R"},
        "path": f"tasks/{task}",
    }
    assert (found["completed"], found["celery_id"]) == (None, None)
    assert found["created"].endswith("Z")
    assert await ann.ok("GET", f"/tasks/{task}/files/image.fits") == "SIMPLE" * 1000
    assert await ann.ok("GET", f"/tasks/{task}/state") == {"id": task, "state": "uploaded", "celery_id": None}


async def test_create_from_json_and_from_the_data_directory(site: Gateway, ann: Client) -> None:
    empty = await ann.ok("POST", "/tasks/", json={"original_name": "later.fits", "config": {"sn": "7"}})
    assert (empty["state"], empty["config"]) == ("initial", {"sn": "7"})
    (site.data_dir / "data" / "night").mkdir(parents=True)
    (site.data_dir / "data" / "night" / "m31.fits").write_bytes(b"pixels")
    (site.data_dir / "data" / "link.fits").symlink_to("/etc/passwd")
    made = await ann.ok("POST", "/tasks/", json={"local_file": "night/m31.fits"})
    assert (made["state"], made["original_name"]) == ("uploaded", "m31.fits")
    assert await ann.ok("GET", f"/tasks/{made['id']}/files/image.fits") == "pixels"
    for path in ("night", "../tasks", "/etc/passwd", "link.fits", "night/none.fits"):
        status, answer = await ann.call("POST", "/tasks/", json={"local_file": path})
        assert (status, list(answer["errors"])) == (400, ["local_file"]), path


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({}, "original_name"),
        ({"original_name": "a\nb"}, "original_name"),
        ({"original_name": 5}, "original_name"),
        ({"original_name": "a", "config": "filter=R"}, "config"),
        ({"original_name": "a", "config": "[" * 100000}, "config"),
        ({"original_name": "a", "config": "__import__('os').getcwd()"}, "config"),
        ({"original_name": "a", "config": {"x" * 65: 1}}, "config"),
        ({"original_name": "a", "config": {"x": "y" * 300000}}, "config"),
        ({"original_name": "a", "config": {"filter": "Q"}}, "filter"),
        ({"original_name": "a", "preset": 99}, "preset"),
        ({"original_name": "a", "groups": ["others"]}, "groups"),
    ],
)
async def test_bad_fields_are_named_and_leave_nothing(site: Gateway, ann: Client, fields: dict, key: str) -> None:
    status, answer = await ann.call("POST", "/tasks/", json=fields)
    assert (status, list(answer["errors"])) == (400, [key])
    assert answer["request_id"]
    assert await ann.ok("GET", "/tasks/") == []
    assert [path.name for path in (site.data_dir / "tasks").iterdir() if not path.name.startswith(".")] == []


async def test_a_preset_is_the_base(site: Gateway, ann: Client) -> None:
    preset = await site.admin.add_preset("wide", {"sn": 4, "filter": "r"})
    made = await ann.ok("POST", "/tasks/", json={"original_name": "a", "preset": preset.id, "config": {"sn": 9}})
    assert made["config"] == {"sn": 9, "filter": "r"}


async def test_an_upload_that_is_too_large_or_cut_off_leaves_nothing(site: Gateway, ann: Client) -> None:
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(b"x" * (8 * 2**20 + 1)), filename="big.fits")
    status, answer = await ann.call("POST", "/tasks/", data=form)
    assert status == 413
    assert str(8 * 2**20) in answer["detail"]
    where = urlsplit(site.url)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    head = (
        f"POST /api/tasks/ HTTP/1.1\r\nHost: x\r\nAuthorization: {ann.session.headers['Authorization']}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.fits"\r\n\r\n'
    )
    writer.write(head.encode() + b"x" * 4_500_000)
    await writer.drain()
    incoming = site.data_dir / "tasks" / ".incoming"

    async def arriving() -> bool:
        return any(incoming.iterdir())

    await until(arriving)
    writer.close()

    async def gone() -> bool:
        return not any(incoming.iterdir())

    await until(gone)
    assert await ann.ok("GET", "/tasks/") == []


async def test_a_full_disk_is_said(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path, reserve_bytes=2**60) as site, site.client("ann") as ann:
        form = aiohttp.FormData()
        form.add_field("file", b"SIMPLE", filename="a.fits")
        status, answer = await ann.call("POST", "/tasks/", data=form)
        assert status == 503
        assert "no room" in answer["detail"]
        assert not any((tmp_path / "tasks" / ".incoming").iterdir())


async def test_list_filters_and_pages(site: Gateway, ann: Client) -> None:
    ids = [
        (await ann.ok("POST", "/tasks/", json={"original_name": name, "title": title}))["id"]
        for name, title in (("a.fits", "M 31 field"), ("b.fits", "m 33"), ("c.fits", "100% (.*)"))
    ]
    async with site.client("bob") as bob, site.client("chief", is_staff=True) as chief:
        await bob.ok("POST", "/tasks/", json={"original_name": "bob.fits"})
        assert len(await bob.ok("GET", "/tasks/")) == 1
        assert len(await chief.ok("GET", "/tasks/")) == 4
        assert len(await chief.ok("GET", "/tasks/?user=ann")) == 3
        assert await bob.ok("GET", "/tasks/?user=ann") == []
        assert len(await chief.ok("GET", "/tasks/?query=BOB")) == 1
    rows = await ann.ok("GET", "/tasks/")
    assert [row["id"] for row in rows] == ids[::-1]
    assert set(rows[0]) == {"id", "original_name", "title", "state", "user", "created", "modified"}
    for query, count in (("m", 2), ("31 FIELD", 1), ("(.*)", 1), (".*", 1), ("%25", 1), ("none", 0), ("%00", 0)):
        assert len(await ann.ok("GET", f"/tasks/?query={query}")) == count, query
    assert len(await ann.ok("GET", "/tasks/?state=initial")) == 3
    page = await ann.ok("GET", "/tasks/?limit=2")
    assert (page["count"], len(page["results"]), page["previous"]) == (3, 2, None)
    last = await ann.ok("GET", page["next"].removeprefix(site.url))
    assert [row["id"] for row in last["results"]] == ids[:1]
    assert last["next"] is None
    for bad in ("limit=0", "limit=x", "offset=-1", "limit=99999999999"):
        assert (await ann.call("GET", f"/tasks/?{bad}"))[0] == 400


async def test_change(site: Gateway, ann: Client) -> None:
    task = await ann.new_task(config='{"sn": 7, "cat_name": "ps1"}')
    changed = await ann.ok(
        "PATCH", f"/tasks/{task}/", json={"title": "T", "config": {"sn": None, "x": 1}, "state": "?"}
    )
    assert (changed["title"], changed["config"], changed["state"]) == ("T", {"cat_name": "ps1", "x": 1}, "uploaded")
    assert (await ann.ok("POST", f"/tasks/{task}/", json={"groups": ["survey"]}))["groups"] == ["survey"]
    assert (await ann.ok("GET", "/tasks/?query=survey"))[0]["id"] == task
    site.worker.hold = {"inspect"}
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    assert (await ann.call("PATCH", f"/tasks/{task}/", json={"config": {"sn": 3}}))[0] == 409
    assert (await ann.call("PATCH", f"/tasks/{task}/", json={"original_name": "n"}))[0] == 409
    assert (await ann.ok("PATCH", f"/tasks/{task}/", json={"title": "while"}))["title"] == "while"
    await site.worker.report(site.worker.work(site.worker.seen[0]))
    assert (await ann.ended(task))["title"] == "while"


async def test_who_may_do_what(site: Gateway, ann: Client) -> None:
    task = await ann.new_task(groups="survey")
    secret = await ann.new_task()
    get, edit, delete = ("GET", f"/tasks/{task}/"), ("PATCH", f"/tasks/{task}/"), ("DELETE", f"/tasks/{task}/")
    people: tuple[tuple[str, dict, tuple[int, int, int]], ...] = (
        ("member", {"groups": ["survey"]}, (200, 200, 403)),
        ("viewer", {"grants": ["view_all_tasks"]}, (200, 403, 403)),
        ("editor", {"grants": ["edit_all_tasks"]}, (200, 200, 403)),
        ("stranger", {}, (403, 403, 403)),
        ("chief", {"is_staff": True}, (200, 200, 204)),
    )
    for name, rights, expected in people:
        async with site.client(name, **rights) as client:
            got = (
                (await client.call(*get))[0],
                (await client.call(*edit, json={"title": "x"}))[0],
                (await client.call(*delete))[0],
            )
            assert got == expected, name
            assert (await client.call("GET", f"/tasks/{secret}/"))[0] == (
                403 if name in {"member", "stranger"} else 200
            )
            assert (await client.call("GET", "/tasks/999999/"))[0] == 404
            if name == "member":
                assert (await client.call(*edit, json={"groups": []}))[0] == 403
    assert (await ann.call(*get))[0] == 404


async def test_ids_are_never_used_again(site: Gateway, ann: Client) -> None:
    first = await ann.new_task()
    await ann.ok("DELETE", f"/tasks/{first}/")
    more = await asyncio.gather(*(ann.new_task() for _ in range(5)))
    assert len({first, *more}) == 6
    assert min(more) > first


# ---- files


async def test_files_ranges_and_tags(site: Gateway, ann: Client) -> None:
    task = await ann.new_task(b"0123456789")
    url = f"{site.url}/tasks/{task}/files/image.fits"
    async with ann.session.get(url, headers={"Range": "bytes=2-4"}) as response:
        assert (response.status, await response.read()) == (206, b"234")
        assert response.headers["Content-Range"] == "bytes 2-4/10"
        assert response.headers["Content-Disposition"].startswith('attachment; filename="image.fits"')
        tag = response.headers["ETag"]
    async with ann.session.get(url, headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    async with ann.session.head(url) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "10")
    async with ann.session.get(url, headers={"Range": "bytes=50-"}) as response:
        assert response.status == 416
    assert len(os.listdir("/proc/self/fd")) < 200


async def test_upload_list_and_delete_files(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    for content in (b"first", b"second"):
        form = aiohttp.FormData()
        form.add_field("file", content, filename="x")
        answer = await ann.ok("POST", f"/tasks/{task}/files/notes/a.txt", data=form)
        assert answer == {"path": "notes/a.txt", "size": len(content)}
    assert await ann.ok("GET", f"/tasks/{task}/files/notes/a.txt") == "second"
    rows = await ann.ok("GET", f"/tasks/{task}/files/")
    assert [(row["name"], row["is_dir"]) for row in rows] == [("image.fits", False), ("notes", True)]
    assert (await ann.ok("GET", f"/tasks/{task}/files/notes/"))[0]["path"] == "notes/a.txt"
    assert (await ann.call("DELETE", f"/tasks/{task}/files/"))[0] == 405
    await ann.ok("DELETE", f"/tasks/{task}/files/notes")
    assert (await ann.call("GET", f"/tasks/{task}/files/notes/a.txt"))[0] == 404
    assert (await ann.call("POST", f"/tasks/{task}/files/b.txt", json={}))[0] == 400


@pytest.mark.parametrize(
    "path", ["..%2f..%2fsecret", "%2e%2e/1", ".run", ".results", "a%00b", "%2fetc%2fpasswd", "link", "dir/secret"]
)
async def test_no_path_leaves_the_folder(site: Gateway, ann: Client, path: str) -> None:
    task = await ann.new_task()
    (site.data_dir / "secret").write_text("secret")
    inputs = site.data_dir / "tasks" / str(task) / ".inputs"
    (inputs / "link").symlink_to(site.data_dir / "secret")
    (inputs / "dir").symlink_to(site.data_dir)
    url = URL(f"{site.url}/tasks/{task}/files/{path}", encoded=True)
    for method in ("GET", "DELETE", "POST"):
        if path in {"link", "dir/secret"} and method != "GET":
            continue
        async with ann.session.request(method, url) as response:
            assert response.status in {404, 405}, method
            assert (await response.json())["detail"]
    assert (site.data_dir / "secret").exists()


async def test_a_new_image_takes_the_results_away(site: Gateway, ann: Client) -> None:
    site.worker.computed = {"inspect": {"gain": 2.0}}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"], "config": {"sn": 4}})
    await ann.ended(task)
    form = aiohttp.FormData()
    form.add_field("file", b"another", filename="x")
    await ann.ok("POST", f"/tasks/{task}/files/image.fits", data=form)
    seen = await ann.ok("GET", f"/tasks/{task}/")
    assert (seen["state"], seen["config"]) == ("uploaded", {"sn": 4})
    assert [row["name"] for row in await ann.ok("GET", f"/tasks/{task}/files/")] == ["image.fits"]
    assert await ann.ok("GET", f"/tasks/{task}/files/image.fits") == "another"
    await ann.ok("DELETE", f"/tasks/{task}/files/image.fits")
    assert (await ann.ok("GET", f"/tasks/{task}/"))["state"] == "initial"
    assert await ann.ok("GET", f"/tasks/{task}/files/") == []
    assert (await ann.call("DELETE", f"/tasks/{task}/files/image.fits"))[0] == 404


async def test_two_uploads_of_the_image_at_once_leave_one_whole(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()

    async def upload(letter: bytes) -> None:
        form = aiohttp.FormData()
        form.add_field("file", letter * 300_000, filename="x")
        await ann.ok("POST", f"/tasks/{task}/files/image.fits", data=form)

    await asyncio.gather(upload(b"a"), upload(b"b"), upload(b"c"))
    content = await ann.ok("GET", f"/tasks/{task}/files/image.fits")
    assert (len(content), len(set(content))) == (300_000, 1)


async def test_while_running_the_files_of_the_steps_are_locked(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    site.worker.hold = {"inspect"}
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    for name, expected in (("image.fits", 409), ("custom_mask.fits", 409), ("targets/a", 409), ("my.txt", 201)):
        form = aiohttp.FormData()
        form.add_field("file", b"x", filename="x")
        assert (await ann.call("POST", f"/tasks/{task}/files/{name}", data=form))[0] == expected, name
    assert (await ann.call("DELETE", f"/tasks/{task}/files/image.fits"))[0] == 409


# ---- errors


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
    finally:
        await runner.cleanup()


async def test_health_and_metrics(site: Gateway, ann: Client) -> None:
    root = site.url.removesuffix("/api")
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(root + path) as response:
                assert (response.status, (await response.json())["status"]) == (200, "ok")
        async with session.get(root + "/metrics") as response:
            assert "stdweb_request_seconds_count" in await response.text()
