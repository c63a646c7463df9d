"""The queue: rows, details, terminate."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import MakeTask, create
from tests.support.conformance import LONG_CHAIN, a_run, check_error, check_ok, ended, state_of, wait_until

ROW = {
    "id", "name", "full_name", "state", "time_start", "task_id", "task_name", "chain_position", "chain_total",
    "chain_id",
}  # fmt: skip
DETAIL = {
    "id", "state", "ready", "successful", "failed", "task_id", "task_name", "chain_position", "chain_total"
}  # fmt: skip


def rows_of(api: httpx.Client, chain: str) -> list[dict[str, Any]]:
    return [row for row in check_ok(api.get("/queue/")) if row["chain_id"] == chain]


@pytest.fixture(scope="module")
def running(owner: httpx.Client, field_fits: bytes) -> Iterator[dict[str, Any]]:
    """A chain that is started again whenever it has come to its end."""
    task = create(owner, field_fits, name="busy.fits")
    yield task
    owner.delete(f"/tasks/{task['id']}/")


@pytest.fixture
def chain(owner: httpx.Client, running: dict[str, Any]) -> Iterator[str]:
    with a_run(owner, running["id"]) as started:
        yield started["celery_id"]


def test_rows_have_the_published_fields(owner: httpx.Client, chain: str) -> None:
    for row in rows_of(owner, chain):
        assert set(row) == ROW
        assert row["name"] == "task_inspect"
        assert row["full_name"] == "stdweb.celery_tasks.task_inspect"
        assert row["state"] in {"active", "pending", "scheduled"}


def test_positions_count_from_1_and_total_is_the_number_of_steps(owner: httpx.Client, chain: str) -> None:
    rows = rows_of(owner, chain)
    positions = [row["chain_position"] for row in rows]
    assert positions == list(range(positions[0], len(LONG_CHAIN) + 1))
    assert positions[0] >= 1
    assert {row["chain_total"] for row in rows} == {len(LONG_CHAIN)}
    assert len({row["id"] for row in rows}) == len(rows)


def test_only_the_first_is_active_or_pending_and_the_rest_is_scheduled(owner: httpx.Client, chain: str) -> None:
    rows = rows_of(owner, chain)
    assert rows[0]["state"] in {"active", "pending"}
    assert {row["state"] for row in rows[1:]} == {"scheduled"}
    assert {row["time_start"] for row in rows[1:]} == {None}


def test_time_start_is_epoch_seconds_of_an_active_step(
    owner: httpx.Client, make_task: MakeTask, large_fits: bytes
) -> None:
    task_id = make_task(large_fits)["id"]
    with a_run(owner, task_id) as started:

        def shown() -> dict[str, Any] | None:
            rows = rows_of(owner, started["celery_id"])
            return next((row for row in rows if row["time_start"] is not None), None)

        row = wait_until(shown, 30, "a step shows when it started")
    assert row["state"] == "active"
    assert abs(row["time_start"] - time.time()) < 120  # seconds; the clocks of two hosts may differ


def test_own_steps_show_their_task(owner: httpx.Client, chain: str, running: dict[str, Any]) -> None:
    for row in rows_of(owner, chain):
        assert (row["task_id"], row["task_name"]) == (running["id"], "busy.fits")


def test_other_peoples_steps_are_listed_with_null_task(stranger: httpx.Client, chain: str) -> None:
    rows = rows_of(stranger, chain)
    assert rows
    for row in rows:
        assert (row["task_id"], row["task_name"]) == (None, None)


def test_staff_sees_the_task(staff: httpx.Client, chain: str, running: dict[str, Any]) -> None:
    assert {row["task_id"] for row in rows_of(staff, chain)} == {running["id"]}


def test_detail_of_a_waiting_step(owner: httpx.Client, chain: str, running: dict[str, Any]) -> None:
    row = rows_of(owner, chain)[-1]
    detail = check_ok(owner.get(f"/queue/{row['id']}/"))
    assert detail == {
        "id": row["id"],
        "state": "PENDING",
        "ready": False,
        "successful": None,
        "failed": None,
        "task_id": running["id"],
        "task_name": "busy.fits",
        "chain_position": len(LONG_CHAIN),
        "chain_total": len(LONG_CHAIN),
    }


def test_detail_of_a_running_chain_by_its_celery_id(owner: httpx.Client, chain: str) -> None:
    def begun() -> dict[str, Any] | None:
        detail: dict[str, Any] = check_ok(owner.get(f"/queue/{chain}/"))
        return detail if detail["state"] != "PENDING" else None

    detail = wait_until(begun, 20, "the chain starts")
    assert set(detail) == DETAIL
    assert detail["state"] == "STARTED"
    assert (detail["ready"], detail["successful"], detail["failed"]) == (False, None, None)
    assert detail["chain_total"] == len(LONG_CHAIN)


def test_detail_for_others_hides_the_task(stranger: httpx.Client, chain: str) -> None:
    detail = check_ok(stranger.get(f"/queue/{chain}/"))
    assert (detail["task_id"], detail["task_name"]) == (None, None)


def test_a_started_step_is_followed_to_success(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    started = check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": ["cleanup", "inspect"]}))
    steps = [row["id"] for row in rows_of(owner, started["celery_id"])]
    assert ended(owner, task_id)["state"] == "inspect_done"
    for some_id in (started["celery_id"], *steps):
        detail = check_ok(owner.get(f"/queue/{some_id}/"))
        assert (detail["state"], detail["ready"]) == ("SUCCESS", True)
        assert (detail["successful"], detail["failed"]) == (True, False)
    assert rows_of(owner, started["celery_id"]) == []


def test_a_failed_chain_is_failure_and_what_did_not_run_is_revoked(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(b"this is not FITS")["id"]
    body = {"steps": ["inspect", "photometry", "photometry"]}
    chain = check_ok(owner.post(f"/tasks/{task_id}/process/", json=body))["celery_id"]
    assert ended(owner, task_id)["state"] == "inspect_failed"
    detail = check_ok(owner.get(f"/queue/{chain}/"))
    assert (detail["state"], detail["ready"], detail["successful"], detail["failed"]) == ("FAILURE", True, False, True)


def test_a_cancelled_chain_is_revoked(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    with a_run(owner, task_id) as started:
        last = rows_of(owner, started["celery_id"])[-1]["id"]
    for some_id in (started["celery_id"], last):
        detail = check_ok(owner.get(f"/queue/{some_id}/"))
        assert (detail["state"], detail["ready"], detail["successful"], detail["failed"]) == (
            "REVOKED", True, False, False
        )  # fmt: skip


@pytest.mark.parametrize("some_id", ["none", "0" * 32, "1-1", "a" * 500, "%00", "1e5", "-", "deadbeef-dead-beef"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_id_is_404(owner: httpx.Client, method: str, some_id: str) -> None:
    check_error(owner.request(method, f"/queue/{some_id}/{'terminate/' if method == 'POST' else ''}"), 404)


@pytest.mark.parametrize("by", ["chain", "step"])
def test_terminate_cancels_the_chain(owner: httpx.Client, make_task: MakeTask, field_fits: bytes, by: str) -> None:
    task_id = make_task(field_fits)["id"]
    chain = check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": LONG_CHAIN}))["celery_id"]
    some_id = chain if by == "chain" else rows_of(owner, chain)[-1]["id"]
    answer = check_ok(owner.post(f"/queue/{some_id}/terminate/"))
    assert set(answer) == {"id", "task_id", "revoked_count", "state"}
    assert (answer["id"], answer["task_id"], answer["state"]) == (some_id, task_id, "cancelled")
    assert 0 < answer["revoked_count"] <= len(LONG_CHAIN)
    assert state_of(owner, task_id) == "cancelled"
    assert rows_of(owner, chain) == []
    check_error(owner.post(f"/queue/{some_id}/terminate/"), 400)


def test_terminate_by_who_may_not_is_403(
    stranger: httpx.Client, viewer: httpx.Client, owner: httpx.Client, chain: str
) -> None:
    for api in (stranger, viewer):
        check_error(api.post(f"/queue/{chain}/terminate/"), 403)
    assert rows_of(owner, chain)


def test_terminate_by_staff(staff: httpx.Client, owner: httpx.Client, chain: str, running: dict[str, Any]) -> None:
    check_ok(staff.post(f"/queue/{chain}/terminate/"))
    assert state_of(owner, running["id"]) == "cancelled"


def test_what_a_service_works_on_is_active_and_what_waits_in_a_queue_is_pending(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    tasks = [make_task(field_fits)["id"] for _ in range(8)]
    chains = {
        check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": LONG_CHAIN}))["celery_id"] for task_id in tasks
    }

    def both() -> bool:
        rows = [row for row in check_ok(owner.get("/queue/")) if row["chain_id"] in chains]
        return {"active", "pending", "scheduled"} == {row["state"] for row in rows}

    wait_until(both, 30, "one is active and another is pending")
    for task_id in tasks:
        owner.post(f"/tasks/{task_id}/cancel/")


@pytest.mark.parametrize("role", ["member", "editor"])
def test_terminate_by_who_may_edit(
    request: pytest.FixtureRequest, owner: httpx.Client, make_task: MakeTask, field_fits: bytes, role: str
) -> None:
    api = request.getfixturevalue(role)
    task_id = make_task(field_fits, groups=request.getfixturevalue("site").group)["id"]
    with a_run(owner, task_id) as started:
        answer = check_ok(api.post(f"/queue/{started['celery_id']}/terminate/"))
        assert answer["task_id"] == task_id
    assert state_of(owner, task_id) == "cancelled"
