"""Runs through the gateway: the real store, the broker in memory."""

import asyncio
from pathlib import Path

import pytest

from services.gateway import keys
from shared.contracts.messages import StepDone
from shared.metrics import REGISTRY
from tests.support.gateway import Client, Gateway, gateway, until

SITE = {"max_steps_per_user": 3}


async def start(client: Client, task: int, steps: list[str], **config: object) -> dict:
    return await client.ok("POST", f"/tasks/{task}/process/", json={"steps": steps, "config": config})


async def test_a_chain_runs_to_its_end(site: Gateway, ann: Client) -> None:
    site.worker.computed = {"inspect": {"gain": 1.5, "filter": "r"}, "photometry": {"zp": 27.1}}
    task = await ann.new_task(config="{'filter': 'R'}")
    answer = await start(ann, task, ["inspect", "photometry"])
    assert answer["state"] == "running"
    assert answer["steps"] == ["inspect", "photometry"]
    ended = await ann.ended(task)
    assert ended["state"] == "photometry_done"
    assert ended["config"] == {"gain": 1.5, "zp": 27.1, "filter": "R"}
    assert ended["celery_id"] is None
    assert ended["completed"].endswith("Z")
    sent = {message.step: message for message in site.worker.seen}
    assert sent["inspect"].config == {"filter": "R"}
    assert sent["photometry"].config == {"filter": "R", "gain": 1.5}
    assert (sent["photometry"].position, sent["photometry"].total) == (2, 2)
    names = {file["name"] for file in await ann.ok("GET", f"/tasks/{task}/files/")}
    assert {"image.fits", "inspect.log", "mask.fits", "photometry.log", "objects.parquet"} == names


async def test_state_is_running_all_the_way(site: Gateway, ann: Client) -> None:
    site.worker.slow_s = 0.05
    task = await ann.new_task()
    await start(ann, task, ["inspect", "photometry"])
    states = []

    async def ended() -> bool:
        states.append((await ann.ok("GET", f"/tasks/{task}/state/"))["state"])
        return states[-1] != "running"

    await until(ended)
    assert set(states[:-1]) == {"running"}
    assert states[-1] == "photometry_done"


async def test_a_failed_step_ends_the_chain_and_earlier_results_stay(site: Gateway, ann: Client) -> None:
    site.worker.computed = {"inspect": {"gain": 2.0}, "photometry": {"zp": 1.0}}
    task = await ann.new_task()
    await start(ann, task, ["inspect", "photometry"])
    await ann.ended(task)
    site.worker.fail = {"photometry": "No stars were found; try a lower sn."}
    await start(ann, task, ["photometry"])
    ended = await ann.ended(task)
    assert ended["state"] == "photometry_failed"
    assert ended["error"] == "No stars were found; try a lower sn."
    assert ended["config"] == {"gain": 2.0}


async def test_running_again_drops_what_later_steps_computed(site: Gateway, ann: Client) -> None:
    site.worker.computed = {"inspect": {"gain": 2.0}, "photometry": {"zp": 1.0}}
    task = await ann.new_task()
    await start(ann, task, ["inspect", "photometry"])
    await ann.ended(task)
    await start(ann, task, ["inspect"])
    assert (await ann.ended(task))["config"] == {"gain": 2.0}


async def test_of_two_simultaneous_starts_exactly_one_wins(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    body = {"steps": ["inspect"]}
    answers = await asyncio.gather(*(ann.call("POST", f"/tasks/{task}/process/", json=body) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200, *[409] * 7]

    async def published() -> bool:
        return len(site.worker.seen) == 1

    await until(published, timeout_s=2)  # soon, although losers have held places of fair share for a moment


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"steps": []}, "steps"),
        ({}, "steps"),
        ({"steps": ["inspect", "stir"]}, "stir"),
        ({"steps": "inspect"}, "steps"),
        ({"steps": ["inspect"], "config": {"sn": "many"}}, "sn"),
        ({"steps": ["inspect"], "config": {"a.b": 1}}, "keys"),
        ({"steps": ["inspect"], "config": {"$a": 1}}, "keys"),
        ({"steps": ["inspect"], "config": [1]}, "object"),
    ],
)
async def test_bad_requests_queue_nothing(site: Gateway, ann: Client, body: dict, word: str) -> None:
    task = await ann.new_task()
    status, answer = await ann.call("POST", f"/tasks/{task}/process/", json=body)
    assert status == 400
    assert word in answer["detail"]
    assert (await ann.ok("GET", f"/tasks/{task}/"))["state"] == "uploaded"
    assert not site.worker.seen


async def test_without_a_broker_nothing_is_half_queued(site: Gateway, ann: Client) -> None:
    task = await ann.new_task(config='{"sn": 7}')
    site.broker.away = True
    async with ann.session.post(f"{ann.url}/tasks/{task}/process/", json={"steps": ["inspect"]}) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    before = await ann.ok("GET", f"/tasks/{task}/")
    assert (before["state"], before["celery_id"], before["config"]) == ("uploaded", None, {"sn": 7})
    site.broker.away = False
    await start(ann, task, ["inspect"])
    assert (await ann.ended(task))["state"] == "inspect_done"
    assert len(site.worker.seen) == 1


async def test_a_step_that_could_not_be_published_goes_out_later(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await start(ann, task, ["inspect", "photometry"])
    message = site.worker.seen[0]
    report = site.worker.work(message)
    assert isinstance(report, StepDone)
    site.broker.away = True
    await site.app[keys.COORDINATOR].done(report)
    site.broker.away = False
    assert (await ann.ended(task))["state"] == "photometry_done"


async def test_replayed_duplicated_and_late_reports_change_nothing(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect", "photometry"}
    coordinator = site.app[keys.COORDINATOR]
    task = await ann.new_task()
    await start(ann, task, ["inspect", "photometry"])
    first = site.worker.seen[0]
    done = site.worker.work(first)
    assert isinstance(done, StepDone)
    await asyncio.gather(*(coordinator.done(done) for _ in range(5)))
    await coordinator.started(site.worker.started(first))
    seen = await coordinator.tasks.get(task)
    assert [step.status for step in seen.run.steps] == ["done", "ready"]
    assert [message.step for message in site.worker.seen] == ["inspect", "photometry"]
    second = site.worker.seen[1]
    done2 = site.worker.work(second)
    assert isinstance(done2, StepDone)
    await coordinator.done(done2.model_copy(update={"run_id": "another"}))
    assert (await coordinator.tasks.get(task)).rev == seen.rev
    await coordinator.done(done2)
    ended = await coordinator.tasks.get(task)
    for report in (done, done2, done2):
        await coordinator.done(report)
    await coordinator.started(site.worker.started(second))
    assert await coordinator.tasks.get(task) == ended
    assert ended.state == "photometry_done"


async def test_cancel_and_start_again_at_once(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await start(ann, task, ["inspect", "photometry"])
    late = site.worker.seen[0]
    answer = await ann.ok("POST", f"/tasks/{task}/cancel/")
    assert answer == {"id": task, "state": "cancelled", "revoked_count": 2}
    assert site.cancels() == 1
    assert site.worker.work(late) is None  # the run is closed
    assert (await ann.call("POST", f"/tasks/{task}/cancel/"))[0] == 400
    site.worker.hold = set()
    await start(ann, task, ["inspect"])
    assert (await ann.ended(task))["state"] == "inspect_done"


async def test_a_commit_before_the_fence_counts(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await start(ann, task, ["inspect"])
    site.worker.work(site.worker.seen[0])  # and its report is lost
    status, answer = await ann.call("POST", f"/tasks/{task}/cancel/")
    assert status == 400, answer
    assert (await ann.ok("GET", f"/tasks/{task}/state/"))["state"] == "inspect_done"


async def test_deleting_a_running_task_drops_late_reports(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await start(ann, task, ["inspect"])
    await ann.ok("DELETE", f"/tasks/{task}/")
    assert (await ann.call("GET", f"/tasks/{task}/"))[0] == 404
    assert not (site.data_dir / "tasks" / str(task)).exists()
    message = site.worker.seen[0]
    await site.app[keys.COORDINATOR].started(site.worker.started(message))
    assert await site.app[keys.COORDINATOR].tasks.get(task) is None


async def test_a_dead_letter_ends_its_run_and_is_kept(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await start(ann, task, ["inspect"])
    held = site.broker._queues["step.inspect.v1"].held[0]
    before = REGISTRY.get_sample_value("stdweb_dead_letters_total", {"step": "inspect"})
    await held.reject()
    ended = await ann.ended(task)
    assert ended["state"] == "inspect_failed"
    assert "could not be worked on" in ended["error"]

    async def parked() -> bool:
        return (await site.broker.depth("parking.v2")).messages == 1

    await until(parked)
    assert REGISTRY.get_sample_value("stdweb_dead_letters_total", {"step": "inspect"}) == before + 1


async def test_fair_share_holds_back_and_releases(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    tasks = [await ann.new_task() for _ in range(5)]
    for task in tasks:
        await start(ann, task, ["inspect"])
    assert [message.task_id for message in site.worker.seen] == tasks[:3]
    assert {row["state"] for row in await ann.ok("GET", "/queue/")} == {"pending"}
    async with site.client("bob") as bob:
        other = await bob.new_task()
        await start(bob, other, ["inspect"])
        assert site.worker.seen[-1].task_id == other
    report = site.worker.work(site.worker.seen[0])
    await site.worker.report(report)

    async def released(task: int) -> bool:
        return site.worker.seen[-1].task_id == task

    await until(lambda: released(tasks[3]))
    await ann.ok("POST", f"/tasks/{tasks[1]}/cancel/")
    await until(lambda: released(tasks[4]))


async def test_waiting_steps_that_were_cancelled_take_no_place(mongo_url: str, tmp_path: Path) -> None:
    """The reconciler, which would find out in the end, does not come by."""
    async with gateway(mongo_url, tmp_path, reconcile_every_s=60, **SITE) as site, site.client("ann") as ann:
        site.worker.hold = {"inspect"}
        tasks = [await ann.new_task() for _ in range(6)]
        for task in tasks:
            await start(ann, task, ["inspect"])
        for task in tasks[3:5]:
            await ann.ok("POST", f"/tasks/{task}/cancel/")
        await site.worker.report(site.worker.work(site.worker.seen[0]))

        async def last_released() -> bool:
            return site.worker.seen[-1].task_id == tasks[5]

        await until(last_released)


@pytest.mark.parametrize("slow_s", [0, 0.5])
async def test_store_writes_per_run(site: Gateway, ann: Client, slow_s: float) -> None:
    site.worker.slow_s = slow_s
    steps = ["cleanup", "inspect", "photometry"]
    task = await ann.new_task()
    await start(ann, task, steps)
    await ann.ended(task)
    site.writes.writes.clear()
    await start(ann, task, steps)
    await ann.ended(task)
    assert len(site.writes.writes) == (5 if slow_s == 0 else 8), site.writes.writes
    assert len(site.writes.writes) <= 2 * len(steps) + 3


async def test_store_writes_of_a_run_that_waits_at_every_step(site: Gateway, ann: Client) -> None:
    steps = ["inspect", "photometry"]
    site.worker.slow_s = 0.4
    tasks = [await ann.new_task() for _ in range(6)]
    site.writes.writes.clear()
    await asyncio.gather(*(start(ann, task, steps) for task in tasks))
    for task in tasks:
        await ann.ended(task)
    assert len(site.writes.writes) <= len(tasks) * (2 * len(steps) + 3), site.writes.writes


async def test_queue_lists_and_finds(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    chain = (await start(ann, task, ["inspect", "photometry"]))["celery_id"]
    first, second = await ann.ok("GET", "/queue/")
    assert first == {
        "id": first["id"],
        "name": "task_inspect",
        "full_name": "stdweb.celery_tasks.task_inspect",
        "state": "pending",
        "time_start": None,
        "task_id": task,
        "task_name": "observation.fits",
        "chain_position": 1,
        "chain_total": 2,
        "chain_id": chain,
    }
    assert (second["name"], second["state"]) == ("task_photometry", "scheduled")
    detail = await ann.ok("GET", f"/queue/{first['id']}/")
    assert (detail["state"], detail["ready"], detail["successful"]) == ("PENDING", False, None)
    await site.worker.report(site.worker.started(site.worker.seen[0]))

    async def active() -> bool:
        return (await ann.ok("GET", "/queue/"))[0]["state"] == "active"

    await until(active)
    assert (await ann.ok("GET", f"/queue/{chain}/"))["state"] == "STARTED"
    async with site.client("eve") as eve:
        hidden = (await eve.ok("GET", "/queue/"))[0]
        assert (hidden["task_id"], hidden["task_name"]) == (None, None)
        assert (await eve.call("POST", f"/queue/{chain}/terminate/"))[0] == 403
    answer = await ann.ok("POST", f"/queue/{second['id']}/terminate/")
    assert answer == {"id": second["id"], "task_id": task, "revoked_count": 2, "state": "cancelled"}
    assert (await ann.ok("GET", f"/queue/{first['id']}/"))["state"] == "REVOKED"
    assert (await ann.call("GET", "/queue/nothing/"))[0] == 404
    assert await ann.ok("GET", "/queue/") == []
