"""Processing: what process and cancel answer, and the states that clients see."""

import threading
import time
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import MakeTask
from tests.support.conformance import (
    LONG_CHAIN,
    TIMESTAMP,
    Site,
    a_run,
    check_error,
    check_ok,
    config_of,
    ended,
    names_of,
    state_of,
    wait_until,
)

FILES = (
    "image.fits",
    "inspect.log",
    "mask.fits",
    "image_target.fits",
    "photometry.log",
    "objects.parquet",
    "objects.vot",
    "cat.parquet",
    "segmentation.fits",
    "filtered.fits",
    "photometry.json",
    "image.wcs",
    "target.vot",
    "targets",
)
PLOTS = (
    "objects",
    "fwhm",
    "fwhm_mag",
    "prefilter",
    "photometry",
    "photometry_unmasked",
    "photometry_zeropoint",
    "photometry_model",
    "photometry_residuals",
    "astrometry_dist",
    "limit_hist",
    "limit_sn",
)
STEPS = (
    "cleanup",
    "inspect",
    "photometry",
    "simple_transients",
    "subtraction",
    "stack",
)


def start(api: httpx.Client, task_id: int, *steps: str, **config: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"steps": list(steps)} | ({"config": config} if config else {})
    return dict(check_ok(api.post(f"/tasks/{task_id}/process/", json=body)))


def test_process_answers_id_state_celery_id_and_steps(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits)["id"]
    answer = start(owner, task_id, "cleanup", "inspect")
    assert set(answer) == {"id", "state", "celery_id", "steps"}
    assert answer["id"] == task_id
    assert answer["state"] == "running"
    assert answer["steps"] == ["cleanup", "inspect"]
    assert isinstance(answer["celery_id"], str)
    task = ended(owner, task_id)
    assert task["state"] == "inspect_done"
    assert task["celery_id"] is None
    assert TIMESTAMP.fullmatch(task["completed"])
    assert "inspect.log" in names_of(owner, task_id)


def test_while_running_the_task_shows_the_chain(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    with a_run(owner, task_id) as started:
        task = check_ok(owner.get(f"/tasks/{task_id}/"))
        assert (task["state"], task["celery_id"]) == ("running", started["celery_id"])
        assert check_ok(owner.get(f"/tasks/{task_id}/state/")) == {
            "id": task_id,
            "state": "running",
            "celery_id": started["celery_id"],
        }
        assert task["step"] == "inspect"


def test_config_is_merged_first(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits, config='{"sn": 4, "filter": "g"}')["id"]
    start(owner, task_id, "cleanup", sn=6, filter=None, own="kept")
    task = ended(owner, task_id)
    assert (task["state"], task["config"]) == ("cleanup_done", {"sn": 6, "own": "kept"})


def test_config_may_be_a_string(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    body = {"steps": ["cleanup"], "config": "{'sn': 6}"}
    check_ok(owner.post(f"/tasks/{task_id}/process/", json=body))
    assert ended(owner, task_id)["config"] == {"sn": 6}


@pytest.mark.parametrize(
    "steps",
    [
        None,
        [],
        "inspect",
        ["unknown"],
        ["inspect", "unknown"],
        [1],
        [None],
        {"inspect": 1},
        ["inspect "],
        [["inspect"]],
        ["inspect"] * 1000,
        [""],
    ],
)
def test_no_or_unknown_steps_are_400_and_nothing_is_queued(
    owner: httpx.Client, kept: dict[str, Any], steps: Any
) -> None:
    check_error(owner.post(f"/tasks/{kept['id']}/process/", json={"steps": steps}), 400, "steps")
    assert state_of(owner, kept["id"]) == "uploaded"


def test_no_body_is_400_that_names_steps(owner: httpx.Client, kept: dict[str, Any]) -> None:
    check_error(owner.post(f"/tasks/{kept['id']}/process/"), 400, "steps")


def test_the_400_for_an_unknown_step_says_what_is_allowed(owner: httpx.Client, kept: dict[str, Any]) -> None:
    body = check_error(owner.post(f"/tasks/{kept['id']}/process/", json={"steps": ["foto"]}), 400, "steps")
    assert "photometry" in body["detail"]


def test_a_bad_config_value_is_400_and_nothing_is_queued(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(None, config={"sn": 4})["id"]
    body = {"steps": ["cleanup"], "config": {"sn": "many", "filter": "R"}}
    check_error(owner.post(f"/tasks/{task_id}/process/", json=body), 400, "sn")
    task = check_ok(owner.get(f"/tasks/{task_id}/"))
    assert (task["state"], task["config"]) == ("initial", {"sn": 4})


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_the_specification_is_known(owner: httpx.Client, kept: dict[str, Any], step: str) -> None:
    # the second one is refused: nothing is run
    body = check_error(owner.post(f"/tasks/{kept['id']}/process/", json={"steps": [step, "no such step"]}), 400)
    assert "'no such step'" in body["detail"]


def test_already_running_is_409(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    with a_run(owner, task_id) as started:
        check_error(owner.post(f"/tasks/{task_id}/process/", json={"steps": ["inspect"], "config": {"sn": 9}}), 409)
        task = check_ok(owner.get(f"/tasks/{task_id}/"))
        assert task["celery_id"] == started["celery_id"]
        assert task["config"].get("sn") != 9


def test_of_simultaneous_requests_exactly_one_wins(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    statuses: list[int] = []
    gate = threading.Barrier(6)

    def ask() -> None:
        gate.wait(20)
        statuses.append(owner.post(f"/tasks/{task_id}/process/", json={"steps": LONG_CHAIN}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) == [200, 409, 409, 409, 409, 409]
    check_ok(owner.post(f"/tasks/{task_id}/cancel/"))


def test_state_stays_running_to_the_end_of_the_chain_then_takes_the_published_name(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits)["id"]
    start(owner, task_id, "inspect", "inspect", "cleanup", "inspect")
    seen: list[str] = ["running"]

    def over() -> bool:
        state = state_of(owner, task_id)
        if state != seen[-1]:
            seen.append(state)
        return "running" not in state

    wait_until(over, 120, "the chain ends")
    assert seen == ["running", "inspect_done"]


def test_states_after_photometry(processed: dict[str, Any]) -> None:
    assert processed["state"] == "photometry_done"
    assert processed["celery_id"] is None
    assert processed["created"] <= processed["completed"]


def test_computed_config_of_inspect_and_photometry(processed: dict[str, Any]) -> None:
    config = processed["config"]
    for name in ("fwhm", "pixscale", "field_ra", "field_dec", "field_sr", "zp", "zp_err", "mag_limit", "astrom_rms"):
        assert isinstance(config[name], float), name
    assert config["sn"] == 6  # what was asked
    assert config["targets"][0]["ra"] == pytest.approx(config["target_ra"])
    assert {"name", "ra", "dec"} <= set(config["targets"][0])
    assert "zp" in config
    assert config["filter"]
    assert config["cat_name"]


def test_files_of_inspect_and_photometry(owner: httpx.Client, processed: dict[str, Any]) -> None:
    expected = {*FILES, *(f"{plot}.png" for plot in PLOTS)}
    assert expected <= set(names_of(owner, processed["id"]))
    for plot in PLOTS:
        assert owner.get(f"/tasks/{processed['id']}/files/{plot}.png").content.startswith(b"\x89PNG")


def test_a_failed_step_ends_the_chain_and_says_why(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(b"this is not FITS")["id"]
    start(owner, task_id, "inspect", "photometry")
    task = ended(owner, task_id)
    assert task["state"] == "inspect_failed"
    assert isinstance(task["error"], str)
    assert len(task["error"]) > 10
    assert "Traceback" not in task["error"]
    assert task["error"].split(".")[0] in owner.get(f"/tasks/{task_id}/files/inspect.log").text
    assert "photometry.log" not in names_of(owner, task_id)


def test_results_of_earlier_steps_stay_when_a_later_one_fails(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits)["id"]
    start(owner, task_id, "inspect", "photometry", cat_name="vhs", filter="R", blind_match_wcs=False)
    task = ended(owner, task_id)
    assert task["state"] == "photometry_failed"
    assert task["error"]
    assert {"inspect.log", "mask.fits"} <= set(names_of(owner, task_id))


def test_rerunning_a_step_removes_outputs_and_computed_keys_of_later_ones(
    owner: httpx.Client, processed: dict[str, Any], site: Site
) -> None:
    copy = check_ok(owner.post(f"/tasks/{processed['id']}/duplicate/"), 201)["id"]
    try:
        start(owner, copy, "inspect")
        task = ended(owner, copy)
        assert task["state"] == "inspect_done"
        assert not {"zp", "fwhm", "mag_limit"} & set(task["config"])
        assert task["config"]["sn"] == 6
        assert not {"objects.vot", "photometry.log", "targets"} & set(names_of(owner, copy))
        start(owner, copy, "cleanup")
        assert ended(owner, copy)["state"] == "cleanup_done"
        assert names_of(owner, copy) == ["image.fits"]
        assert config_of(owner, copy) == {**site.config, "sn": 6, "target": "x=200 y=210"}
    finally:
        assert owner.delete(f"/tasks/{copy}/").status_code == 204


def test_a_new_image_removes_outputs_and_computed_keys(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits, config='{"sn": 6}')["id"]
    start(owner, task_id, "inspect")
    assert len(ended(owner, task_id)["config"]) > 3
    check_ok(owner.post(f"/tasks/{task_id}/files/image.fits", files={"file": ("x", field_fits)}), 201)
    task = check_ok(owner.get(f"/tasks/{task_id}/"))
    assert (task["state"], task["config"]) == ("uploaded", {"sn": 6})
    assert names_of(owner, task_id) == ["image.fits"]


def test_cancel_answers_state_and_number_of_steps_that_had_not_ended(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits)["id"]
    chain = start(owner, task_id, *LONG_CHAIN)["celery_id"]
    began = time.monotonic()
    answer = check_ok(owner.post(f"/tasks/{task_id}/cancel/"))
    assert time.monotonic() - began < 5
    assert (answer["id"], answer["state"]) == (task_id, "cancelled")
    assert 0 < answer["revoked_count"] <= len(LONG_CHAIN)
    assert set(answer) == {"id", "state", "revoked_count"}
    task = check_ok(owner.get(f"/tasks/{task_id}/"))
    assert (task["state"], task["celery_id"]) == ("cancelled", None)
    assert task["completed"]
    assert not [row for row in check_ok(owner.get("/queue/")) if row["chain_id"] == chain]


def test_after_cancel_a_new_process_is_accepted_at_once(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits)["id"]
    start(owner, task_id, *LONG_CHAIN)
    for _ in range(3):
        check_ok(owner.post(f"/tasks/{task_id}/cancel/"))
        start(owner, task_id, "inspect")
    assert ended(owner, task_id)["state"] in {"inspect_done", "cancelled"}


def test_a_cancelled_step_commits_nothing_and_earlier_results_stay(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits)["id"]
    start(owner, task_id, "cleanup", *LONG_CHAIN[:-1])
    wait_until(lambda: "inspect.log" in names_of(owner, task_id), 60, "the first inspection is there")
    check_ok(owner.post(f"/tasks/{task_id}/cancel/"))
    before = owner.get(f"/tasks/{task_id}/files/inspect.log").headers["etag"]
    # as long as a whole inspection of another task takes, nothing more happens to this one
    other = make_task(field_fits)["id"]
    start(owner, other, "inspect", "inspect")
    assert ended(owner, other)["state"] == "inspect_done"
    assert state_of(owner, task_id) == "cancelled"
    assert owner.get(f"/tasks/{task_id}/files/inspect.log").headers["etag"] == before


def test_cancel_frees_the_service_within_5_s_and_no_later_step_starts(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    busy = [make_task(field_fits)["id"] for _ in range(6)]
    waiting = make_task()["id"]
    for task_id in busy:
        start(owner, task_id, *LONG_CHAIN)
    for task_id in busy:
        check_ok(owner.post(f"/tasks/{task_id}/cancel/"))
    start(owner, waiting, "cleanup")
    assert ended(owner, waiting, timeout_s=5)["state"] == "cleanup_done"
    assert {state_of(owner, task_id) for task_id in busy} == {"cancelled"}
    assert not {row["task_id"] for row in check_ok(owner.get("/queue/"))} & set(busy)


@pytest.mark.parametrize("what", ["never run", "just ended"])
def test_cancel_of_what_does_not_run_is_400(owner: httpx.Client, make_task: MakeTask, what: str) -> None:
    task_id = make_task()["id"]
    if what == "just ended":
        start(owner, task_id, "cleanup")
        ended(owner, task_id)
    check_error(owner.post(f"/tasks/{task_id}/cancel/"), 400)
