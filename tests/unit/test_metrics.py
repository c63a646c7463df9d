"""What processes show to Prometheus."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.gateway.domain.signs import Signs
from services.gateway.gauges import Backlog, show_volume
from services.gateway.model import Run, RunStep, Task
from shared import metrics
from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.metrics import REGISTRY

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


def task_at(number: int, status: StepStatus, waits_s: float, *, attempt: int = 1) -> Task:
    """Make a task whose `photometry` has had its turn for so long, after an `inspect` of an hour."""
    turn = NOW - timedelta(seconds=waits_s)
    begun = turn - timedelta(hours=1)
    steps = (
        RunStep(f"{number}-1", "inspect", 1, StepStatus.DONE, ended=turn),
        RunStep(f"{number}-2", "photometry", 2, status, attempt=attempt),
    )
    return Task(number, "", "", "ann", (), begun, begun, "running", run=Run(f"{number}", begun, "ann", steps))


def shown(name: str, step: str = "photometry") -> float | None:
    return REGISTRY.get_sample_value(name, {"step": step})


FIGURES = ("stdweb_steps_waiting", "stdweb_steps_queued", "stdweb_steps_working", "stdweb_step_demand")


def test_steps_that_wait_are_counted_by_where_and_the_oldest_has_its_age() -> None:
    signs = Signs()
    signs.hear("3-2", 1)  # a service works on it, which the store may not know
    signs.hear("4-2", 1)  # an earlier attempt, given up
    tasks = [
        task_at(1, StepStatus.WAITING, 500),
        task_at(2, StepStatus.READY, 40),
        task_at(3, StepStatus.READY, 900),
        task_at(4, StepStatus.READY, 30, attempt=2),
        task_at(5, StepStatus.STARTED, 800),
    ]
    backlog = Backlog(signs)
    backlog.show(tasks, NOW, held=True)
    assert [shown(name) for name in FIGURES] == [1, 2, 2, 5]
    assert shown("stdweb_step_oldest_wait_seconds") == pytest.approx(500)
    assert [shown(name, "inspect") for name in FIGURES] == [0, 0, 0, 0]
    assert shown("stdweb_step_oldest_wait_seconds", "inspect") == 0
    backlog.show(tasks[1:], NOW + timedelta(seconds=5), held=False)
    assert [shown(name) for name in FIGURES] == [1, 2, 2, 5]
    assert shown("stdweb_step_oldest_wait_seconds") == pytest.approx(505)
    backlog.show(tasks[1:], NOW, held=True)
    assert [shown(name) for name in FIGURES] == [0, 2, 2, 4]
    assert shown("stdweb_step_oldest_wait_seconds") == pytest.approx(40)


def test_a_run_that_is_being_cancelled_wants_no_worker() -> None:
    task = task_at(1, StepStatus.READY, 40)
    Backlog(Signs()).show([replace(task, run=replace(task.run, status="cancelling"))], NOW, held=True)
    assert shown("stdweb_step_demand") == 0


def test_what_is_not_known_is_not_shown() -> None:
    backlog = Backlog(Signs())
    backlog.show([], NOW, held=True)
    assert {shown(name, step) for name in FIGURES for step in STEPS} == {0}
    assert REGISTRY.get_sample_value("stdweb_store_up") == 1
    backlog.hide()
    assert {shown(name, step) for name in FIGURES for step in STEPS} == {None}
    assert REGISTRY.get_sample_value("stdweb_store_up") == 0


def test_room_on_the_volume_is_shown(tmp_path: Path) -> None:
    show_volume(tmp_path, 123)
    free, size, reserve = (
        REGISTRY.get_sample_value(f"stdweb_volume_{name}_bytes") for name in ("free", "size", "reserve")
    )
    assert 0 < free <= size
    assert reserve == 123


def test_a_step_s_process_tells_its_worker_of_an_archive_that_is_left_alone() -> None:
    gauge = metrics.ARCHIVE_PAUSED_UNTIL.labels("told")
    gauge.set(5.0)
    carrier = metrics.Carrier()
    assert carrier.news() == []
    gauge.set(1000.0)
    assert carrier.news() == [("paused_until", ["told"], 1000.0)]
    gauge.set(0)
    (told,) = carrier.news()
    gauge.set(77)
    metrics.add([told])
    assert REGISTRY.get_sample_value("stdweb_archive_paused_until_seconds", {"archive": "told"}) == 0


def test_counters_of_a_worker_begin_at_zero() -> None:
    metrics.begin(["begun"])
    for name, labels in (
        ("stdweb_step_attempts_total", {}),
        ("stdweb_child_deaths_total", {}),
        ("stdweb_steps_running", {}),
        ("stdweb_worker_slots", {}),
        ("stdweb_step_failures_total", {"code": "internal"}),
        ("stdweb_step_seconds_count", {"outcome": "done"}),
    ):
        assert REGISTRY.get_sample_value(name, {"step": "begun", **labels}) == 0
