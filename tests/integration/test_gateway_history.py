"""Runs of a task: their history, and requests that are sent again."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import aiohttp
import pytest
from pymongo import MongoClient, monitoring

from services.gateway.storage import Store, Tasks
from shared.contracts.results import (
    SUB_TARGETS_FILE,
    TARGETS_FILE,
    Measurement,
    Measurements,
    SubtractionMeasurements,
)
from tests.support.gateway import Client, Gateway


async def _process(client: Client, task: int, key: str | None, steps: list[str]) -> tuple[int, dict]:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.call("POST", f"/tasks/{task}/process/", json={"steps": steps}, headers=headers)


async def test_the_history_tells_who_when_and_what_came_of_it(site: Gateway, ann: Client) -> None:
    site.worker.fail = {"photometry": "no stars"}
    site.worker.repeats = {"inspect": 1, "photometry": 2}
    task = await ann.new_task(config='{"sn": 4}')
    assert await ann.ok("GET", f"/tasks/{task}/runs/") == []
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    await ann.ended(task)
    body = {"steps": ["inspect", "photometry"], "config": {"sn": 5}}
    await ann.ok("POST", f"/tasks/{task}/process/", json=body)
    await ann.ended(task)
    last, first = await ann.ok("GET", f"/tasks/{task}/runs/")
    assert (last["state"], last["error"], last["user"], last["config"]) == ("failed", "no stars", "ann", {"sn": 5})
    assert (first["state"], first["error"], first["config"]) == ("done", None, {"sn": 4})
    assert [(step["name"], step["state"], step["attempts"]) for step in last["steps"]] == [
        ("inspect", "done", 2),
        ("photometry", "failed", 3),
    ]
    assert first["version"]
    step = first["steps"][0]
    assert step["seconds"] == pytest.approx(0.1, abs=0.002)  # as its service reported
    assert step["started"] < step["ended"] <= first["ended"]
    assert await ann.ok("GET", f"/tasks/{task}/runs/?limit=1") == [last]
    status, answer = await ann.call("GET", f"/tasks/{task}/runs/?limit=0")
    assert (status, list(answer["errors"])) == (400, ["limit"])


async def test_a_history_of_large_configs_stays_small(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["cleanup"]})
    await ann.ended(task)
    tasks = Tasks(site.store)
    last = (await tasks.get(task)).run
    for number in range(1, 40):
        at = last.at - timedelta(seconds=number)
        await tasks.keep_run(
            task, replace(last, id=f"{number:032x}", at=at, asked={"number": number, "x": "x" * 200_000})
        )
    rows = await ann.ok("GET", f"/tasks/{task}/runs/")
    assert [row["id"] for row in rows[1:]] == [f"{number:032x}" for number in range(1, 40)]
    given = [row["config"]["number"] for row in rows[1:] if row["config"] is not None]
    assert given == list(range(1, 21))
    assert all(row["config"] is None for row in rows[21:])


class Asked(monitoring.CommandListener):
    """Keeps what is asked of the runs."""

    def __init__(self) -> None:
        self.finds: list[dict] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command.get("find") == "runs":
            self.finds.append({key: event.command[key] for key in ("find", "filter")})

    def succeeded(self, event: object) -> None:
        pass

    failed = succeeded


@pytest.mark.parametrize("key", ["key-77", "another"])
async def test_a_key_is_looked_up_without_reading_the_history(
    site: Gateway, ann: Client, mongo_url: str, key: str
) -> None:
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["cleanup"]})
    run = (await ann.ended(task)) and (await Tasks(site.store).get(task)).run
    for number in range(100):
        await Tasks(site.store).keep_run(task, replace(run, id=f"{number:032x}", key=f"key-{number}"))
    await Tasks(site.store).keep_run(task, replace(run, id=f"{100:032x}"))
    asked = Asked()
    store = Store(mongo_url, (asked,))
    found = await Tasks(store).run_of_key(task, key)
    assert (found and found.id) == (f"{77:032x}" if key == "key-77" else None)
    assert await Tasks(store).run_of_key(task + 1, key) is None  # keys of other tasks are no matter
    store.close()
    with MongoClient(mongo_url) as client:
        plans = [
            client.get_default_database().command("explain", one, verbosity="executionStats") for one in asked.finds
        ]
    assert sum(plan["executionStats"]["totalDocsExamined"] for plan in plans) <= 3


async def test_a_request_that_is_sent_again_starts_one_run(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    answers = await asyncio.gather(*(_process(ann, task, "key-1", ["inspect"]) for _ in range(8)))
    assert {status for status, _ in answers} == {200}
    assert len({answer["celery_id"] for _, answer in answers}) == 1
    assert (await _process(ann, task, None, ["inspect"]))[0] == 409
    assert (await _process(ann, task, "key-2", ["inspect"]))[0] == 409
    await site.worker.report(site.worker.work(site.worker.seen[0]))
    await ann.ended(task)
    site.worker.hold = set()
    # after its end, and after another run, it is still the same
    again = await _process(ann, task, "key-1", ["inspect"])
    await _process(ann, task, "key-3", ["inspect"])
    await ann.ended(task)
    assert again == answers[0] == await _process(ann, task, "key-1", ["inspect"])
    assert len(await ann.ok("GET", f"/tasks/{task}/runs/")) == 2
    status, answer = await _process(ann, task, "key-1", ["photometry"])
    assert (status, "Idempotency-Key" in answer["detail"]) == (409, True)
    body = {"steps": ["inspect"], "config": {"sn": "no number"}}
    headers = {"Idempotency-Key": "key-1"}
    assert (await ann.call("POST", f"/tasks/{task}/process/", json=body, headers=headers))[0] == 409


async def _create(client: Client, key: str, name: str, content: bytes = b"SIMPLE") -> tuple[int, dict]:
    form = aiohttp.FormData()
    form.add_field("file", content, filename=name)
    return await client.call("POST", "/tasks/", data=form, headers={"Idempotency-Key": key})


async def test_an_upload_that_is_sent_again_makes_one_task(site: Gateway, ann: Client) -> None:
    answers = await asyncio.gather(*(_create(ann, "key-1", "a.fits") for _ in range(5)))
    made = [answer for status, answer in answers if status == 201]
    assert [status for status, _ in answers] == [201] * 5
    assert {answer["id"] for answer in made} == {made[0]["id"]}
    assert await _create(ann, "key-1", "a.fits") == (201, made[0])
    assert len(await ann.ok("GET", "/tasks/")) == 1
    assert (await _create(ann, "key-1", "b.fits"))[0] == 409
    assert (await _create(ann, "key-1", "a.fits", b"much longer"))[0] == 409
    headers = {"Idempotency-Key": "key-2"}
    doubles = [await ann.call("POST", f"/tasks/{made[0]['id']}/duplicate/", headers=headers) for _ in range(2)]
    assert doubles[0] == doubles[1]
    assert doubles[0][0] == 201
    # what was refused may be sent again
    bad = [await ann.call("POST", "/tasks/", json={"title": "x"}, headers={"Idempotency-Key": "k3"}) for _ in range(2)]
    assert [status for status, _ in bad] == [400, 400]
    await ann.ok("DELETE", f"/tasks/{made[0]['id']}/")
    assert (await _create(ann, "key-1", "a.fits"))[0] == 409
    assert len(await ann.ok("GET", "/tasks/")) == 1


async def test_a_death_between_task_and_note_leaves_one_task(site: Gateway, ann: Client) -> None:
    _, made = await _create(ann, "key", "a.fits")
    claims, tasks = site.store.collection("claims"), site.store.collection("tasks")
    assert (await claims.update_many({}, {"$set": {"made": False}})).matched_count == 1
    assert await _create(ann, "key", "a.fits") == (201, made)
    # died with the folder in its place, and before the store knew of the task
    await claims.update_many({}, {"$set": {"made": False}})
    await tasks.delete_many({})
    status, again = await _create(ann, "key", "a.fits")
    assert (status, again["id"]) == (201, made["id"])
    # died while it wrote the files
    await claims.update_many({}, {"$set": {"made": False}})
    await tasks.delete_many({})
    (site.data_dir / "tasks" / str(made["id"])).rename(site.data_dir / "tasks" / ".trash" / "half")
    assert (await _create(ann, "key", "a.fits"))[1]["id"] == made["id"]
    assert [task["id"] for task in await ann.ok("GET", "/tasks/")] == [made["id"]]
    assert [file["name"] for file in await ann.ok("GET", f"/tasks/{made['id']}/files/")] == ["image.fits"]
    await ann.ok("DELETE", f"/tasks/{made['id']}/")
    assert (await _create(ann, "key", "a.fits"))[0] == 409


async def test_keys_belong_to_users_and_have_a_form(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    first = await _process(ann, task, "key", ["inspect"])
    await ann.ended(task)
    async with site.client("root", is_staff=True) as staff:
        other = await _process(staff, task, "key", ["inspect"])
    assert (first[0], other[0]) == (200, 200)
    assert first[1]["celery_id"] != other[1]["celery_id"]
    for bad in ("", "x" * 256):
        status, answer = await _process(ann, task, bad, ["inspect"])
        assert (status, list(answer["errors"])) == (400, ["Idempotency-Key"])


async def test_results_are_what_photometry_wrote(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    assert await ann.ok("GET", f"/tasks/{task}/results/") == {
        "id": task,
        "state": "uploaded",
        "targets": None,
        "candidates": None,
        "sub_targets": None,
        "sub_candidates": None,
    }
    row = Measurement(
        name="SN",
        ra=10.0,
        dec=-5.0,
        x=3.0,
        y=4.0,
        flux=None,
        fluxerr=None,
        mag_calib=None,
        mag_calib_err=None,
        mag_limit=20.5,
        detected=False,
        flags=0,
    )
    measured = Measurements(
        filter="R",
        mag_system="Vega",
        time=None,
        sn=5,
        catalog="gaiadr3syn",
        color="B - V",
        color_term=0.1,
        targets=(row,),
    )
    folder = site.worker.root.task(task)
    source = folder.root.incoming()
    source.write_text(measured.model_dump_json())
    folder.put(TARGETS_FILE, source)
    assert (await ann.ok("GET", f"/tasks/{task}/results/"))["targets"] == measured.model_dump(mode="json")
    again = SubtractionMeasurements(**dict(measured), method="zogy", template="ps1", template_filter="r")
    source.write_text(again.model_dump_json())
    folder.put(SUB_TARGETS_FILE, source)
    assert (await ann.ok("GET", f"/tasks/{task}/results/"))["sub_targets"] == again.model_dump(mode="json")
    source.write_text("{}")
    folder.put(TARGETS_FILE, source)
    assert (await ann.ok("GET", f"/tasks/{task}/results/"))["targets"] is None
