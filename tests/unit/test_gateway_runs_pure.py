"""Transitions of a run, without store and broker."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.gateway.domain import config, runs
from services.gateway.domain.access import may_delete, may_edit, may_view
from services.gateway.domain.errors import Invalid
from services.gateway.model import Task, User
from shared.contracts.states import StepStatus

AT = datetime(2026, 11, 1, tzinfo=UTC)


def task(**fields: object) -> Task:
    plain = Task(
        id=17, original_name="a", title="", user="ann", groups=("g",), created=AT, modified=AT, state="uploaded"
    )
    return replace(plain, **fields)


def started(*names: str) -> Task:
    return runs.start(task(seq=4), runs.Request("ann", names), run_id="r", asked={}, at=AT, admit=lambda _: True)


def test_numbers_of_commits_go_on() -> None:
    run = started("inspect", "photometry").run
    assert [step.seq for step in run.steps] == [5, 6]


def test_of_two_reports_the_second_changes_nothing() -> None:
    begun = started("inspect", "photometry")
    first = begun.run.steps[0].id
    done = runs.succeed(begun, first, {"gain": 1.0}, AT, lambda _: True)
    assert done.computed == {"inspect": {"gain": 1.0}}
    assert runs.succeed(done, first, {"gain": 2.0}, AT, lambda _: True) is None
    assert runs.begin(done, first, 1, AT) is None
    assert runs.fail(done, first, 1, "late", AT, committed=True) is None


def test_an_older_attempt_neither_starts_nor_fails_a_step() -> None:
    begun = started("inspect")
    step = begun.run.steps[0]
    again = runs.retry(begun, step.id, 1)
    assert again.run.steps[0].attempt == 2
    assert runs.retry(again, step.id, 1) is None
    assert runs.begin(again, step.id, 1, AT) is None
    assert runs.fail(again, step.id, 1, "old", AT, committed=False) is None


def test_a_held_back_step_waits_and_is_released_once() -> None:
    held = runs.start(task(), runs.Request("ann", ["inspect"]), run_id="r", asked={}, at=AT, admit=lambda _: False)
    step = held.run.steps[0]
    assert step.status is StepStatus.WAITING
    free = runs.release(held, step.id)
    assert free.run.steps[0].status is StepStatus.READY
    assert runs.release(free, step.id) is None


def test_a_closed_run_takes_no_reports_and_ends_cancelled() -> None:
    begun = started("inspect", "photometry")
    step = begun.run.steps[0]
    closed = runs.begin_cancel(begun, begun.run.id)
    assert runs.succeed(closed, step.id, {}, AT, lambda _: True) is None
    ended, revoked = runs.settle_cancel(closed, step, None, AT)
    assert (ended.state, revoked) == ("cancelled", 2)
    assert runs.begin_cancel(ended, ended.run.id) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": true}', {"a": True}),
        ("{'a': True, 'b': [1.5, None]}", {"a": True, "b": [1.5, None]}),
        (None, {}),
        ("", {}),
    ],
)
def test_configs_come_in_three_forms(value: object, expected: dict) -> None:
    assert config.parse(value) == expected


@pytest.mark.parametrize("value", ["1", "{'a': {1}}", "{'a': b'x'}", '{"a": NaN}', "{" * 500, {"": 1}, {"a\0": 1}, 5])
def test_other_configs_are_refused(value: object) -> None:
    with pytest.raises(Invalid, match="config"):
        config.parse(value)


def test_null_removes_a_key() -> None:
    assert config.merge({"a": 1, "b": 2}, {"a": None, "c": 3}) == {"b": 2, "c": 3}


def test_rights() -> None:
    shared = task()
    for user, rights in (
        (User("ann"), (True, True, True)),
        (User("x", is_staff=True), (True, True, True)),
        (User("x", groups=frozenset({"g"})), (True, True, False)),
        (User("x", grants=frozenset({"view_all_tasks"})), (True, False, False)),
        (User("x", grants=frozenset({"edit_all_tasks"})), (True, True, False)),
        (User("x"), (False, False, False)),
    ):
        assert (may_view(user, shared), may_edit(user, shared), may_delete(user, shared)) == rights, user
