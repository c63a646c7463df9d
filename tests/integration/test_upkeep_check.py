"""What a check of the whole installation finds, and what is mended."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.gateway.model import now
from services.gateway.upkeep import Site
from services.gateway.upkeep.check import check, mend
from shared.contracts.steps import IMAGE_RANK
from shared.taskdir import AttemptKey, Commit, claim
from tests.support.gateway import Client, Gateway, gateway
from tests.support.upkeep import MemorySite

LATER = timedelta(seconds=120)


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway whose reconciler mends nothing meanwhile."""
    async with gateway(mongo_url, tmp_path, reconcile_every_s=3600) as running:
        yield running


@pytest.fixture
async def care(site: Gateway, mongo_url: str) -> AsyncIterator[Site]:
    care = MemorySite(site, mongo_url)
    yield care
    care.store.close()


async def found(care: Site) -> list[tuple[str, str]]:
    return sorted([(one.kind, one.subject) async for one in check(care, fresh_s=-1)])


async def mended(care: Site, **options: float) -> list[tuple[str, str, bool | None]]:
    return sorted(
        [(one.finding.kind, one.finding.subject, one.done) async for one in mend(check(care, fresh_s=-1, **options))]
    )


async def change(site: Gateway, collection: str, where: dict[str, Any], **update: Any) -> None:
    result = await site.store.collection(collection).update_one(
        where, {f"${key}": value for key, value in update.items()}
    )
    assert result.modified_count == 1


async def processed(client: Client) -> int:
    task = await client.new_task(b"pixels")
    await client.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect", "photometry"]})
    assert (await client.ended(task))["state"] == "photometry_done"
    return task


async def test_a_sound_installation_has_no_findings(site: Gateway, ann: Client, care: Site) -> None:
    task = await processed(ann)
    await ann.ok("POST", f"/tasks/{task}/files/notes/a.txt", data={"file": b"x"})
    await ann.ok("POST", f"/tasks/{task}/duplicate/")
    await ann.ok("PATCH", f"/tasks/{task}/", json={"title": "M 31"})
    gone = await ann.new_task()
    await ann.ok("DELETE", f"/tasks/{gone}/")
    site.worker.hold = {"photometry"}
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["photometry"]})
    assert await found(care) == []


async def test_folders_and_tasks_that_miss_each_other(site: Gateway, ann: Client, care: Site) -> None:
    first, second = await ann.new_task(), await ann.new_task()
    shutil.rmtree(site.data_dir / f"tasks/{first}")
    stray = site.data_dir / "tasks/77"
    (stray / ".inputs").mkdir(parents=True)
    (stray / ".inputs/a.txt").write_text("mine")
    expected = [("counter", "tasks"), ("folder", "folder 77"), ("folder", f"task {first}")]
    assert await found(care) == expected
    assert await mended(care) == [
        ("counter", "tasks", True),
        ("folder", "folder 77", True),
        ("folder", f"task {first}", None),
    ]
    (kept,) = (site.data_dir / "lost").iterdir()
    assert (kept / ".inputs/a.txt").read_text() == "mine"
    assert await found(care) == [("folder", f"task {first}")]
    assert await ann.new_task() == 78
    assert (await ann.ok("GET", f"/tasks/{second}/files/image.fits")) == "SIMPLE"


async def test_folders_are_left_alone_beside_an_empty_store(site: Gateway, care: Site) -> None:
    (site.data_dir / "tasks/5").mkdir()
    assert ("folder", "folder 5", None) in await mended(care)
    assert (site.data_dir / "tasks/5").is_dir()


async def test_fresh_folders_may_be_uploads(site: Gateway, ann: Client, care: Site) -> None:
    await ann.new_task()
    (site.data_dir / "tasks/5").mkdir()
    assert [one.subject async for one in check(care)] == []


async def test_commits_that_an_older_store_does_not_know(site: Gateway, ann: Client, care: Site) -> None:
    site.worker.computed["inspect"] = {"gain": 2.5}
    task = await ann.new_task(b"pixels")
    before = await care.tasks.get(task)
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    ended = await ann.ended(task)
    seen = await care.tasks.get(task)
    assert before is not None
    assert seen is not None
    await care.tasks.swap(seen, replace(before, rev=seen.rev))  # the store of yesterday
    assert await mended(care) == [("commit", f"task {task}", True)]
    again = await ann.ok("GET", f"/tasks/{task}/")
    assert (again["state"], again["config"]) == ("inspect_done", ended["config"])
    assert await found(care) == []
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    assert (await ann.ended(task))["state"] == "inspect_done"
    assert await found(care) == []


async def test_results_that_are_missing_or_damaged_are_said(site: Gateway, ann: Client, care: Site) -> None:
    first, second = await processed(ann), await processed(ann)
    results = site.data_dir / f"tasks/{first}/.results"
    shutil.rmtree(next(results.glob("*-photometry")))
    (next((site.data_dir / f"tasks/{second}/.results").glob("*-inspect")) / ".manifest.json").write_text("{")
    assert [one for one in await found(care) if one[0] != "view"] == [
        ("commit", f"task {second}"),
        ("results", f"task {first}"),
    ]


async def test_scratch_and_views(site: Gateway, ann: Client, care: Site) -> None:
    task = await processed(ann)
    folder = site.data_dir / f"tasks/{task}"
    attempt = claim(care.root.task(task), AttemptKey("old", "inspect", 1))
    (attempt.work / "big.fits").write_bytes(b"x" * 1000)
    (folder / "inspect.log").unlink()
    (folder / "stranger.txt").write_text("x")
    assert await found(care) == [("view", f"task {task}")]  # what is fresh may still be at work
    assert await mended(care, settle_s=-1) == [("scratch", f"task {task}", True), ("view", f"task {task}", True)]
    assert not (folder / ".work/old").exists()
    assert (folder / "inspect.log").exists()
    assert not (folder / "stranger.txt").exists()
    assert await found(care) == []
    attempt.close()


async def test_listings(site: Gateway, ann: Client, care: Site) -> None:
    first, second, third = [await ann.new_task() for _ in range(3)]
    await change(site, "shelves", {"ids": first}, pull={"ids": first})
    await change(site, "shelves", {"ids": second}, push={"ids": 999})
    await change(site, "texts", {"user": "ann"}, set={f"rows.{third}": ["something else"]})
    assert len(await ann.ok("GET", "/tasks/?query=observation")) == 2
    assert await mended(care) == [
        ("listing", f"task {first}", True),
        ("listing", f"task {third}", True),
        ("listing", "task 999", True),
    ]
    assert await found(care) == []
    for path in ("/tasks/", "/tasks/?query=observation"):
        assert [row["id"] for row in await ann.ok("GET", path)] == [third, second, first]


async def test_marks_counters_history_owners_and_presets(
    site: Gateway, ann: Client, care: Site, tmp_path: Path
) -> None:
    task = await processed(ann)
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    await ann.ended(task)
    await change(site, "tasks", {"_id": task}, set={"work": "d|nowhere"})
    await change(site, "counters", {"_id": "tasks"}, set={"value": 0})
    await change(site, "runs", {"task_id": task}, set={"task_id": 1234})
    await site.store.collection("users").delete_one({"_id": "ann"})
    mask = tmp_path / "custom_mask.fits"
    mask.write_bytes(b"mask")
    preset = await site.admin.add_preset("wide", {}, [mask], site.data_dir)
    shutil.rmtree(site.data_dir / f"presets/{preset.id}")
    assert await mended(care) == [
        ("counter", "tasks", True),
        ("history", "task 1234", True),
        ("mark", f"task {task}", True),
        ("owner", "user ann", None),
        ("preset", f"preset {preset.id}", None),
    ]
    assert await found(care) == [("owner", "user ann"), ("preset", f"preset {preset.id}")]
    assert await care.tasks.next_id() == task + 1


async def grow_old(site: Gateway, care: Site, task: int, **fields: Any) -> None:
    """Let the run of a task have begun, and have been left alone, a while ago."""
    seen = await care.tasks.get(task)
    assert seen is not None
    assert seen.run is not None
    await change(site, "tasks", {"_id": task}, set={"run.at": seen.run.at - LATER, **fields})


async def test_a_run_whose_message_was_lost(site: Gateway, ann: Client, care: Site) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    await site.broker._queues["step.inspect.v1"].held[0].ack()
    assert await found(care) == []  # it may still come
    await grow_old(site, care, task)
    site.worker.hold = set()
    assert await mended(care) == [("run", f"task {task}", True)]
    assert (await ann.ended(task))["state"] == "inspect_done"
    assert await found(care) == []


async def test_a_run_whose_report_was_lost(site: Gateway, ann: Client, care: Site) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect", "photometry"]})
    site.worker.work(site.worker.seen[0])
    await grow_old(site, care, task)
    assert await mended(care) == [("run", f"task {task}", True)]
    assert (await ann.ended(task))["state"] == "photometry_done"


async def test_a_cancel_that_has_not_ended(site: Gateway, ann: Client, care: Site) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    await grow_old(site, care, task, **{"run.status": "cancelling"})
    assert await mended(care) == [("run", f"task {task}", True)]
    assert (await ann.ok("GET", f"/tasks/{task}/"))["state"] == "cancelled"
    assert await found(care) == []


async def test_a_change_of_an_image_that_has_not_ended(site: Gateway, ann: Client, care: Site) -> None:
    task = await ann.new_task()
    pending = {"kind": "upload", "seq": 2, "owner": "x", "source": "0" * 32, "at": now() - LATER}
    await change(site, "tasks", {"_id": task}, set={"pending": pending, "work": "p", "seq": 2})
    assert await mended(care) == [("image", f"task {task}", True)]
    assert await found(care) == []
    assert care.root.task(task).commits() == [Commit(1, IMAGE_RANK, "upload")]


async def test_without_a_broker_the_rest_is_checked(site: Gateway, ann: Client, care: Site) -> None:
    from services.gateway.domain.errors import Unavailable

    await ann.new_task()
    site.broker.away = True
    with pytest.raises(Unavailable, match="--no-queues"):
        await found(care)
    assert [one async for one in check(care, queues=False)] == []
