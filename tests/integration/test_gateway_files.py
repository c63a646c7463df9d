"""The REST API: files of tasks."""

import asyncio
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from yarl import URL

from services.gateway import keys
from shared.metrics import REGISTRY
from shared.taskdir import TaskDir
from tests.support.gateway import Client, Gateway, until

ANN = {"groups": ["survey"]}

FORM = "multipart/form-data; boundary=b"


def folder(site: Gateway, task_id: int) -> TaskDir:
    return site.app[keys.ROOT].task(task_id)


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


async def test_only_a_range_that_counts_is_taken(ann: Client) -> None:
    task = await ann.new_task(b"0123456789")
    url = f"{ann.url}/tasks/{task}/files/image.fits"
    async with ann.session.get(url) as response:
        tag = response.headers["ETag"]
        assert response.headers["Cache-Control"] == "private, no-cache"
    for headers, expected in (
        ({"Range": "bytes=2-4", "If-Range": tag}, (206, b"234")),
        ({"Range": "bytes=2-4", "If-Range": '"of-another-version"'}, (200, b"0123456789")),
        ({"Range": "bytes=2-4", "If-Range": f"W/{tag}"}, (200, b"0123456789")),
        ({"Range": "lines=2-4"}, (200, b"0123456789")),
        ({"Range": "bytes=0-1,3-4"}, (200, b"0123456789")),
        ({"Range": "nonsense"}, (200, b"0123456789")),
        ({"Range": "BYTES=-3"}, (206, b"789")),
    ):
        async with ann.session.get(url, headers=headers) as response:
            assert (response.status, await response.read()) == expected, headers
    async with ann.session.head(url, headers={"Range": "bytes=2-4"}) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "10")


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


async def test_a_download_that_is_refused_is_json(ann: Client) -> None:
    url = f"{ann.url}/tasks/{await ann.new_task(b'0123456789')}/files/image.fits"
    # a range of HEAD means nothing
    for headers, expected, of_head in (({"Range": "bytes=50-"}, 416, 200), ({"If-Match": '"another"'}, 412, 412)):
        async with ann.session.get(url, headers=headers) as response:
            assert response.status == expected
            answer = await response.json()
            assert answer["detail"]
            assert answer["request_id"] == response.headers["X-Request-ID"]
            assert "Content-Disposition" not in response.headers
        async with ann.session.head(url, headers=headers) as response:
            assert (response.status, await response.read()) == (of_head, b"")
    # and the connection is still in step
    async with ann.session.get(url, headers={"Range": "bytes=-3"}) as response:
        assert (response.status, await response.read()) == (206, b"789")


async def test_names_of_downloads(ann: Client) -> None:
    task = await ann.new_task(b"0123456789")
    for name, kind in (
        ("a.txt", "text/plain"),
        ("a.txt.gz", "application/octet-stream"),
        ("a.vot", "application/x-votable+xml"),
    ):
        form = aiohttp.FormData()
        form.add_field("file", b"x", filename="x")
        await ann.ok("POST", f"/tasks/{task}/files/{name}", data=form)
        async with ann.session.get(f"{ann.url}/tasks/{task}/files/{name}/") as response:
            assert response.headers["Content-Disposition"].startswith(f'attachment; filename="{name}"')
            assert response.content_type == kind


async def put(client: Client, task: int, path: str, content: bytes = b"x") -> tuple[int, dict]:
    form = aiohttp.FormData()
    form.add_field("file", content, filename="x")
    return await client.call("POST", f"/tasks/{task}/files/{path}", data=form)


async def test_links_in_the_folder_lead_nowhere(site: Gateway, ann: Client, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    task = await ann.new_task()
    # people who mount the volume see the flat view; the hidden folder is where files are
    for place in (folder(site, task).path, folder(site, task).path / ".inputs"):
        (place / "dir").symlink_to(outside)
        (place / "link").symlink_to(outside / "secret")
        (place / "loop").symlink_to("loop")
    for path in ("link", "dir", "dir/secret", "dir/new", "loop", "loop/x"):
        assert (await ann.call("GET", f"/tasks/{task}/files/{path}"))[0] == 404, path
    for path in ("dir/secret", "dir/new", "loop/x"):
        assert (await ann.call("DELETE", f"/tasks/{task}/files/{path}"))[0] == 404, path
        assert (await put(ann, task, path))[0] == 404, path
    (folder(site, task).path / ".inputs" / "dir").unlink()
    assert (await put(ann, task, "dir/secret", b"mine"))[0] == 201
    assert await ann.ok("GET", f"/tasks/{task}/files/dir/secret") == "mine"
    assert (folder(site, task).path / "dir" / "secret").read_text() == "mine"
    assert (await put(ann, task, "link", b"mine"))[0] == 201
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"secret": "secret"}
    names = [row["name"] for row in await ann.ok("GET", f"/tasks/{task}/files/")]
    assert names == ["dir", "image.fits", "link"]


async def test_two_uploads_of_one_name_leave_one_whole_file(ann: Client) -> None:
    task = await ann.new_task()
    answers = await asyncio.gather(*(put(ann, task, "a/b.txt", letter * 300_000) for letter in (b"a", b"b", b"c")))
    assert [status for status, _ in answers] == [201] * 3
    content = await ann.ok("GET", f"/tasks/{task}/files/a/b.txt")
    assert (len(content), len(set(content))) == (300_000, 1)


def descriptors(site: Gateway) -> int:
    """Count open files below the data folder."""
    links = Path("/proc/self/fd").iterdir()
    return sum(os.readlink(link).startswith(str(site.data_dir)) for link in links if link.is_symlink())


async def test_a_transfer_that_is_cut_leaves_the_old_file_and_nothing_open(site: Gateway, ann: Client) -> None:
    failed = REGISTRY.get_sample_value("stdweb_request_seconds_count", {"method": "POST", "status": "500"})
    task = await ann.new_task(b"old")
    os.truncate(folder(site, task).path / "image.fits", 2**26)  # more than the sockets' buffers take
    where = urlsplit(ann.url)
    head = f"/api/tasks/{task}/files/image.fits HTTP/1.1\r\nHost: x\r\n"
    head += f"Authorization: {ann.session.headers['Authorization']}\r\n"
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"new" * 2_000_000
    for request in (
        f"GET {head}\r\n".encode(),
        f"POST {head}Content-Type: {FORM}\r\nContent-Length: 90000000\r\n\r\n".encode() + body,
    ):
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1024)
        writer.write(request)
        await until(lambda: asyncio.sleep(0, descriptors(site)))
        writer.transport.abort()
        await until(lambda: asyncio.sleep(0, descriptors(site) == 0))
        del reader
    async with ann.session.get(f"{ann.url}/tasks/{task}/files/image.fits", headers={"Range": "bytes=0-2"}) as response:
        assert (await response.read(), response.headers["Content-Range"]) == (b"old", f"bytes 0-2/{2**26}")
    assert (await ann.ok("GET", f"/tasks/{task}/"))["state"] == "uploaded"
    # a client that goes away is no fault of ours
    assert failed == REGISTRY.get_sample_value("stdweb_request_seconds_count", {"method": "POST", "status": "500"})
    await until(lambda: asyncio.to_thread(lambda: not any((site.data_dir / "tasks" / ".incoming").iterdir())))


async def test_while_running_inputs_and_results_are_locked_and_notes_are_not(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    for name in ("custom_mask.fits", "notes/a.txt", "b.txt"):
        assert (await put(ann, task, name))[0] == 201
    site.worker.hold = {"inspect"}
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    for name, expected in (
        ("image.fits", 409),
        ("custom_mask.fits", 409),
        ("custom_template.fits", 409),
        ("custom_template_mask.fits", 409),
        ("photometry.log", 409),
        ("targets/a.png", 409),
    ):
        assert (await put(ann, task, name))[0] == expected, name
        assert (await ann.call("DELETE", f"/tasks/{task}/files/{name}"))[0] == expected, name
    assert (await put(ann, task, "notes/c.txt"))[0] == 201
    for name in ("notes", "b.txt"):
        assert (await ann.call("DELETE", f"/tasks/{task}/files/{name}"))[0] == 204, name


async def test_no_file_lies_below_a_file(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    for path in ("image.fits/x", "objects.vot/a/b"):
        form = aiohttp.FormData()
        form.add_field("file", b"x", filename="x")
        status, answer = await ann.call("POST", f"/tasks/{task}/files/{path}", data=form)
        assert (status, "name" in answer["detail"]) == (404, True)
    assert (site.data_dir / "tasks" / str(task) / "image.fits").is_file()


async def test_a_commit_that_is_not_visible_yet_is_waited_for(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    await ann.ended(task)
    results = folder(site, task).path / ".results"
    (commit,) = (path for path in results.iterdir() if path.name.endswith("-inspect"))
    # as another host's client of a network file system may see it: without a file, without the whole
    for place in (commit / "inspect.log", commit):
        hidden = place.rename(results / ".hidden")
        began = time.monotonic()
        asked = asyncio.create_task(ann.ok("GET", f"/tasks/{task}/files/inspect.log"))
        done, _ = await asyncio.wait({asked}, timeout=0.5)
        assert not done
        hidden.rename(place)
        assert (await asked).startswith("inspect")
        assert time.monotonic() - began < 3
    # what no commit holds is not waited for
    for path in ("nothing.txt", "inspect.log/x", "targets/a", ".results"):
        began = time.monotonic()
        assert (await ann.call("GET", f"/tasks/{task}/files/{path}"))[0] == 404, path
        assert time.monotonic() - began < 1
    (commit / "inspect.log").unlink()
    began = time.monotonic()
    assert (await ann.call("GET", f"/tasks/{task}/files/inspect.log"))[0] == 404
    assert 4 < time.monotonic() - began < 8


async def test_results_that_a_new_image_hides_are_not_waited_for(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    await ann.ended(task)
    assert (await put(ann, task, "image.fits", b"another"))[0] == 201
    began = time.monotonic()
    assert (await ann.call("GET", f"/tasks/{task}/files/inspect.log"))[0] == 404
    assert time.monotonic() - began < 1
