"""A run that was promised to the same request at another gateway is not undone by the one that has begun it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway import keys
from services.gateway.domain.errors import Conflict, Invalid, Unavailable
from services.gateway.domain.runs import Request, begin_cancel, begin_undo
from services.gateway.model import Task, now
from shared.broker import BrokerUnavailable
from shared.contracts import states
from shared.contracts.messages import StepDone
from shared.contracts.steps import STEPS
from shared.taskdir import Commit, Manifest
from tests.support.coordinator import Member, Post
from tests.support.gateway import Client, Gateway

ASKED = Request("ann", ["inspect"], key="k")


@dataclass
class Silent(Post):
    """A broker that confirms nothing, while something else happens."""

    meanwhile: Callable[[], Awaitable[object]] = field(default=lambda: asyncio.sleep(0))

    async def publish(self, _route: object, _message: object, **_: object) -> None:
        await self.meanwhile()
        raise BrokerUnavailable


@asynccontextmanager
async def two(mongo_url: str, folder: Path) -> AsyncIterator[tuple[Member, Member, Task]]:
    letters: list = []
    members = [Member(mongo_url, folder, letters, 2) for _ in range(2)]
    await members[0].store.prepare()
    at = now()
    task = Task(1, "x.fits", "", "ann", (), created=at, modified=at, state=states.UPLOADED)
    await members[0].tasks.insert(task)
    members[0].root.task(1).create()
    try:
        yield members[0], members[1], task
    finally:
        for member in members:
            member.store.close()


async def test_a_run_that_was_promised_meanwhile_goes_on(mongo_url: str, tmp_path: Path) -> None:
    async with two(mongo_url, tmp_path) as (first, second, task):
        promised: list[Task] = []

        async def ask_again() -> None:
            seen = await second.tasks.get(1)
            promised.append(await second.coordinator.process(seen, ASKED))

        first.coordinator.broker = Silent([], meanwhile=ask_again)
        answered = await first.coordinator.process(task, ASKED)
        kept = await second.tasks.get(1)
        assert {answered.run.id, promised[0].run.id} == {kept.run.id}
        assert (kept.state, kept.run.status) == (states.RUNNING, "running")
        assert not first.root.task(1).closed(kept.run.id)
        # what the broker has not confirmed is published when it is back
        first.coordinator.broker = first.post
        await first.reconciler.once()
        assert [letter.run_id for letter in first.post.letters] == [kept.run.id]


async def test_a_run_that_nobody_knows_of_is_undone_and_begins_anew(mongo_url: str, tmp_path: Path) -> None:
    async with two(mongo_url, tmp_path) as (first, second, task):
        begun: list[str] = []

        async def look() -> None:
            begun.append((await second.tasks.get(1)).run.id)

        first.coordinator.broker = Silent([], meanwhile=look)
        with pytest.raises(Unavailable):
            await first.coordinator.process(task, ASKED)
        undone = await second.tasks.get(1)
        assert (undone.state, undone.run) == (states.UPLOADED, None)
        assert first.root.task(1).closed(begun[0])
        again = await second.coordinator.process(undone, ASKED)
        assert again.run.id != begun[0]
        assert [letter.run_id for letter in second.post.letters] == [again.run.id]


async def test_a_start_whose_gateway_dies_in_undoing_it_is_undone_by_another(mongo_url: str, tmp_path: Path) -> None:
    async with two(mongo_url, tmp_path) as (first, second, task):
        asked = Request("ann", ["inspect"], {"gain": 2.0}, key="k")
        started = await first.coordinator.process(task, asked)
        old = replace(started, run=replace(started.run, at=now() - timedelta(hours=1)))
        await first.coordinator.revisions.swap(started, begin_undo(task, old))
        await second.reconciler.once()
        undone = await second.tasks.get(1)
        assert (undone.state, undone.run, undone.asked, undone.before) == (states.UPLOADED, None, {}, None)
        assert undone.seq == 1  # a number is never given twice
        assert second.root.task(1).closed(started.run.id)
        again = await second.coordinator.process(undone, asked)
        assert again.run.id != started.run.id


async def test_a_start_that_is_being_undone_is_not_cancelled_by_anybody(mongo_url: str, tmp_path: Path) -> None:
    async with two(mongo_url, tmp_path) as (first, second, task):
        before = replace(task, state=states.done("inspect"), error="as it was")
        before = await first.coordinator.revisions.swap(task, before)
        started = await first.coordinator.process(before, ASKED)
        await first.coordinator.revisions.swap(started, begin_undo(before, started))
        with pytest.raises(Invalid, match="has just ended"):
            await second.coordinator.cancel(1, started.run.id)
        undone = await second.tasks.get(1)
        assert (undone.state, undone.error, undone.run) == (states.done("inspect"), "as it was", None)


async def test_a_run_whose_step_was_committed_goes_on_though_nothing_was_confirmed(
    mongo_url: str, tmp_path: Path
) -> None:
    async with two(mongo_url, tmp_path) as (first, second, task):

        async def commit() -> None:
            run = (await second.tasks.get(1)).run
            source = tmp_path / "made"
            source.mkdir()
            manifest = Manifest(
                run_id=run.id, step_id=run.steps[0].id, step="inspect", attempt=1, owner="w", outcome="done", files=()
            )
            name = Commit(run.steps[0].seq, STEPS["inspect"].rank, "inspect")
            assert second.root.task(1).commit(source, name, manifest)

        first.coordinator.broker = Silent([], meanwhile=commit)
        answered = await first.coordinator.process(task, Request("ann", ["inspect", "photometry"], key="k"))
        kept = await second.tasks.get(1)
        assert kept.run.id == answered.run.id
        assert (kept.state, kept.run.status) == (states.RUNNING, "running")


async def test_while_it_is_being_undone_the_same_request_is_told_to_wait(mongo_url: str, tmp_path: Path) -> None:
    async with two(mongo_url, tmp_path) as (first, second, task):
        started = await first.coordinator.process(task, ASKED)
        await first.coordinator.revisions.change(1, started.run.id, lambda seen: begin_cancel(seen, started.run.id))
        with pytest.raises(Conflict, match="again in a moment"):
            await second.coordinator.process(await second.tasks.get(1), ASKED)


@pytest.mark.parametrize("another", [False, True], ids=["the last run", "another run has begun"])
async def test_a_report_that_comes_again_clears_what_a_death_has_left(
    site: Gateway, ann: Client, another: bool
) -> None:
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    run_id = (await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]}))["celery_id"]
    report = site.worker.work(site.worker.seen[0])
    assert isinstance(report, StepDone)
    coordinator = site.app[keys.COORDINATOR]
    await coordinator.done(report)
    assert (await ann.ended(task))["state"] == "inspect_done"
    if another:
        await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    scratch = site.data_dir / "tasks" / str(task) / ".work" / run_id
    scratch.mkdir(parents=True)  # as when the gateway dies between the store and the folder
    await coordinator.done(report)
    assert not scratch.exists()
