"""Two gateways, workers, and a broker that loses, repeats and reorders: every run ends, and every step has one effect.

Hypothesis chooses what happens next: starts, cancels, deaths of gateways and workers, time that passes without a word.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from services.gateway.domain.errors import Conflict, Invalid, Unavailable
from services.gateway.domain.runs import Request
from services.gateway.model import Run, Task, now
from shared.contracts import states
from shared.contracts.messages import StepDone, StepFailed, StepMessage, StepStarted
from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.taskdir import Attempt, AttemptKey, Commit, Fenced, Manifest, TasksRoot, claim
from stdweb.stack.store import EmbeddedStore
from tests.support.coordinator import Died, Mail, Member, Report

CHAINS: Final = (["cleanup"], ["inspect", "photometry"], ["photometry"], ["inspect", "photometry", "simple_transients"])
TASKS: Final = 3
PLACES: Final = 2  # fewer than tasks, so that some must wait
ROUNDS: Final = 40


@dataclass
class Work:
    """A worker at an attempt."""

    message: StepMessage
    attempt: Attempt


class Campaign(RuleBasedStateMachine):
    """What can happen, in a database and a folder of its own."""

    def __init__(self, store: EmbeddedStore, folder: Path) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.url = replace(store, database=f"m{uuid.uuid4().hex[:12]}").url
        self.data = folder / uuid.uuid4().hex
        self.letters: list[StepMessage] = []
        self.at_work: list[Work] = []
        self.reports: list[Report] = []
        self.effects: dict[str, Manifest] = {}
        self.accepted: list[tuple[int, str]] = []
        self.dead: set[str] = set()

    def do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(what)

    @initialize()
    def start(self) -> None:
        self.do(self._start())

    async def _start(self) -> None:
        (self.data / "tasks").mkdir(parents=True)
        self.members = [self._member(), self._member()]
        await self.members[0].store.prepare()
        self.root: TasksRoot = self.members[0].root
        for number in range(1, TASKS + 1):
            at = now()
            await self.members[0].tasks.insert(
                Task(number, "x.fits", "", "ann", (), created=at, modified=at, state=states.UPLOADED, asked={})
            )
            self.root.task(number).create()

    def _member(self) -> Member:
        return Member(self.url, self.data, self.letters, PLACES)

    async def _survive(self, which: int, what: Coroutine[Any, Any, Any]) -> None:
        """Let a gateway do something; one that dies is replaced by one that knows nothing."""
        try:
            await what
        except Died:
            self.members[which].store.close()
            self.members[which] = self._member()

    # ---- clients

    @rule(which=st.integers(0, 1), task=st.integers(1, TASKS), steps=st.sampled_from(CHAINS), at_once=st.booleans())
    def process(self, which: int, task: int, steps: list[str], at_once: bool) -> None:
        """Start a run; a worker is often there at once."""
        waiting = len(self.letters)
        self.do(self._process(which, task, steps))
        if at_once and len(self.letters) > waiting:
            self._begin(self.letters.pop())

    async def _process(self, which: int, task_id: int, steps: list[str]) -> None:
        member = self.members[which]
        before = await member.tasks.get(task_id)
        assert before is not None

        async def begin() -> None:
            try:
                started = await member.coordinator.process(before, Request("ann", steps))
            except Conflict:
                assert before.running
            except Unavailable:
                after = await member.tasks.get(task_id)
                assert after is not None
                assert (after.state, after.run) == (before.state, before.run)
            else:
                assert started.run is not None
                self.accepted.append((task_id, started.run.id))

        await self._survive(which, begin())

    @precondition(lambda self: self.letters or self.at_work)
    @rule(which=st.integers(0, 1), data=st.data())
    def cancel(self, which: int, data: st.DataObject) -> None:
        messages = [*self.letters, *(work.message for work in self.at_work)]
        self.do(self._cancel(which, data.draw(st.sampled_from(messages)).task_id))

    async def _cancel(self, which: int, task_id: int) -> None:
        member = self.members[which]
        task = await member.tasks.get(task_id)
        if task is not None and task.run is not None and task.run.active:
            with contextlib.suppress(Invalid):
                await self._survive(which, member.coordinator.cancel(task_id, task.run.id))

    # ---- the broker

    @rule(which=st.integers(0, 1), fate=st.sampled_from(["before", "after", "unconfirmed"]))
    def next_publication_fails(self, which: int, fate: str) -> None:
        self.members[which].post.dies = fate

    @rule(which=st.integers(0, 1))
    def connection_changes(self, which: int) -> None:
        self.members[which].post.connected ^= True

    @precondition(lambda self: self.letters)
    @rule(data=st.data())
    def letter_is_lost(self, data: st.DataObject) -> None:
        self.letters.remove(data.draw(st.sampled_from(self.letters)))

    @precondition(lambda self: self.letters)
    @rule(data=st.data())
    def letter_is_doubled(self, data: st.DataObject) -> None:
        self.letters.append(data.draw(st.sampled_from(self.letters)))

    @precondition(lambda self: self.letters)
    @rule(data=st.data(), which=st.integers(0, 1))
    def letter_is_dead(self, data: st.DataObject, which: int) -> None:
        message = data.draw(st.sampled_from(self.letters))
        self.letters.remove(message)
        self.dead.add(message.step_id)
        self.do(self._survive(which, self.members[which].coordinator.dead(message, "its workers died")))

    # ---- workers

    @precondition(lambda self: self.letters)
    @rule(data=st.data(), again=st.booleans())
    def worker_begins(self, data: st.DataObject, again: bool) -> None:
        message = data.draw(st.sampled_from(self.letters))
        if not again:
            self.letters.remove(message)
        self._begin(message)

    def _begin(self, message: StepMessage) -> None:
        key = AttemptKey(message.run_id, message.step, message.attempt)
        with contextlib.suppress(Fenced):
            self.at_work.append(Work(message, claim(self.root.task(message.task_id), key)))
            self.reports.append(StepStarted(**_about(message)))

    @precondition(lambda self: self.at_work)
    @rule(data=st.data(), fails=st.booleans(), silent=st.booleans())
    def worker_ends(self, data: st.DataObject, fails: bool, silent: bool) -> None:
        work = data.draw(st.sampled_from(self.at_work))
        self.at_work.remove(work)
        report = self._end(work, fails=fails)
        if report is not None and not silent:
            self.reports.append(report)

    def _end(self, work: Work, *, fails: bool) -> Report | None:
        message, row = work.message, STEPS[work.message.step]
        computed = {} if fails else {"zp": work.attempt.owner}
        manifest = Manifest(
            run_id=message.run_id,
            step_id=message.step_id,
            step=message.step,
            attempt=message.attempt,
            owner=work.attempt.owner,
            outcome="failed" if fails else "done",
            error="bad" if fails else "",
            computed=computed,
        )
        try:
            work.attempt.commit(Commit(message.seq, row.rank, message.step), manifest)
        except Fenced:
            work.attempt.close()
            return None
        assert message.step_id not in self.effects, "a second effect"
        self.effects[message.step_id] = manifest
        if fails:
            return StepFailed(**_about(message), code="test", error="bad", files=())
        return StepDone(**_about(message), computed=computed, files=(), seconds=0.1)

    @precondition(lambda self: self.at_work)
    @rule(data=st.data(), redelivered=st.booleans())
    def worker_dies(self, data: st.DataObject, redelivered: bool) -> None:
        work = data.draw(st.sampled_from(self.at_work))
        self.at_work.remove(work)
        if redelivered:
            self.letters.append(work.message)

    # ---- reports and time

    @precondition(lambda self: self.reports)
    @rule(data=st.data(), which=st.integers(0, 1), again=st.booleans())
    def report_arrives(self, data: st.DataObject, which: int, again: bool) -> None:
        report = data.draw(st.sampled_from(self.reports))
        if not again:
            self.reports.remove(report)
        self.do(self._survive(which, self.members[which].listener._report(Mail(report))))  # type: ignore[arg-type]

    @rule(which=st.integers(0, 1), long=st.booleans())
    def reconciles(self, which: int, long: bool) -> None:
        self.do(self._reconcile(which, long=long))

    async def _reconcile(self, which: int, *, long: bool) -> None:
        member = self.members[which]
        if long:
            await member.grow_old()
        await self._survive(which, member.reconciler.once())

    # ---- in the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "members"):
                self.do(self._settle())
                self.do(self._judge())
        finally:
            for work in self.at_work:
                work.attempt.close()
            for member in getattr(self, "members", []):
                member.store.close()
            self.loop.close()

    async def _settle(self) -> None:
        """Everything works from here on: all that was begun must end."""
        for member in self.members:
            member.post.connected, member.post.dies = True, ""
        for number in range(ROUNDS):
            which = number % 2
            while self.letters:
                self._begin(self.letters.pop(0))
            while self.at_work:
                report = self._end(self.at_work.pop(0), fails=False)
                if report is not None:
                    self.reports.append(report)
            while self.reports:
                await self.members[which].listener._report(Mail(self.reports.pop(0)))  # type: ignore[arg-type]
            await self._reconcile(which, long=True)
            if not self.letters and not await self.members[which].tasks.active():
                return
        raise AssertionError(await self.members[0].tasks.active())

    async def _judge(self) -> None:
        tasks = self.members[0].tasks
        for task_id, run_id in self.accepted:
            found = await tasks.find_run(task_id, run_id)
            assert found is not None, "an accepted run is gone"
            self._check_run(found[1])
        for task_id in range(1, TASKS + 1):
            task = await tasks.get(task_id)
            assert task is not None
            assert states.RUNNING not in task.state
            if task.run is not None:
                self._check_run(task.run)
            for name, computed in task.computed.items():
                assert computed["zp"] in {e.owner for e in self.effects.values() if e.step == name}
            folder = self.root.task(task_id)
            for commit in folder.commits():
                manifest = folder.manifest(commit)
                assert manifest is not None
                assert self.effects[manifest.step_id].owner == manifest.owner
                assert (manifest.outcome != "done") or task.computed[commit.step] == manifest.computed

    def _check_run(self, run: Run) -> None:
        assert run.status in {"done", "failed", "cancelled"}
        for step in run.steps:
            effect = self.effects.get(step.id)
            match step.status:
                case StepStatus.DONE:
                    assert effect is not None
                    assert effect.outcome == "done"
                case StepStatus.FAILED:
                    assert step.id in self.dead if effect is None else effect.outcome == "failed"
                case StepStatus.CANCELLED:
                    assert effect is None
                case _:
                    raise AssertionError(step)


def _about(message: StepMessage) -> dict[str, Any]:
    return {
        "task_id": message.task_id,
        "run_id": message.run_id,
        "at": now(),
        "step_id": message.step_id,
        "step": message.step,
        "attempt": message.attempt,
        "worker": "model",
    }


@pytest.mark.timeout(900)  # a failure is made small before it is shown
def test_any_order_of_events_ends_every_run_once(embedded_store: EmbeddedStore, tmp_path: Path) -> None:
    def campaign() -> Campaign:
        return Campaign(embedded_store, tmp_path)

    run_state_machine_as_test(
        campaign,
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
