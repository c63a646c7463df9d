"""What the reconciler mends: the death of a gateway or a worker at any moment."""

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway import keys
from services.gateway.domain import images, runs
from services.gateway.model import Pending, Task, now
from shared.broker import progress_route
from shared.contracts.messages import StepProgress
from shared.contracts.steps import STEPS
from shared.metrics import REGISTRY
from shared.taskdir import AttemptKey, Commit, Fenced, Manifest, claim
from tests.support.gateway import Client, Gateway, gateway, until

SITE = {"silent_after_s": 0.5}


async def test_a_run_whose_gateway_died_before_publishing_goes_on(site: Gateway, ann: Client) -> None:
    coordinator = site.app[keys.COORDINATOR]
    task = await coordinator.tasks.get(await ann.new_task())
    new = runs.start(task, runs.Request("ann", ["inspect"]), run_id="r1", asked={}, at=now(), admit=lambda _: True)
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


async def test_a_step_that_no_service_takes_waits_in_its_queue_once_and_a_lost_one_is_sent_again(
    site: Gateway, ann: Client
) -> None:
    queue = site.broker._queues["step.inspect.v1"]
    queue.subscriptions.clear()
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    (message,) = queue.waiting
    sign = site.app[keys.COORDINATOR].signs.of(message.message_id, 1)

    async def looked_at() -> bool:
        return time.monotonic() - sign.published < 10

    sign.published -= 1000
    await until(looked_at)
    assert list(queue.waiting) == [message]
    queue.waiting.clear()
    sign.published -= 1000
    await until(looked_at)
    assert [one.message_id for one in queue.waiting] == [message.message_id]


async def test_a_silent_attempt_is_fenced_and_tried_again(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    first = site.worker.seen[0]
    frozen = claim(site.worker.root.task(task), AttemptKey(first.run_id, first.step, 1))
    before = REGISTRY.get_sample_value("stdweb_step_retries_total", {"step": "inspect"})
    await site.worker.report(site.worker.started(first))

    async def tried_again() -> bool:
        return len(site.worker.seen) == 2

    await until(tried_again)
    second = site.worker.seen[1]
    assert (second.step_id, second.attempt, second.seq) == (first.step_id, 2, first.seq)
    assert REGISTRY.get_sample_value("stdweb_step_retries_total", {"step": "inspect"}) == before + 1
    manifest = Manifest(
        run_id=first.run_id, step_id=first.step_id, step="inspect", attempt=1, owner=frozen.owner, outcome="done"
    )
    with pytest.raises(Fenced):
        frozen.commit(Commit(first.seq, STEPS["inspect"].rank, "inspect"), manifest)
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
    if not committed:  # the gateway had only been frozen
        upload = site.worker.root.incoming()
        upload.write_bytes(b"late")
        with pytest.raises(FileExistsError):
            images.commit_upload(site.worker.root.task(task.id), site.worker.root.incoming("o"), upload, 2, "o")
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
    assert site.worker.root.task(task_id).closed(task.run.id)


async def test_a_cancel_that_comes_late_leaves_the_next_run_alone(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    coordinator = site.app[keys.COORDINATOR]
    task_id = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"]})
    task = await coordinator.tasks.get(task_id)
    closing = await coordinator.tasks.swap(task, runs.begin_cancel(task, task.run.id))
    assert await coordinator.cancelling.finish(closing) == 1
    await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"]})
    old, new = site.worker.seen
    folder = site.worker.root.task(task_id)
    attempt = claim(folder, AttemptKey(new.run_id, "inspect", 1))
    await coordinator.cancelling.finish(closing)  # by a gateway that stood still all the while
    assert attempt.held()
    assert site.worker.work(old) is None
    attempt.close()
    await site.worker.report(site.worker.work(new))
    assert (await ann.ended(task_id))["state"] == "inspect_done"


async def test_a_start_that_was_refused_takes_no_effect_even_if_its_message_arrived(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task_id = await ann.new_task(config='{"sn": 7}')
    site.broker.mute = True
    status, _ = await ann.call("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"], "config": {"sn": 9}})
    site.broker.mute = False
    assert status == 503
    assert site.worker.work(site.worker.seen[0]) is None
    seen = await ann.ok("GET", f"/tasks/{task_id}/")
    assert (seen["state"], seen["config"], seen["celery_id"]) == ("uploaded", {"sn": 7}, None)
    assert [entry["name"] for entry in await ann.ok("GET", f"/tasks/{task_id}/files/")] == ["image.fits"]
    await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"]})
    # the last one: the reconciler may have published the refused one, too
    await site.worker.report(site.worker.work(site.worker.seen[-1]))
    assert (await ann.ended(task_id))["state"] == "inspect_done"


def test_a_commit_that_came_before_its_run_was_closed_counts() -> None:
    at = now()
    plain = Task(1, "a", "", "ann", (), at, at, "uploaded", seq=1)
    for names, status, state in (
        (["inspect"], "done", "inspect_done"),
        (["inspect", "photometry"], "cancelled", "cancelled"),
    ):
        request = runs.Request("ann", names)
        started = runs.start(plain, request, run_id="r1", asked={}, at=at, admit=lambda _: True)
        step = started.run.steps[0]
        manifest = Manifest(
            run_id=started.run.id,
            step_id=step.id,
            step="inspect",
            attempt=1,
            owner="o",
            outcome="done",
            computed={"gain": 2},
        )
        ended = runs.end_closed(started, step, manifest, at)
        assert (ended.run.status, ended.state, ended.computed) == (status, state, {"inspect": {"gain": 2}})
        assert runs.end_closed(ended, step, manifest, at) is None


async def test_after_a_dead_letter_no_copy_of_it_takes_effect(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task_id = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect", "photometry"]})
    message = site.worker.seen[0]
    frozen = claim(site.worker.root.task(task_id), AttemptKey(message.run_id, "inspect", 1))
    await site.app[keys.COORDINATOR].dead(message, "refused")
    assert (await ann.ended(task_id))["state"] == "inspect_failed"
    assert not frozen.held()
    assert site.worker.work(message) is None


async def test_a_dead_letter_of_an_attempt_that_was_given_up_ends_nothing(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    coordinator = site.app[keys.COORDINATOR]
    task_id = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"]})
    task = await coordinator.tasks.get(task_id)
    await coordinator.retry(task, task.run.steps[0])

    async def tried_again() -> bool:
        return len(site.worker.seen) == 2

    await until(tried_again)
    first, second = site.worker.seen
    await coordinator.dead(first, "refused")
    await site.worker.report(site.worker.work(second))
    assert (await ann.ended(task_id))["state"] == "inspect_done"


async def test_a_run_that_a_dying_gateway_closed_ends(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    coordinator = site.app[keys.COORDINATOR]
    task_id = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"]})
    message = site.worker.seen[0]
    site.worker.root.task(task_id).close(message.run_id)
    coordinator.signs.of(message.step_id, 1).published -= 1000
    assert (await ann.ended(task_id))["state"] == "cancelled"


async def test_a_task_that_cannot_be_reconciled_does_not_hold_up_others(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    signs = site.app[keys.COORDINATOR].signs
    bad, good = await ann.new_task(), await ann.new_task()
    for task_id in (bad, good):
        await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"]})
    for message in site.worker.seen:
        site.worker.work(message)
        signs.of(message.step_id, 1).published -= 1000
    (manifest,) = site.worker.root.task(bad).path.glob(".results/*-inspect/.manifest.json")
    manifest.write_text("damaged")
    assert (await ann.ended(good))["state"] == "inspect_done"


async def test_a_gateway_that_stood_still_gives_up_nobody(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path, silent_after_s=0.5, heartbeat_s=0.1) as site, site.client("ann") as ann:
        site.worker.hold = {"inspect"}
        signs = site.app[keys.COORDINATOR].signs
        task_id = await ann.new_task()
        await ann.ok("POST", f"/tasks/{task_id}/process/", json={"steps": ["inspect"]})
        message = site.worker.seen[0]
        await site.worker.report(site.worker.started(message))

        async def working() -> bool:
            return signs.of(message.step_id, 1).working

        await until(working)
        time.sleep(0.8)  # noqa: ASYNC251 - the whole process stands still

        progress = StepProgress(**site.worker.started(message).model_dump(exclude={"kind", "version"}), fraction=0.5)
        await site.broker.tell(progress_route(progress), progress)  # as it waited to be read all the while

        async def looked() -> bool:
            return time.monotonic() - signs.peek(message.step_id).heard < 0.4

        await until(looked)
        assert signs.peek(message.step_id).attempt == 1
