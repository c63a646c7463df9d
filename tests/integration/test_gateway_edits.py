"""Edits through the REST API; the inspect service's own code answers, in this process."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from astropy.io import fits

from services.gateway import keys
from services.gateway.domain.images import manifest_of
from shared.contracts.edits import IMAGE, ORIGINAL
from shared.contracts.rpc import Prepared, Refusal
from shared.contracts.steps import STEPS
from shared.science.images import read_image
from shared.taskdir import Commit
from tests.support import fits as files
from tests.support.gateway import Client, Gateway, until
from tests.support.image_edits import (
    Service,
    download,
    image,
    names,
    service,
    shape,
    site,
    stored,
    task,
    upload,
)

__all__ = ["service", "site", "task"]

ANN = {"groups": ["survey"]}


@pytest.mark.parametrize(
    ("path", "status"), [("fix/", "fixed"), ("fix", "fixed"), ("crop/", "cropped"), ("destripe", "destriped")]
)
async def test_an_edit_takes_back_what_was_made_from_the_image(
    *, path: str, status: str, site: Gateway, ann: Client, task: int, service: Service, tmp_path: Path
) -> None:
    site.worker.computed = {"inspect": {"gain": 2.5}}
    await ann.ok("PATCH", f"/tasks/{task}/", json={"config": {"sn": 4}})
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    assert (await ann.ended(task))["config"] == {"gain": 2.5, "sn": 4}
    assert await ann.ok("POST", f"/tasks/{task}/{path}") == {"id": task, "status": status}
    seen = await ann.ok("GET", f"/tasks/{task}/")
    assert (seen["state"], seen["config"], seen["error"]) == ("uploaded", {"sn": 4}, None)
    assert await names(ann, task) == [IMAGE, ORIGINAL]
    assert await download(ann, task, ORIGINAL) == image(tmp_path)
    assert await download(ann, task) != image(tmp_path)
    assert (site.worker.root.task(task).path / ORIGINAL).read_bytes() == image(tmp_path)  # in the flat view, too
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    assert (await ann.ended(task))["state"] == "inspect_done"
    assert not any((site.data_dir / "tasks" / ".incoming").iterdir())


@pytest.mark.parametrize(
    "body",
    [
        {"json": {"x1": 10, "x2": "-4", "y2": None}},
        {"json": {"x1": "10", "x2": 60, "unknown": 1}},
        {"data": {"x1": "10", "x2": "60", "y1": "", "y2": " "}},
    ],
)
async def test_crop_takes_json_and_forms(body: dict[str, Any], ann: Client, task: int, service: Service) -> None:
    await ann.ok("POST", f"/tasks/{task}/crop/", **body)
    assert await shape(ann, task) == (64, 50)


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("crop", {"x1": "a"}, ["x1"]),
        ("crop", {"x1": 1.5, "y2": True}, ["x1", "y2"]),
        ("crop", {"x2": [1]}, ["x2"]),
        ("crop", {"y1": 10**12}, ["y1"]),
        ("crop", {"x1": 20, "x2": 20}, ["x2"]),
        ("crop", {"y1": 64}, ["y1"]),
        ("crop", {"x2": 0}, ["x2"]),
        ("destripe", {"direction": "diagonal"}, ["direction"]),
        ("destripe", {"direction": None}, ["direction"]),
    ],
)
async def test_bad_values_are_named(
    *, path: str, body: dict[str, Any], fields: list[str], site: Gateway, ann: Client, task: int, service: Service
) -> None:
    before = await download(ann, task)
    status, content = await ann.call("POST", f"/tasks/{task}/{path}/", json=body)
    assert (status, list(content["errors"])) == (400, fields)
    assert content["detail"]
    assert await download(ann, task) == before
    assert (await stored(site, task)).pending is None
    assert not any((site.data_dir / "tasks" / ".incoming").iterdir())


async def test_what_is_no_image_cannot_be_edited(ann: Client, service: Service) -> None:
    task = await ann.new_task(b"hello")
    for path in ("fix", "crop", "destripe"):
        status, content = await ann.call("POST", f"/tasks/{task}/{path}/")
        assert status == 400
        assert "not a FITS file" in content["detail"]
    assert await names(ann, task) == [IMAGE]
    empty = (await ann.ok("POST", "/tasks/", json={"original_name": "none"}))["id"]
    assert (await ann.call("POST", f"/tasks/{empty}/fix/"))[0] == 404
    assert (await ann.call("POST", f"/tasks/{empty + 1}/fix/"))[0] == 404


async def test_the_first_original_stays_until_another_image_comes(
    ann: Client, task: int, service: Service, tmp_path: Path
) -> None:
    for side in (60, 50, 40):
        await ann.ok("POST", f"/tasks/{task}/crop/", json={"x2": side})
        assert await shape(ann, task) == (64, side)
        assert await download(ann, task, ORIGINAL) == image(tmp_path)
    assert (await upload(ann, task, image(tmp_path, 32)))[0] == 201
    assert await names(ann, task) == [IMAGE]
    await ann.ok("POST", f"/tasks/{task}/destripe/", json={"direction": "horizontal"})
    assert await download(ann, task, ORIGINAL) == image(tmp_path, 32)
    await ann.ok("DELETE", f"/tasks/{task}/files/{IMAGE}")
    assert await names(ann, task) == []


async def test_an_edit_takes_the_extension_that_inspect_takes(
    site: Gateway, ann: Client, service: Service, tmp_path: Path
) -> None:
    parts = [fits.PrimaryHDU(), *(fits.ImageHDU(files.field(side), files.observation(side)) for side in (40, 50, 60))]
    fits.HDUList(parts).writeto(tmp_path / "several.fits")
    whole = (tmp_path / "several.fits").read_bytes()
    task = await ann.new_task(whole, ext="2")
    await ann.ok("POST", f"/tasks/{task}/crop/", json={"x1": 1})
    assert await shape(ann, task) == (50, 49)
    for step in ("fix", "destripe", "crop"):  # there is no other one any more
        await ann.ok("POST", f"/tasks/{task}/{step}/")
    assert await shape(ann, task) == (50, 49)
    assert await download(ann, task, ORIGINAL) == whole
    folder = site.worker.root.task(task)
    image, _ = read_image(folder.find(IMAGE), 2)  # as inspect does
    assert image.shape == (50, 49)

    # inspect has put the extension into the place of the file: what was uploaded is edited all the same
    again = await ann.new_task(whole, ext="3")
    await ann.ok("POST", f"/tasks/{again}/process/", json={"steps": ["inspect"]})
    await ann.ended(again)
    work = site.worker.root.incoming()
    work.mkdir()
    (work / IMAGE).write_bytes(b"what inspect took")
    site.worker.root.task(again).commit(work, Commit(9, STEPS["inspect"].rank, "inspect"), manifest_of("edit", "o", ()))
    seen = await stored(site, again)
    await site.app[keys.COORDINATOR].tasks.swap(seen, replace(seen, seq=9))
    await ann.ok("POST", f"/tasks/{again}/fix/")
    assert await shape(ann, again) == (60, 60)
    assert await download(ann, again, ORIGINAL) == whole


async def test_who_may_edit(site: Gateway, ann: Client, task: int, service: Service) -> None:
    for path in ("fix", "crop", "destripe"):
        for name, user, expected in (
            ("mary", {"groups": ["survey"]}, 200),
            ("root", {"is_staff": True}, 200),
            ("ed", {"grants": ["edit_all_tasks"]}, 200),
            ("vic", {"grants": ["view_all_tasks"]}, 403),
            ("bob", {}, 403),
        ):
            await ann.ok("PATCH", f"/tasks/{task}/", json={"groups": ["survey"]})
            async with site.client(f"{name}-{path}", **user) as client:
                assert (await client.call("POST", f"/tasks/{task}/{path}/"))[0] == expected, name
        async with aiohttp.ClientSession() as session, session.post(f"{ann.url}/tasks/{task}/{path}/") as response:
            assert response.status == 401
    assert len(service.asked) == 9


# ---- never beside anything, never twice


async def test_a_running_task_is_not_edited(site: Gateway, ann: Client, task: int, service: Service) -> None:
    site.worker.hold = {"inspect"}
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    for path in ("fix", "crop", "destripe"):
        assert (await ann.call("POST", f"/tasks/{task}/{path}/"))[0] == 409
    assert service.asked == []


async def test_nothing_runs_or_changes_beside_an_edit(site: Gateway, ann: Client, task: int, service: Service) -> None:
    service.work.clear()
    editing = asyncio.create_task(ann.ok("POST", f"/tasks/{task}/crop/", json={"x1": 4}))
    await until(lambda: asyncio.sleep(0, service.asked))
    for path in ("fix", "crop", "destripe", "duplicate"):
        status, content = await ann.call("POST", f"/tasks/{task}/{path}/")
        assert (status, "being changed" in content["detail"]) == (409, True), path
    assert (await ann.call("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]}))[0] == 409
    await ann.ok("PATCH", f"/tasks/{task}/", json={"config": {"sn": 3}, "title": "new"})
    service.work.set()
    await editing
    seen = await ann.ok("GET", f"/tasks/{task}/")
    assert (seen["state"], seen["config"], seen["title"]) == ("uploaded", {"sn": 3}, "new")
    assert (len(service.asked), await shape(ann, task)) == (1, (64, 60))


async def test_of_edits_at_once_one_wins(ann: Client, task: int, service: Service) -> None:
    service.say.clear()
    asking = [asyncio.create_task(ann.call("POST", f"/tasks/{task}/crop/", json={"x1": 1})) for _ in range(5)]
    await until(lambda: asyncio.sleep(0, sum(one.done() for one in asking) == 4))
    service.say.set()
    answers = await asyncio.gather(*asking)
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409, 409]
    assert await shape(ann, task) == (64, 63)


async def test_a_request_delivered_twice_has_its_effect_once(
    site: Gateway, ann: Client, task: int, service: Service
) -> None:
    service.say.clear()
    editing = asyncio.create_task(ann.ok("POST", f"/tasks/{task}/crop/", json={"x1": 10}))
    await until(lambda: asyncio.sleep(0, service.asked))
    twin = await asyncio.to_thread(service.prepare, service.asked[0])
    assert isinstance(twin, Prepared)
    service.say.set()
    await editing
    before = await download(ann, task)
    late = await asyncio.to_thread(service.prepare, service.asked[0])
    assert isinstance(late, Refusal)
    assert await download(ann, task) == before
    assert await shape(ann, task) == (64, 54)
    assert (await stored(site, task)).seq == 2


async def test_a_client_that_goes_away_takes_nothing_with_it(
    site: Gateway, ann: Client, task: int, service: Service
) -> None:
    service.say.clear()
    editing = asyncio.create_task(ann.call("POST", f"/tasks/{task}/crop/", json={"x1": 10}))
    await until(lambda: asyncio.sleep(0, service.asked))
    editing.cancel()
    service.say.set()

    async def over() -> bool:
        return (await stored(site, task)).pending is None

    await until(over)
    assert await shape(ann, task) == (64, 54)


async def test_a_task_deleted_meanwhile_stays_so(site: Gateway, ann: Client, task: int, service: Service) -> None:
    service.say.clear()
    editing = asyncio.create_task(ann.call("POST", f"/tasks/{task}/crop/", json={"x1": 10}))
    await until(lambda: asyncio.sleep(0, service.asked))
    await ann.ok("DELETE", f"/tasks/{task}/")
    service.say.set()
    assert (await editing)[0] == 404
    assert not site.worker.root.task(task).exists()
    assert not any((site.data_dir / "tasks" / ".incoming").iterdir())


# ---- what is away, late, or dead
