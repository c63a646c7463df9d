"""What the reconciler mends: the death of a gateway or a worker at any moment."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway import keys
from services.gateway.domain import images, runs
from services.gateway.model import Pending, now
from shared.broker import progress_route
from shared.contracts.messages import StepProgress
from shared.taskdir import AttemptKey, Commit, Fenced, Manifest, claim
from tests.support.gateway import Client, Gateway, gateway, until
from tests.support.store import embedded_store, mongo_url

__all__ = ["embedded_store", "mongo_url"]


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(mongo_url, tmp_path, silent_after_s=0.5) as running:
        yield running


@pytest.fixture
async def ann(site: Gateway) -> AsyncIterator[Client]:
    async with site.client("ann") as client:
        yield client


async def test_a_run_whose_gateway_died_before_publishing_goes_on(site: Gateway, ann: Client) -> None:
    coordinator = site.app[keys.COORDINATOR]
    task = await coordinator.tasks.get(await ann.new_task())
    new = runs.start(task, ["inspect"], asked={}, user="ann", at=now(), admit=lambda _: True)
    await coordinator.tasks.swap(task, new)
    coordinator.signs.of(new.run.steps[0].id, 1).heard -= 60
    assert (await ann.ended(task.id))["state"] == "inspect_done"


async def test_a_commit_whose_report_was_lost_is_found(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    message = site.worker.seen[0]
    site.worker.work(message)
    site.app[keys.COORDINATOR].signs.of(message.step_id, 1).published -= 1000
    assert (await ann.ended(task))["state"] == "inspect_done"
    assert len(site.worker.seen) == 1


async def test_a_silent_attempt_is_fenced_and_tried_again(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    first = site.worker.seen[0]
    frozen = claim(site.worker.root.task(task), AttemptKey(first.run_id, first.step, 1))
    await site.worker.report(site.worker.started(first))

    async def tried_again() -> bool:
        return len(site.worker.seen) == 2

    await until(tried_again)
    second = site.worker.seen[1]
    assert (second.step_id, second.attempt, second.seq) == (first.step_id, 2, first.seq)
    manifest = Manifest(
        run_id=first.run_id, step_id=first.step_id, step="inspect", attempt=1, owner=frozen.owner, outcome="done"
    )
    with pytest.raises(Fenced):
        frozen.commit(Commit(first.seq, 2, "inspect"), manifest)
    await site.worker.report(site.worker.work(second))
    assert (await ann.ended(task))["state"] == "inspect_done"


async def test_signs_of_life_show_and_keep_an_attempt(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    message = site.worker.seen[0]
    ids = site.worker.started(message).model_dump(exclude={"kind", "version"})
    progress = StepProgress(**ids, fraction=0.5, phase="detecting sources")
    await site.broker.tell(progress_route(progress), progress)

    async def shown() -> bool:
        seen = await ann.ok("GET", f"/tasks/{task}/")
        return seen["progress"]["fraction"] == 0.5 and seen["step"] == "inspect"

    await until(shown)
    assert (await ann.ok("GET", "/queue/"))[0]["state"] == "active"


@pytest.mark.parametrize("committed", [True, False])
async def test_an_interrupted_image_change_is_ended(site: Gateway, ann: Client, committed: bool) -> None:
    coordinator = site.app[keys.COORDINATOR]
    task = await coordinator.tasks.get(await ann.new_task(b"old"))
    long_ago = now() - timedelta(seconds=120)
    pending = Pending(kind="upload", seq=2, owner="o", source="o", at=long_ago)
    if committed:
        upload = site.worker.root.incoming()
        upload.write_bytes(b"new")
        images.commit_upload(site.worker.root.task(task.id), site.worker.root.incoming("o"), upload, 2, "o")
    await coordinator.tasks.swap(task, replace(task, seq=2, pending=pending, computed={"inspect": {"gain": 1}}))

    async def over() -> bool:
        return (await coordinator.tasks.get(task.id)).pending is None

    await until(over)
    seen = await ann.ok("GET", f"/tasks/{task.id}/")
    assert seen["config"] == ({} if committed else {"gain": 1})
    assert await ann.ok("GET", f"/tasks/{task.id}/files/image.fits") == ("new" if committed else "old")
    site.worker.hold = set()
    await ann.ok("POST", f"/tasks/{task.id}/process/", json={"steps": ["inspect"]})
    assert (await ann.ended(task.id))["state"] == "inspect_done"


async def test_a_cancel_whose_gateway_died_is_finished(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    coordinator = site.app[keys.COORDINATOR]
    task_id = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"]})
    task = await coordinator.tasks.get(task_id)
    await coordinator.tasks.swap(task, runs.begin_cancel(task, task.run.id))
    assert (await ann.ended(task_id))["state"] == "cancelled"
    assert site.worker.root.task(task_id).read_marker() is None
