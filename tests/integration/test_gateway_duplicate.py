"""Duplicates of tasks, and presets with files."""

import asyncio
from pathlib import Path

import pytest

from services.gateway.domain.errors import Invalid
from tests.support.gateway import Client, Gateway, gateway

ANN = {"groups": ["survey"]}


async def put(client: Client, task: int, name: str, content: bytes) -> None:
    await client.ok("POST", f"/tasks/{task}/files/{name}", data={"file": content})


async def content(client: Client, task: int) -> dict[str, str]:
    names = [row["name"] for row in await client.ok("GET", f"/tasks/{task}/files/") if not row["is_dir"]]
    return {name: await client.ok("GET", f"/tasks/{task}/files/{name}") for name in names}


async def test_a_duplicate_has_all_and_shares_nothing(site: Gateway, ann: Client) -> None:
    site.worker.computed["inspect"] = {"gain": 2.0}
    task = await ann.new_task(b"pixels", title="M 31", config='{"sn": 4}', groups="survey")
    await put(ann, task, "notes/first.txt", b"one")
    await put(ann, task, "custom_mask.fits", b"mask")
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect", "photometry"]})
    await ann.ended(task)
    before = await content(ann, task)
    async with site.client("bob", groups=["survey"]) as bob:
        double = await bob.ok("POST", f"/tasks/{task}/duplicate/")
        assert (double["user"], double["groups"], double["title"]) == ("bob", [], "M 31")
        assert (double["state"], double["celery_id"]) == ("photometry_done", None)
        assert double["config"] == {"sn": 4, "gain": 2.0}
        assert double["id"] > task
        assert await content(bob, double["id"]) == before
        assert (await ann.call("GET", f"/tasks/{double['id']}/"))[0] == 403
        # each goes its own way
        await put(bob, double["id"], "notes/first.txt", b"two")
        await put(bob, double["id"], "inspect.log", b"rewritten")
        await bob.ok("DELETE", f"/tasks/{double['id']}/files/custom_mask.fits")
        await bob.ok("PATCH", f"/tasks/{double['id']}/", json={"config": {"sn": 9}})
        assert await content(ann, task) == before
        assert await ann.ok("GET", f"/tasks/{task}/files/notes/first.txt") == "one"
        await put(ann, task, "image.fits", b"other")
        await ann.ok("DELETE", f"/tasks/{task}/")
        kept = await content(bob, double["id"])
        assert (kept["image.fits"], kept["inspect.log"]) == ("pixels", "rewritten")
        await bob.ok("POST", f"/tasks/{double['id']}/process/", json={"steps": ["inspect"]})
        assert (await bob.ended(double["id"]))["state"] == "inspect_done"


async def test_not_while_running(site: Gateway, ann: Client) -> None:
    site.worker.hold.add("inspect")
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    status, answer = await ann.call("POST", f"/tasks/{task}/duplicate/")
    assert status == 409
    assert "running" in answer["detail"]
    await ann.ok("POST", f"/tasks/{task}/cancel/")
    double = await ann.ok("POST", f"/tasks/{task}/duplicate/")
    assert double["state"] == "cancelled"


async def test_it_may_race_with_everything_else(site: Gateway, ann: Client) -> None:
    """What is copied is what was there at one time, or nothing."""
    task = await ann.new_task(b"pixels")

    async def churn() -> None:
        for turn in range(10):
            await put(ann, task, "image.fits", f"pixels {turn}".encode())
            await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
            await ann.ended(task)

    async def double() -> list[tuple[int, dict]]:
        return [await ann.call("POST", f"/tasks/{task}/duplicate/") for _ in range(10)]

    _, *answers = await asyncio.gather(churn(), double(), double())
    made = [answer for group in answers for status, answer in group if status == 201]
    assert {status for group in answers for status, _ in group} <= {201, 409}
    for one in made:
        files = await content(ann, one["id"])
        assert files["image.fits"].startswith("pixels")
        assert ("inspect.log" in files) == (one["state"] == "inspect_done"), one["state"]
    folders = {path.name for path in (site.data_dir / "tasks").iterdir() if path.name.isdecimal()}
    assert folders == {str(row["id"]) for row in await ann.ok("GET", "/tasks/")}


async def test_a_disk_that_is_nearly_full(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path, reserve_bytes=2**60) as site, site.client("ann") as ann:
        task = (await ann.ok("POST", "/tasks/", json={"original_name": "a"}))["id"]
        assert (await ann.call("POST", f"/tasks/{task}/duplicate/"))[0] == 503
        assert len(await ann.ok("GET", "/tasks/")) == 1


async def test_presets_are_listed_and_bring_files(site: Gateway, ann: Client, tmp_path: Path) -> None:
    mask, template = tmp_path / "custom_mask.fits", tmp_path / "custom_template.fits"
    mask.write_bytes(b"mask")
    template.write_bytes(b"template")
    plain = await site.admin.add_preset("plain", {"sn": 3})
    wide = await site.admin.add_preset("wide", {"sn": 4, "filter": "r"}, [mask, template], site.data_dir)
    rows = [{"id": plain.id, "name": "plain", "config": {"sn": 3}}]
    rows.append({"id": wide.id, "name": "wide", "config": {"sn": 4, "filter": "r"}})
    assert await ann.ok("GET", "/presets/") == rows
    assert await ann.ok("GET", f"/presets/{wide.id}/") == rows[1]
    for bad in ("99", "x", "0", "-1", "1e3", "9" * 30):
        assert (await ann.call("GET", f"/presets/{bad}/"))[0] == 404, bad
    mask.write_bytes(b"changed after it was added")
    one = await ann.new_task(b"pixels", preset=str(wide.id), config='{"sn": 9}')
    two = (await ann.ok("POST", "/tasks/", json={"original_name": "a", "preset": wide.id}))["id"]
    assert (await ann.ok("GET", f"/tasks/{one}/"))["config"] == {"sn": 9, "filter": "r"}
    assert await content(ann, one) == {
        "image.fits": "pixels",
        "custom_mask.fits": "mask",
        "custom_template.fits": "template",
    }
    await put(ann, one, "custom_mask.fits", b"mine")
    await ann.ok("DELETE", f"/tasks/{one}/")
    assert (await content(ann, two))["custom_mask.fits"] == "mask"
    assert (site.data_dir / "presets" / str(wide.id) / "custom_mask.fits").read_bytes() == b"mask"


@pytest.mark.parametrize("name", ["image.fits", "inspect.log", ".hidden", "none.fits", "two"])
async def test_files_that_no_preset_can_bring(site: Gateway, tmp_path: Path, name: str) -> None:
    files = [tmp_path / name]
    if name == "two":
        (tmp_path / "below").mkdir()
        files = [tmp_path / "a.fits", tmp_path / "below" / "a.fits"]
    for path in files:
        if name != "none.fits":
            path.write_bytes(b"x")
    with pytest.raises(Invalid, match="files"):
        await site.admin.add_preset("bad", {}, files, site.data_dir)
    assert await site.admin.list_presets() == []
    assert not (site.data_dir / "presets").exists()


async def test_a_preset_whose_files_are_lost(site: Gateway, ann: Client, tmp_path: Path) -> None:
    (tmp_path / "custom_mask.fits").write_bytes(b"mask")
    preset = await site.admin.add_preset("wide", {}, [tmp_path / "custom_mask.fits"], site.data_dir)
    (site.data_dir / "presets" / str(preset.id) / "custom_mask.fits").unlink()
    status, answer = await ann.call("POST", "/tasks/", json={"original_name": "a", "preset": preset.id})
    assert (status, list(answer["errors"])) == (400, ["preset"])
    assert await ann.ok("GET", "/tasks/") == []
    assert not any(path.name.isdecimal() for path in (site.data_dir / "tasks").iterdir())
