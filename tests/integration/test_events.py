"""Following a task: what is told, to whom, and how it ends."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from services.gateway import keys
from services.gateway.routes.events import MODELS
from shared.broker import progress_route
from shared.contracts.messages import StepMessage, StepProgress
from tests.support.events import Followed, follow
from tests.support.gateway import Client, Gateway, gateway, until

SITE = {"events_heartbeat_s": 0.2, "events_max_per_user": 3}

RUN = {"steps": ["inspect", "photometry"]}


async def _held(site: Gateway) -> StepMessage:
    async def last() -> StepMessage | None:
        return site.worker.seen[-1] if site.worker.seen else None

    return await until(last)


async def _progress(site: Gateway, message: StepMessage, fraction: float, *lines: str, logged: int = 0) -> None:
    progress = StepProgress(
        at=datetime.now(UTC),
        task_id=message.task_id,
        run_id=message.run_id,
        step_id=message.step_id,
        step=message.step,
        attempt=message.attempt,
        worker="fake",
        fraction=fraction,
        phase="detecting",
        log=lines,
        logged=logged,
    )
    await site.broker.tell(progress_route(progress), progress)


def _streams(site: Gateway) -> int:
    return len(site.app[keys.EVENTS]._all())


async def _nobody(site: Gateway) -> bool:
    return _streams(site) == 0


async def test_a_run_is_told_from_its_start_to_its_end(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    async with follow(ann, task) as stream:
        first = await stream.until("state")
        assert (first["id"], first["state"], first["run"], first["celery_id"]) == (task, "uploaded", None, None)
        started = await ann.ok("POST", f"/tasks/{task}/process/", json=RUN)
        running = await stream.until("state", state="running")
        assert (running["celery_id"], running["step"]) == (started["celery_id"], "inspect")
        message = await _held(site)
        await site.worker.report(site.worker.started(message))
        await stream.until("step", step="inspect", state="started")
        await _progress(site, message, 0.5, "12 stars", "FWHM 3.1 px")
        assert (await stream.until("progress", step="inspect", fraction=0.5))["phase"] == "detecting"
        assert (await stream.until("log", step="inspect"))["lines"] == ["12 stars", "FWHM 3.1 px"]
        await site.worker.report(await asyncio.to_thread(site.worker.work, message))
        done = await stream.until("state", state="photometry_done")
    assert [step["state"] for step in done["run"]["steps"]] == ["done", "done"]
    assert (done["celery_id"], done["step"]) == (None, None)
    assert done["completed"].endswith("Z")
    numbers = [number for _, _, number in stream.seen if number is not None]
    assert numbers == sorted(set(numbers))
    ended = [data["step"] for name, data, _ in stream.seen if name == "step" and data["state"] == "done"]
    assert ended == ["inspect", "photometry"]
    for name, data, _ in stream.seen:
        MODELS[name].model_validate(data)
    await until(lambda: _nobody(site))


async def test_a_client_that_comes_back_is_told_what_it_missed_and_nothing_twice(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    async with follow(ann, task) as stream:
        await stream.until("state")
    known = stream.seen[-1][2]
    await ann.ok("POST", f"/tasks/{task}/process/", json=RUN)
    await ann.ended(task)
    async with follow(ann, task, known) as stream:
        missed = await stream.until("state")
        assert missed["state"] == "photometry_done"
        assert [(name, data["state"]) for name, data, _ in stream.seen[:2]] == [("step", "done"), ("step", "done")]
        number = stream.seen[-1][2]
    assert number > known
    async with follow(ann, task, number) as stream:
        # nothing but comments until something changes
        await until(lambda: _is_true(stream.comments) if stream.comments else _turn(stream))
        await ann.ok("PATCH", f"/tasks/{task}/", json={"config": {"sn": 4}})
        await stream.until("state", state="photometry_done")
        assert [name for name, _, _ in stream.seen] == ["state"]


async def _is_true(value: object) -> bool:
    return bool(value)


async def _turn(stream: Followed) -> bool:
    """Read one line of a stream on which nothing happens."""
    line = (await stream.response.content.readline()).decode()
    assert not line.startswith(("event", "data", "id")), line
    if line.startswith(": "):
        stream.comments.append(line)
    return bool(stream.comments)


async def test_any_gateway_tells_what_another_has_done(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path) as one, gateway(mongo_url, tmp_path) as other, one.client("ann") as ann:
        task = await ann.new_task()
        elsewhere = Client(other.url, ann.session)
        async with follow(elsewhere, task) as stream:
            await stream.until("state", state="uploaded")
            await ann.ok("POST", f"/tasks/{task}/process/", json=RUN)
            done = await stream.until("state", state="photometry_done")
            assert [step["state"] for step in done["run"]["steps"]] == ["done", "done"]


async def test_a_failure_and_a_cancel_are_told(site: Gateway, ann: Client) -> None:
    site.worker.fail = {"inspect": "no image plane"}
    task = await ann.new_task()
    async with follow(ann, task) as stream:
        await ann.ok("POST", f"/tasks/{task}/process/", json=RUN)
        failed = await stream.until("state", state="inspect_failed")
        assert failed["error"] == "no image plane"
        site.worker.hold = {"inspect"}
        await ann.ok("POST", f"/tasks/{task}/process/", json=RUN)
        await stream.until("state", state="running")
        await ann.ok("POST", f"/tasks/{task}/cancel/")
        cancelled = await stream.until("state", state="cancelled")
        assert {step["state"] for step in cancelled["run"]["steps"]} == {"cancelled"}


async def test_who_may_not_see_the_task_any_more_is_told_no_more(site: Gateway, ann: Client) -> None:
    async with site.client("bob") as bob, site.client("eve", groups=["nova"]) as eve:
        await site.admin.set_user("ann", groups=["nova"])
        task = await ann.new_task()
        assert (await bob.call("GET", f"/tasks/{task}/events"))[0] == 403
        assert (await bob.call("GET", "/tasks/999/events"))[0] == 404
        # her user is read again once the gateway has forgotten that she was in no group
        site.app[keys.AUTH]._cache.clear()
        await ann.ok("PATCH", f"/tasks/{task}/", json={"groups": ["nova"]})
        async with follow(eve, task) as stream:
            await stream.until("state")
            await ann.ok("PATCH", f"/tasks/{task}/", json={"groups": []})
            assert await stream.rest() == ["end"]
            assert stream.seen[-1][1] == {"reason": "forbidden"}


async def test_a_revoked_token_ends_its_streams(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    async with follow(ann, task) as stream:
        await stream.until("state")
        await site.admin.revoke_tokens("ann")
        site.app[keys.AUTH]._cache.clear()  # what the gateway knows of tokens is at most 5 s old
        assert await stream.rest() == ["end"]
        assert stream.seen[-1][1] == {"reason": "forbidden"}


async def test_a_browser_that_logs_out_is_told_no_more(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    await site.admin.set_password("ann", "right")
    jar = aiohttp.CookieJar(unsafe=True)  # takes cookies of hosts without a name
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        browser = Client(site.url, session)
        answer = await browser.ok("POST", "/auth/login/", json={"username": "ann", "password": "right"})
        async with follow(browser, task) as stream:
            await stream.until("state")
            await browser.ok("POST", "/auth/logout/", headers={"X-CSRFToken": answer["csrftoken"]})
            assert await stream.rest() == ["end"]
            assert stream.seen[-1][1] == {"reason": "forbidden"}


@pytest.mark.parametrize("running", [True, False])
async def test_the_stream_of_a_deleted_task_ends_soon(site: Gateway, ann: Client, *, running: bool) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    if running:
        await ann.ok("POST", f"/tasks/{task}/process/", json=RUN)
    async with follow(ann, task) as stream:
        await stream.until("state", state="running" if running else "uploaded")
        await ann.ok("DELETE", f"/tasks/{task}/")
        deleted = time.monotonic()
        assert (await stream.rest())[-1] == "end"
        assert stream.seen[-1][1] == {"reason": "deleted"}
        assert time.monotonic() - deleted < 3
    assert (await ann.call("GET", f"/tasks/{task}/events"))[0] == 404


async def test_lines_that_the_queue_has_lost_are_a_gap(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json=RUN)
    message = await _held(site)
    async with follow(ann, task) as stream:
        await stream.until("state", state="running")
        await _progress(site, message, 0.1, "4", "5", logged=5)  # what was before is no loss of this client
        await _progress(site, message, 0.2, "6", logged=6)
        await _progress(site, message, 0.5, "10", logged=10)
        await _progress(site, message, 0.6, logged=10)
        await stream.until("progress", fraction=0.6)
    told = [(name, data.get("lines") or data.get("lost")) for name, data, _ in stream.seen if name in {"gap", "log"}]
    assert told == [("log", ["4", "5"]), ("log", ["6"]), ("gap", 3), ("log", ["10"])]


async def test_a_gateway_that_ends_lets_its_clients_go(mongo_url: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        running = gateway(mongo_url, tmp_path)
        site = await running.__aenter__()
        ann = await stack.enter_async_context(site.client("ann"))
        task = await ann.new_task()
        stream = await stack.enter_async_context(follow(ann, task))
        await stream.until("state")
        async with asyncio.timeout(5):
            await running.__aexit__(None, None, None)
        assert await stream.rest() == ["end"]
        assert stream.seen[-1][1] == {"reason": "shutdown"}


async def test_streams_are_limited_for_each_and_for_all(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(follow(ann, task))
        status, answer = await ann.call("GET", f"/tasks/{task}/events")
        assert (status, "3 tasks already" in answer["detail"]) == (429, True)
        async with site.client("root", is_staff=True) as root:
            async with follow(root, task) as other:
                await other.until("state")
            site.app[keys.EVENTS]._most = 3
            status, answer = await root.call("GET", f"/tasks/{task}/events")
            assert (status, "try again later" in answer["detail"]) == (503, True)
    await until(lambda: _nobody(site))  # clients that have gone do not count
    async with follow(ann, task) as stream:
        await stream.until("state")


async def test_a_slow_client_loses_progress_and_is_told_so_but_never_a_state(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json=RUN)
    message = await _held(site)
    async with follow(ann, task) as stream:
        await stream.until("state", state="running")
        (inner,) = site.app[keys.EVENTS]._all()
        for number in range(3000):  # nothing is read meanwhile, and sockets hold a few MB
            await _progress(site, message, number / 3000, "x" * 10_000)
            await asyncio.sleep(0)
            assert inner._size <= 65_536
        site.worker.hold = set()
        await site.worker.report(await asyncio.to_thread(site.worker.work, message))
        await ann.ended(task)
        await stream.until("state", state="photometry_done")
    lost = sum(data["lost"] for name, data, _ in stream.seen if name == "gap")
    heard = sum(name in {"progress", "log"} for name, _, _ in stream.seen)
    assert lost > 0
    assert lost + heard == 6000


async def test_head_is_answered_at_once(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    async with ann.session.head(f"{ann.url}/tasks/{task}/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
    assert _streams(site) == 0


async def test_following_writes_nothing(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    async with follow(ann, task) as stream:
        await stream.until("state")
        before = len(site.writes.writes)
        await until(lambda: _turn(stream))
        assert len(site.writes.writes) == before
