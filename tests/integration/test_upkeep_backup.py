"""A backup, made while everything goes on, brings an installation back elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.gateway import keys
from services.gateway.domain.errors import Conflict, Invalid
from services.gateway.upkeep import Site
from services.gateway.upkeep.backup import back_up
from services.gateway.upkeep.check import check
from services.gateway.upkeep.restore import restore
from stdweb.stack.store import EmbeddedStore
from tests.support.gateway import Client, Gateway, gateway
from tests.support.upkeep import MemorySite


@pytest.fixture
async def care(site: Gateway, mongo_url: str) -> AsyncIterator[Site]:
    care = MemorySite(site, mongo_url)
    yield care
    care.store.close()


@pytest.fixture
async def other(embedded_store: EmbeddedStore, mongo_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """An empty installation."""
    url = replace(embedded_store, database=f"{mongo_url.rpartition('/')[2].partition('?')[0]}x").url
    (tmp_path / "other").mkdir()
    site = Site(url, tmp_path / "other")
    site.url = url  # type: ignore[attr-defined]
    await site.store.prepare()
    yield site
    site.store.close()


async def everything(client: Client) -> dict[str, Any]:
    """What a user sees of all tasks, and of presets."""
    found: dict[str, Any] = {"presets": await client.ok("GET", "/presets/")}
    for row in await client.ok("GET", "/tasks/"):
        task = row["id"]
        files = await client.ok("GET", f"/tasks/{task}/files/")
        found[str(task)] = (
            row,
            await client.ok("GET", f"/tasks/{task}/"),
            await client.ok("GET", f"/tasks/{task}/runs/"),
            [one if not one["is_dir"] else one["path"] for one in files],  # folders are made anew
            {
                one["path"]: await client.ok("GET", f"/tasks/{task}/files/{one['path']}")
                for one in files
                if not one["is_dir"]
            },
        )
    return found


async def test_all_is_there_again(site: Gateway, care: Site, other: Site, tmp_path: Path) -> None:
    site.worker.computed["inspect"] = {"gain": 2.5}
    await site.admin.add_user("ann", "ann's password", groups=["nova"], grants=["view_all_tasks"])
    mask = tmp_path / "custom_mask.fits"
    mask.write_bytes(b"mask")
    await site.admin.add_preset("wide", {"sn": 3}, [mask], site.data_dir)
    token = await site.admin.create_token("ann")
    async with aiohttp.ClientSession(headers={"Authorization": f"Token {token}"}) as session:
        ann = Client(site.url, session)
        task = await ann.new_task(
            b"pixels", title="M 31 é", config='{"note": "x\\u0001y", "sn": 4}', preset="1", groups="nova"
        )
        await ann.ok("POST", f"/tasks/{task}/files/deep/notes.txt", data={"file": b"mine"})
        for steps in (["inspect", "photometry"], ["photometry"]):
            await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": steps})
            await ann.ended(task)
        await ann.new_task(b"other", name="b.fits")
        site.worker.fail["inspect"] = "no image"
        failed = await ann.new_task(b"bad", name="c.fits")
        await ann.ok("POST", f"/tasks/{failed}/process/", json={"steps": ["inspect"]})
        await ann.ended(failed)
        before = await everything(ann)
    summary = await back_up(care, tmp_path / "backup")
    assert summary.counts | {"tokens": 0} == summary.counts | {
        "tasks": 3,
        "users": 1,
        "presets": 1,
        "runs": 1,
        "tokens": 0,
    }
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0
    assert await restore(other, tmp_path / "backup") == summary
    assert [one async for one in check(other, queues=False, fresh_s=-1)] == []
    async with (
        gateway(other.url, other.data_dir) as again,  # type: ignore[attr-defined]
        aiohttp.ClientSession(headers={"Authorization": f"Token {token}"}) as session,
    ):
        ann = Client(again.url, session)
        assert json.dumps(await everything(ann)) == json.dumps(before)
        assert len(await ann.ok("GET", "/tasks/?query=31")) == 1
        assert await ann.new_task() == failed + 1
        await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
        assert (await ann.ended(task))["state"] == "inspect_done"
        login = {"username": "ann", "password": "ann's password"}
        assert (await ann.call("POST", "/auth/token/", json=login))[0] == 200


async def test_a_backup_of_a_busy_installation_holds_whole_tasks(
    site: Gateway, ann: Client, care: Site, other: Site, tmp_path: Path
) -> None:
    tasks = [await ann.new_task(b"pixels") for _ in range(4)]
    held = await ann.new_task(b"pixels")
    site.worker.hold = {"photometry"}
    await ann.ok("POST", f"/tasks/{held}/process/", json={"steps": ["inspect", "photometry"]})
    stop = asyncio.Event()

    async def go_on() -> int:
        """Run, upload and delete as fast as it goes."""
        number = 0
        while not stop.is_set():
            number += 1
            for task in tasks[:3]:
                await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
                await ann.ended(task)
            await ann.ok("POST", f"/tasks/{tasks[0]}/files/image.fits", data={"file": b"%d" % number})
            await ann.ok("DELETE", f"/tasks/{await ann.new_task()}/")
        return number

    busy = asyncio.create_task(go_on())
    try:
        for number in range(5):
            await asyncio.sleep(0.05)
            await back_up(care, tmp_path / f"backup{number}")
    finally:
        stop.set()
        assert await busy
    await restore(other, tmp_path / "backup4")
    found = [(one.kind, one.subject) async for one in check(other, queues=False, fresh_s=-1)]
    assert found == []
    async with gateway(other.url, other.data_dir) as again:  # type: ignore[attr-defined]
        token = await again.admin.create_token("ann")
        async with aiohttp.ClientSession(headers={"Authorization": f"Token {token}"}) as session:
            ann2 = Client(again.url, session)
            # what ran when it was made goes on, as soon as the reconciler publishes its step
            waiting = await other.tasks.get(held)
            assert waiting is not None
            await again.app[keys.COORDINATOR].publish_again(waiting)
            assert (await ann2.ended(held))["state"] == "photometry_done"
            for task in tasks:
                assert "running" not in (await ann2.ended(task))["state"]
                names = {row["name"] for row in await ann2.ok("GET", f"/tasks/{task}/files/")}
                assert "image.fits" in names


@pytest.mark.parametrize("damage", ["byte", "missing", "line", "index", "format"])
async def test_a_damaged_backup_changes_nothing(
    ann: Client, care: Site, other: Site, tmp_path: Path, damage: str
) -> None:
    task = await ann.new_task(b"pixels")
    backup = tmp_path / "backup"
    await back_up(care, backup)
    image = next(backup.glob(f"tasks/{task}/.results/*-upload/image.fits"))
    match damage:
        case "byte":
            image.write_bytes(b"pixelz")
        case "missing":
            image.unlink()
        case "line":
            (backup / "store/tasks.jsonl").write_text("")
        case "index":
            (backup / "backup.json").unlink()
        case "format":
            (backup / "backup.json").write_text('{"format": 99}')
    with pytest.raises(Invalid, match=r"damaged|format 99"):
        await restore(other, backup)
    assert not any(path.name.isdecimal() for path in (other.data_dir / "tasks").iterdir())
    assert await other.users.all() == []


async def test_only_new_folders_and_empty_installations(site: Gateway, ann: Client, care: Site, tmp_path: Path) -> None:
    task = await ann.new_task(b"pixels")
    await back_up(care, tmp_path / "backup")
    with pytest.raises(Invalid, match="exists"):
        await back_up(care, tmp_path / "backup")
    with pytest.raises(Conflict, match="empty installation"):
        await restore(care, tmp_path / "backup")
    assert (await ann.ok("GET", f"/tasks/{task}/"))["state"] == "uploaded"
