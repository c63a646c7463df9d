"""A run that reads other tasks: only those that whoever starts it may see."""

from typing import Any

import pytest

from tests.support.gateway import Client, Gateway

STEP = ["simple_transients"]


async def start(client: Client, task: int, others: object, steps: list[str] = STEP) -> tuple[int, Any]:
    body = {"steps": steps, "config": {"simple_others": others}}
    return await client.call("POST", f"/tasks/{task}/process/", json=body)


async def test_own_and_shared_tasks_may_be_read(site: Gateway, ann: Client) -> None:
    task, own = await ann.new_task(), await ann.new_task()
    async with site.client("ben", groups=["nova"]) as ben, site.client("cleo", groups=["nova"]) as cleo:
        shared = await ben.new_task(groups="nova")
        alone = await ben.new_task()
        cleos = await cleo.new_task()
        assert (await start(cleo, cleos, f"{shared}"))[0] == 200
        assert (await start(cleo, cleos, f"{shared},{alone}"))[0] in {400, 409}
        await cleo.ended(cleos)
        assert (await start(cleo, cleos, f"{shared},{alone}"))[0] == 400
    assert (await start(ann, task, own))[0] == 200
    assert (await ann.ended(task))["config"]["simple_others"] == own
    assert site.worker.seen[-1].config["simple_others"] == own


async def test_a_foreign_task_is_refused_as_one_that_there_is_not(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    async with site.client("ben") as ben:
        foreign = await ben.new_task()
    status, answer = await start(ann, task, foreign)
    missing_status, missing = await start(ann, task, foreign + 1000)
    assert (status, missing_status) == (400, 400)
    assert list(answer["errors"]) == ["simple_others"]
    assert answer["detail"] == missing["detail"].replace(str(foreign + 1000), str(foreign))
    assert not site.worker.seen
    after = await ann.ok("GET", f"/tasks/{task}/")
    assert (after["state"], after["config"]) == ("uploaded", {})


async def test_what_was_asked_before_is_checked_when_it_runs(site: Gateway, ann: Client) -> None:
    async with site.client("ben") as ben:
        foreign = await ben.new_task()
    task = await ann.new_task(config=f'{{"simple_others": "{foreign}"}}')
    assert (await ann.call("POST", f"/tasks/{task}/process/", json={"steps": STEP}))[0] == 400
    assert (await ann.call("POST", f"/tasks/{task}/process/", json={"steps": ["cleanup", *STEP]}))[0] == 400
    # other steps do not read it
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["cleanup"]})
    await ann.ended(task)


async def test_staff_may_read_what_they_may_see_and_the_owner_what_he_may(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    async with site.client("ben") as ben, site.client("root", is_staff=True) as staff:
        foreign = await ben.new_task()
        assert (await start(staff, task, foreign))[0] == 200
        await ann.ended(task)
    assert (await ann.call("POST", f"/tasks/{task}/process/", json={"steps": STEP}))[0] == 400


@pytest.mark.parametrize("bad", ["x", "1,,../2", "-3", [True], {"a": 1}])
async def test_what_is_no_task_is_a_bad_value(site: Gateway, ann: Client, bad: object) -> None:
    task = await ann.new_task()
    status, answer = await start(ann, task, bad)
    assert (status, list(answer["errors"])) == (400, ["simple_others"])
