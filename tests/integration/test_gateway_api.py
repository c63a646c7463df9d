"""The REST API: tasks."""

import asyncio
import io
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.support.gateway import Client, Gateway, gateway, until

SITE = {"max_upload_bytes": 8 * 2**20}
ANN = {"groups": ["survey"]}


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
