"""Runs, results, Idempotency-Key, version, schema and documentation."""

import json
import threading
import uuid
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from tests.conformance.conftest import MakeTask
from tests.support.conformance import (
    TIMESTAMP,
    Site,
    a_run,
    check_error,
    check_ok,
    ended,
)

RUN = {"id", "state", "user", "created", "ended", "version", "error", "config", "steps"}
STEP = {"id", "name", "state", "started", "ended", "seconds", "attempts"}


def runs_of(api: httpx.Client, task_id: int, **query: Any) -> list[dict[str, Any]]:
    return list(check_ok(api.get(f"/tasks/{task_id}/runs/", params=query)))


def start(api: httpx.Client, task_id: int, *steps: str, key: str | None = None, **more: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return api.post(f"/tasks/{task_id}/process/", json={"steps": list(steps), **more}, headers=headers)


def test_a_task_that_never_ran_has_no_runs(owner: httpx.Client, kept: dict[str, Any]) -> None:
    assert runs_of(owner, kept["id"]) == []


def test_runs_tell_who_when_version_config_durations_attempts(
    owner: httpx.Client, processed: dict[str, Any], site: Site
) -> None:
    (run,) = runs_of(owner, processed["id"])
    assert set(run) >= RUN
    assert run["state"] == "done"
    assert run["user"] == site.credentials("owner")[0]
    assert TIMESTAMP.fullmatch(run["created"])
    assert TIMESTAMP.fullmatch(run["ended"])
    assert run["created"] <= run["ended"]
    assert run["version"] == check_ok(owner.get("/version/"))["version"]
    assert run["error"] is None
    assert run["config"] == {**site.config, "target": "x=200 y=210", "sn": 6}
    assert [step["name"] for step in run["steps"]] == ["inspect", "photometry"]
    for step in run["steps"]:
        assert set(step) >= STEP
        assert step["state"] == "done"
        assert step["attempts"] == 1
        assert step["ended"]


def test_runs_are_newest_first_and_limited(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    chains = []
    for _ in range(3):
        chains.append(check_ok(start(owner, task_id, "cleanup"))["celery_id"])
        ended(owner, task_id)
    assert [run["id"] for run in runs_of(owner, task_id)] == chains[::-1]
    assert [run["id"] for run in runs_of(owner, task_id, limit=2)] == chains[:0:-1]


@pytest.mark.parametrize("limit", ["0", "-1", "x", "100000"])
def test_a_bad_limit_is_400_that_names_it(owner: httpx.Client, kept: dict[str, Any], limit: str) -> None:
    check_error(owner.get(f"/tasks/{kept['id']}/runs/", params={"limit": limit}), 400, "limit")


def test_a_failed_run_tells_its_error(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(b"this is not FITS")["id"]
    check_ok(start(owner, task_id, "inspect", "photometry"))
    task = ended(owner, task_id)
    (run,) = runs_of(owner, task_id)
    assert (run["state"], run["error"]) == ("failed", task["error"])
    assert run["steps"][0]["state"] == "failed"
    assert run["steps"][1]["started"] is None


def test_running_and_cancelled_runs(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    with a_run(owner, task_id) as started:
        (run,) = runs_of(owner, task_id)
        assert (run["id"], run["state"], run["ended"]) == (started["celery_id"], "running", None)
    assert runs_of(owner, task_id)[0]["state"] == "cancelled"


def test_results_of_targets_as_json(owner: httpx.Client, processed: dict[str, Any]) -> None:
    answer = check_ok(owner.get(f"/tasks/{processed['id']}/results/"))
    assert (answer["id"], answer["state"]) == (processed["id"], "photometry_done")
    targets = answer["targets"]
    assert targets["filter"] == processed["config"]["filter"]
    assert targets["mag_system"] in {"AB", "Vega"}
    assert targets["sn"] == 6
    assert TIMESTAMP.fullmatch(targets["time"])
    assert targets["catalog"] == processed["config"]["cat_name"]
    (target,) = targets["targets"]
    assert (target["x"], target["y"]) == pytest.approx((200, 210), abs=0.01)  # pixels
    assert target["ra"] == pytest.approx(processed["config"]["target_ra"], abs=1e-3)  # degrees
    assert 15 < target["mag_limit"] < 25
    assert target["detected"] in {True, False}


def test_results_are_null_before_photometry(owner: httpx.Client, kept: dict[str, Any]) -> None:
    answer = check_ok(owner.get(f"/tasks/{kept['id']}/results/"))
    assert (answer["id"], answer["state"], answer["targets"]) == (kept["id"], "uploaded", None)


def test_idempotency_key_makes_a_repeated_process_take_effect_once(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id, key = make_task(field_fits)["id"], uuid.uuid4().hex
    first = check_ok(start(owner, task_id, "inspect", key=key))
    assert check_ok(start(owner, task_id, "inspect", key=key)) == first  # while it runs
    ended(owner, task_id)
    assert check_ok(start(owner, task_id, "inspect", key=key))["celery_id"] == first["celery_id"]
    assert len(runs_of(owner, task_id)) == 1


def test_simultaneous_processes_with_one_key_are_one_run(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id, key = make_task(field_fits)["id"], uuid.uuid4().hex
    answers: list[httpx.Response] = []
    gate = threading.Barrier(4)

    def ask() -> None:
        gate.wait(20)
        answers.append(start(owner, task_id, "inspect", key=key))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({check_ok(answer)["celery_id"] for answer in answers}) == 1
    ended(owner, task_id)
    assert len(runs_of(owner, task_id)) == 1


def test_another_key_is_another_request(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    for _ in range(2):
        check_ok(start(owner, task_id, "cleanup", key=uuid.uuid4().hex))
        ended(owner, task_id)
    assert len(runs_of(owner, task_id)) == 2


def test_idempotency_key_makes_a_repeated_creation_take_effect_once(owner: httpx.Client, scene_fits: bytes) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    files = {"file": ("a.fits", scene_fits)}
    made = [check_ok(owner.post("/tasks/", files=files, headers=headers), 201)["id"] for _ in range(2)]
    for task_id in set(made):
        owner.delete(f"/tasks/{task_id}/")
    assert made[0] == made[1]


def test_simultaneous_creations_with_one_key_make_one_task(owner: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    answers: list[httpx.Response] = []
    gate = threading.Barrier(4)

    def ask() -> None:
        gate.wait(20)
        answers.append(owner.post("/tasks/", json={"original_name": "x", "title": "once"}, headers=headers))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    for task_id in made:
        assert owner.delete(f"/tasks/{task_id}/").status_code == 204
    assert len(made) == 1
    assert {answer.status_code for answer in answers} <= {201, 409}  # 409: the first has not ended yet


def test_a_key_that_was_used_for_another_creation_is_409(owner: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    task_id = check_ok(owner.post("/tasks/", json={"original_name": "x"}, headers=headers), 201)["id"]
    check_error(owner.post("/tasks/", json={"original_name": "y"}, headers=headers), 409)
    assert owner.delete(f"/tasks/{task_id}/").status_code == 204


def test_a_refused_creation_does_not_use_the_key_up(owner: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    check_error(owner.post("/tasks/", json={"title": "no name"}, headers=headers), 400, "original_name")
    task_id = check_ok(owner.post("/tasks/", json={"original_name": "x"}, headers=headers), 201)["id"]
    assert owner.delete(f"/tasks/{task_id}/").status_code == 204


def test_idempotency_key_makes_a_repeated_duplicate_take_effect_once(
    owner: httpx.Client, make_task: MakeTask, scene_fits: bytes
) -> None:
    source, headers = make_task(scene_fits)["id"], {"Idempotency-Key": uuid.uuid4().hex}
    made = {check_ok(owner.post(f"/tasks/{source}/duplicate/", headers=headers), 201)["id"] for _ in range(2)}
    for task_id in made:
        assert owner.delete(f"/tasks/{task_id}/").status_code == 204
    assert len(made) == 1


def test_the_key_of_one_user_is_not_that_of_another(owner: httpx.Client, stranger: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    made = []
    for api in (owner, stranger):
        made.append(check_ok(api.post("/tasks/", json={"original_name": "x"}, headers=headers), 201)["id"])
        assert api.delete(f"/tasks/{made[-1]}/").status_code == 204
    assert made[0] != made[1]


@pytest.mark.parametrize("key", ["", "x" * 256, "Schlüssel".encode()])
def test_a_bad_idempotency_key_is_400_that_names_it(owner: httpx.Client, make_task: MakeTask, key: Any) -> None:
    check_error(start(owner, make_task()["id"], "cleanup", key=key), 400, "Idempotency-Key")


def test_version(owner: httpx.Client) -> None:
    answer = check_ok(owner.get("/version/"))
    assert answer["name"] == "stdweb"
    assert answer["version"][0].isdigit()


@pytest.fixture(scope="module")
def schema(site: Site) -> dict[str, Any]:
    with site.client() as client:
        return dict(check_ok(client.get("/schema/")))


def test_schema_is_valid_openapi_3_1(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    validate(schema)


OPERATIONS = (
    "POST /auth/token",
    "POST /auth/login",
    "POST /auth/logout",
    "GET /tasks",
    "POST /tasks",
    "GET /tasks/{id}",
    "PATCH /tasks/{id}",
    "POST /tasks/{id}",
    "DELETE /tasks/{id}",
    "GET /tasks/{id}/state",
    "POST /tasks/{id}/duplicate",
    "POST /tasks/{id}/process",
    "POST /tasks/{id}/cancel",
    "POST /tasks/{id}/fix",
    "POST /tasks/{id}/crop",
    "POST /tasks/{id}/destripe",
    "GET /tasks/{id}/files",
    "GET /tasks/{id}/files/{path}",
    "POST /tasks/{id}/files/{path}",
    "DELETE /tasks/{id}/files/{path}",
    "GET /tasks/{id}/preview/{path}",
    "GET /tasks/{id}/cutout/{path}",
    "GET /tasks/{id}/events",
    "GET /tasks/{id}/runs",
    "GET /tasks/{id}/results",
    "GET /queue",
    "GET /queue/{id}",
    "POST /queue/{id}/terminate",
    "GET /files",
    "GET /files/{path}",
    "GET /files/{path}/preview",
    "GET /presets",
    "GET /presets/{id}",
    "GET /reference",
    "GET /reference/{table}",
    "GET /version",
    "POST /callbacks/secret",
)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_schema_describes_every_operation_with_its_errors(schema: dict[str, Any], operation: str) -> None:
    method, path = operation.split()
    paths = {name.rstrip("/").removeprefix("/api"): item for name, item in schema["paths"].items()}
    described = paths[path][method.lower()]
    assert described["summary"]
    statuses = set(described["responses"])
    assert any(status.startswith("2") for status in statuses)
    public = path.startswith(("/auth/token", "/auth/login", "/reference"))
    assert public or "401" in statuses
    if "{id}" in path and path.startswith("/tasks"):
        assert {"403", "404"} <= statuses
    named = {parameter["name"] for parameter in [*paths[path].get("parameters", []), *described.get("parameters", [])]}
    assert {part.strip("{}") for part in path.split("/") if part.startswith("{")} <= named


def test_schema_has_examples(schema: dict[str, Any]) -> None:
    assert '"examples"' in json.dumps(schema)


def test_docs_are_a_page_that_needs_no_other_site(anonymous: httpx.Client) -> None:
    answer = anonymous.get("/docs/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert 'src="http' not in answer.text
    assert 'href="http' not in answer.text
    assert "//cdn" not in answer.text


def test_what_the_page_loads_is_there(anonymous: httpx.Client) -> None:
    page = anonymous.get("/docs/").text
    parts = [part.split('"')[0] for mark in ('src="', 'href="') for part in page.split(mark)[1:]]
    loaded = [part for part in parts if not part.startswith("data:")]
    assert loaded
    for part in loaded:
        assert anonymous.get(f"/docs/{part}").status_code == 200, part
    check_error(anonymous.get("/docs/nothing.js"), 404)
