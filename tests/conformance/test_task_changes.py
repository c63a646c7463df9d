"""Looking at a task, changing, deleting and duplicating it."""

from typing import Any

import httpx
import pytest

from tests.conformance.conftest import MakeTask, create
from tests.conformance.test_task_creation import BAD_CONFIGS, FIELDS
from tests.support.conformance import TIMESTAMP, a_run, check_error, check_ok, config_of, ended, names_of, state_of

METHODS = ("PATCH", "POST")


def test_get_gives_the_full_task(owner: httpx.Client, kept: dict[str, Any]) -> None:
    task = check_ok(owner.get(f"/tasks/{kept['id']}/"))
    assert set(task) >= FIELDS
    assert task == kept


def test_state_gives_id_state_and_celery_id_only(owner: httpx.Client, kept: dict[str, Any]) -> None:
    answer = check_ok(owner.get(f"/tasks/{kept['id']}/state/"))
    assert answer == {"id": kept["id"], "state": "uploaded", "celery_id": None}


@pytest.mark.parametrize("path", ["/tasks/999999999/", "/tasks/999999999/state/"])
def test_a_missing_task_is_404(owner: httpx.Client, path: str) -> None:
    check_error(owner.get(path), 404)


@pytest.mark.parametrize("method", METHODS)
def test_title_name_and_config_change_with_200_and_the_full_task(
    owner: httpx.Client, make_task: MakeTask, method: str
) -> None:
    task = make_task(None, config={"sn": 4})
    change = {"title": "new", "original_name": "new.fits", "config": {"filter": "R"}}
    changed = check_ok(owner.request(method, f"/tasks/{task['id']}/", json=change))
    assert set(changed) >= FIELDS
    assert (changed["title"], changed["original_name"]) == ("new", "new.fits")
    assert changed["config"] == {"sn": 4, "filter": "R"}
    assert changed["modified"] >= task["modified"]
    assert check_ok(owner.get(f"/tasks/{task['id']}/")) == changed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["data", "files"])
def test_changes_may_come_as_a_form(owner: httpx.Client, make_task: MakeTask, method: str, kind: str) -> None:
    fields = {"title": "by form", "config": "{'sn': 6}"}
    body: dict[str, Any] = {"data": fields} if kind == "data" else {"files": {k: (None, v) for k, v in fields.items()}}
    changed = check_ok(owner.request(method, f"/tasks/{make_task()['id']}/", **body))
    assert (changed["title"], changed["config"]) == ("by form", {"sn": 6})


def test_config_keys_are_merged_and_null_removes_one(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(None, config={"filter": "R", "sn": 4, "own": {"a": 1}})["id"]
    check_ok(owner.patch(f"/tasks/{task_id}/", json={"config": {"sn": None, "own": {"b": 2}, "never": None}}))
    assert config_of(owner, task_id) == {"filter": "R", "own": {"b": 2}}


@pytest.mark.parametrize("config", [None, {}, "", "{}"])
def test_an_empty_config_changes_nothing(owner: httpx.Client, make_task: MakeTask, config: Any) -> None:
    task_id = make_task(None, config={"sn": 4})["id"]
    check_ok(owner.patch(f"/tasks/{task_id}/", json={"config": config}))
    assert config_of(owner, task_id) == {"sn": 4}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_a_bad_config_is_400_and_changes_nothing(owner: httpx.Client, make_task: MakeTask, what: str) -> None:
    task = make_task(None, config={"sn": 4})
    change = {"title": "new", "config": BAD_CONFIGS[what]}
    check_error(owner.patch(f"/tasks/{task['id']}/", json=change), 400, "config")
    assert check_ok(owner.get(f"/tasks/{task['id']}/")) == task


def test_a_bad_value_is_400_that_names_the_key(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    body = check_error(owner.patch(f"/tasks/{task_id}/", json={"config": {"sn": "x", "minarea": -1}}), 400, "sn")
    assert body["errors"]["minarea"]
    assert config_of(owner, task_id) == {}


def test_merged_config_may_not_outgrow_256_kib(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(None, config={"a": "x" * 150_000})["id"]
    check_error(owner.patch(f"/tasks/{task_id}/", json={"config": {"b": "x" * 150_000}}), 400, "config")


@pytest.mark.parametrize("name", ["id", "state", "user", "created", "modified", "completed", "celery_id", "path"])
def test_other_fields_are_ignored(owner: httpx.Client, make_task: MakeTask, name: str) -> None:
    task = make_task()
    check_ok(owner.patch(f"/tasks/{task['id']}/", json={name: "photometry_done"}))
    now = check_ok(owner.get(f"/tasks/{task['id']}/"))
    assert now | {"modified": ""} == task | {"modified": ""}


@pytest.mark.parametrize(("name", "value"), [("title", 7), ("original_name", ["x"]), ("title", "a\nb"), ("groups", 7)])
def test_bad_fields_are_400_that_names_them(owner: httpx.Client, make_task: MakeTask, name: str, value: Any) -> None:
    check_error(owner.patch(f"/tasks/{make_task()['id']}/", json={name: value}), 400, name)


def test_while_running_config_and_name_answer_409_and_title_and_groups_may_change(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes, site: Any
) -> None:
    task_id = make_task(field_fits)["id"]
    groups = [site.group] if site.group else []
    with a_run(owner, task_id):
        for change in ({"config": {"sn": 9}}, {"original_name": "x.fits"}, {"config": {"sn": 9}, "title": "both"}):
            check_error(owner.patch(f"/tasks/{task_id}/", json=change), 409)
            check_error(owner.post(f"/tasks/{task_id}/", json=change), 409)
        changed = check_ok(owner.patch(f"/tasks/{task_id}/", json={"title": "on the run", "groups": groups}))
        assert (changed["title"], changed["groups"]) == ("on the run", groups)
        assert state_of(owner, task_id) == "running"
    task = check_ok(owner.get(f"/tasks/{task_id}/"))
    assert (task["title"], task["original_name"]) == ("on the run", "scene.fits")
    assert "sn" not in task["config"] or task["config"]["sn"] != 9


def test_an_edit_of_the_title_while_running_survives_the_run(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits)["id"]
    check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": ["inspect"]}))
    check_ok(owner.patch(f"/tasks/{task_id}/", json={"title": "meanwhile"}))
    assert ended(owner, task_id)["title"] == "meanwhile"


def test_delete_answers_204_and_the_task_is_gone(owner: httpx.Client, scene_fits: bytes) -> None:
    task_id = create(owner, scene_fits)["id"]
    answer = owner.delete(f"/tasks/{task_id}/")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "state/", "files/", "files/image.fits", "preview/image.fits", "runs/", "results/"):
        check_error(owner.get(f"/tasks/{task_id}/{path}"), 404)
    check_error(owner.delete(f"/tasks/{task_id}/"), 404)
    assert task_id not in [row["id"] for row in check_ok(owner.get("/tasks/"))]


def test_delete_of_a_running_task_cancels_it(owner: httpx.Client, field_fits: bytes) -> None:
    task_id = create(owner, field_fits)["id"]
    chain = check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": ["inspect"] * 30}))["celery_id"]
    assert owner.delete(f"/tasks/{task_id}/").status_code == 204
    check_error(owner.get(f"/tasks/{task_id}/"), 404)
    assert chain not in [row["chain_id"] for row in check_ok(owner.get("/queue/"))]
    check_error(owner.get(f"/queue/{chain}/"), 404)  # its history has gone with it


def test_duplicate_is_201_with_all_files_and_config(
    owner: httpx.Client, make_task: MakeTask, scene_fits: bytes
) -> None:
    task = make_task(scene_fits, title="Twin", config='{"sn": 4, "own": [1]}')
    check_ok(owner.post(f"/tasks/{task['id']}/files/deep/er/a.txt", files={"file": ("a", b"abc")}), 201)
    copy = check_ok(owner.post(f"/tasks/{task['id']}/duplicate/"), 201)
    try:
        assert set(copy) >= FIELDS
        assert copy["id"] > task["id"]
        assert copy["config"] == task["config"]
        assert copy["state"] == task["state"]
        assert (copy["original_name"], copy["title"]) == (task["original_name"], task["title"])
        assert copy["celery_id"] is None
        assert TIMESTAMP.fullmatch(copy["created"])
        assert copy["path"] != task["path"]
        assert owner.get(f"/tasks/{copy['id']}/files/image.fits").content == scene_fits
        assert owner.get(f"/tasks/{copy['id']}/files/deep/er/a.txt").content == b"abc"
        # a change of the one is none of the other
        check_ok(owner.post(f"/tasks/{copy['id']}/files/deep/er/a.txt", files={"file": ("a", b"changed")}), 201)
        check_ok(owner.patch(f"/tasks/{copy['id']}/", json={"config": {"sn": 8}}))
        assert owner.get(f"/tasks/{task['id']}/files/deep/er/a.txt").content == b"abc"
        assert config_of(owner, task["id"])["sn"] == 4
    finally:
        assert owner.delete(f"/tasks/{copy['id']}/").status_code == 204


def test_duplicate_of_a_processed_task_has_its_results(owner: httpx.Client, processed: dict[str, Any]) -> None:
    copy = check_ok(owner.post(f"/tasks/{processed['id']}/duplicate/"), 201)
    try:
        assert copy["state"] == "photometry_done"
        assert copy["config"] == processed["config"]
        assert names_of(owner, copy["id"]) == names_of(owner, processed["id"])
        path = "files/objects.vot"
        assert owner.get(f"/tasks/{copy['id']}/{path}").content == owner.get(f"/tasks/{processed['id']}/{path}").content
    finally:
        assert owner.delete(f"/tasks/{copy['id']}/").status_code == 204


def test_duplicate_while_running_is_409(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    with a_run(owner, task_id):
        check_error(owner.post(f"/tasks/{task_id}/duplicate/"), 409)
