"""Edits whose service, gateway or store fails at any point: nothing changes, or everything."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.gateway import keys
from services.gateway.domain.edits import Edits
from services.gateway.domain.errors import Unavailable
from services.gateway.domain.images import STALE, Images, manifest_of
from services.gateway.model import Pending, now
from shared.contracts.edits import IMAGE, CropOptions
from shared.contracts.rpc import IMAGE_EDIT, Refusal
from shared.contracts.steps import IMAGE_RANK
from shared.taskdir import Commit
from tests.support.gateway import Client, Gateway, until
from tests.support.image_edits import (
    QUICK,
    Service,
    download,
    image,
    names,
    service,
    shape,
    site,
    stored,
    task,
)

__all__ = ["service", "site", "task"]


async def unchanged(site: Gateway, ann: Client, task: int, content: bytes) -> None:
    assert await download(ann, task) == content
    assert await names(ann, task) == [IMAGE]
    seen = await stored(site, task)
    assert (seen.pending, seen.computed) == (None, {"inspect": {"gain": 1}})
    assert not any(path.is_dir() for path in (site.data_dir / "tasks" / ".incoming").iterdir())


async def compute(site: Gateway, task: int) -> None:
    seen = await stored(site, task)
    await site.app[keys.COORDINATOR].tasks.swap(seen, replace(seen, computed={"inspect": {"gain": 1}}))


async def test_without_service_or_broker_nothing_changes(site: Gateway, ann: Client, task: int, tmp_path: Path) -> None:
    await compute(site, task)
    async with ann.session.post(f"{ann.url}/tasks/{task}/fix/") as response:  # nobody serves
        assert (response.status, "Retry-After" in response.headers) == (503, True)
    await unchanged(site, ann, task, image(tmp_path))
    site.broker.away = True
    assert (await ann.call("POST", f"/tasks/{task}/fix/"))[0] == 503
    await unchanged(site, ann, task, image(tmp_path))
    site.broker.away = False
    service = Service(site)
    await site.broker.serve(IMAGE_EDIT, service, prefetch=1)
    await ann.ok("POST", f"/tasks/{task}/fix/")


@pytest.mark.parametrize(("status", "code"), [("later", 503), ("fault", 500), ("missing", 404), ("bad", 400)])
async def test_a_refusal_changes_nothing(
    *, status: Any, code: int, site: Gateway, ann: Client, task: int, service: Service, tmp_path: Path
) -> None:
    await compute(site, task)
    service.refuse = Refusal(code="x", error="No.", status=status)
    assert (await ann.call("POST", f"/tasks/{task}/fix/"))[0] == code
    await unchanged(site, ann, task, image(tmp_path))


@pytest.mark.parametrize("gate", ["work", "say"])
async def test_after_a_time_out_nobody_can_commit_any_more(
    *, gate: str, site: Gateway, ann: Client, task: int, service: Service, tmp_path: Path
) -> None:
    """The service has not begun in time, or has done its work and its answer is lost."""
    await compute(site, task)
    getattr(service, gate).clear()
    edits = Edits(site.worker.root, site.app[keys.EDITS]._images, site.broker, QUICK)
    with pytest.raises(Unavailable):
        await edits.edit(await stored(site, task), CropOptions(x1=10), "")
    await unchanged(site, ann, task, image(tmp_path))
    getattr(service, gate).set()
    late = await asyncio.to_thread(service.prepare, service.asked[0])
    assert isinstance(late, Refusal)
    await site.broker.settled()
    await unchanged(site, ann, task, image(tmp_path))
    await ann.ok("POST", f"/tasks/{task}/crop/", json={"x1": 4})
    assert await shape(ann, task) == (64, 60)


async def test_a_gateway_that_stood_still_finds_its_edit_given_up(
    site: Gateway, ann: Client, task: int, service: Service, tmp_path: Path
) -> None:
    await compute(site, task)
    service.say.clear()
    editing = asyncio.create_task(ann.call("POST", f"/tasks/{task}/crop/", json={"x1": 10}))
    await until(lambda: asyncio.sleep(0, service.answers))
    images: Images = site.app[keys.EDITS]._images
    await images.mend(now() + STALE - timedelta(seconds=10))  # still in time
    assert (await stored(site, task)).pending is not None
    await images.mend(now() + STALE)
    await unchanged(site, ann, task, image(tmp_path))
    service.say.set()
    assert (await editing)[0] == 503
    await unchanged(site, ann, task, image(tmp_path))


async def test_an_edit_that_takes_long_is_not_taken_for_one_of_a_dead_gateway(
    site: Gateway, ann: Client, task: int, service: Service
) -> None:
    images = Images(site.app[keys.EDITS]._images._tasks, site.worker.root, renew_s=0.05)
    service.say.clear()
    edits = Edits(site.worker.root, images, site.broker)
    editing = asyncio.create_task(edits.edit(await stored(site, task), CropOptions(x1=10), ""))
    await until(lambda: asyncio.sleep(0, service.answers))
    began = (await stored(site, task)).pending

    async def renewed() -> bool:
        seen = (await stored(site, task)).pending
        return seen.at > began.at and seen.owner == began.owner

    await until(renewed)
    service.say.set()
    await editing
    assert (await stored(site, task)).pending is None
    assert await shape(ann, task) == (64, 54)


@pytest.mark.parametrize("frozen_before", ["folder", "commit"])
async def test_a_gateway_that_died_in_an_edit_blocks_nothing_for_ever(
    frozen_before: str, site: Gateway, ann: Client, task: int, tmp_path: Path
) -> None:
    root, owner = site.worker.root, "0" * 32
    seen = await stored(site, task)
    at = now() - STALE
    pending = Pending(kind="edit", seq=2, owner=owner, source=owner, at=at)
    prepared = root.incoming(owner) / "made"
    if frozen_before == "commit":
        prepared.mkdir(parents=True)
        (prepared / IMAGE).write_bytes(b"new")
    await site.app[keys.COORDINATOR].tasks.swap(
        seen, replace(seen, seq=2, pending=pending, computed={"inspect": {"gain": 1}})
    )

    async def over() -> bool:
        return (await stored(site, task)).pending is None

    await until(over)
    with pytest.raises(FileExistsError):
        root.incoming(owner).mkdir()
    assert not root.task(task).commit(prepared, Commit(2, IMAGE_RANK, "edit"), manifest_of("edit", owner, ()))
    await unchanged(site, ann, task, image(tmp_path))


async def test_what_a_dead_gateway_has_committed_counts_soon(site: Gateway, ann: Client, task: int) -> None:
    root, owner = site.worker.root, "0" * 32
    seen = await stored(site, task)
    prepared = root.incoming(owner) / "made"
    prepared.mkdir(parents=True)
    (prepared / IMAGE).write_bytes(b"new")
    assert root.task(task).commit(prepared, Commit(2, IMAGE_RANK, "edit"), manifest_of("edit", owner, ()))
    pending = Pending(kind="edit", seq=2, owner=owner, source=owner, at=now() - STALE)
    await site.app[keys.COORDINATOR].tasks.swap(
        seen, replace(seen, seq=2, pending=pending, computed={"inspect": {"gain": 1}})
    )

    async def over() -> bool:
        return (await stored(site, task)).pending is None

    await until(over)
    seen = await stored(site, task)
    assert (seen.state, seen.computed) == ("uploaded", {})
    assert await download(ann, task) == b"new"
