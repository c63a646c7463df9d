"""fix, crop and destripe."""

import threading
from typing import Any

import httpx
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tests.conformance.conftest import MakeTask
from tests.support import fits as field_files
from tests.support.conformance import (
    COLUMNS,
    ROWS,
    a_run,
    check_error,
    check_ok,
    ended,
    fits_bytes,
    names_of,
    pixels_of,
    scene,
)

EDITS = {"fix": "fixed", "crop": "cropped", "destripe": "destriped"}


def image_of(api: httpx.Client, task_id: int, name: str = "image.fits") -> tuple[Any, fits.Header]:
    return pixels_of(api.get(f"/tasks/{task_id}/files/{name}").content)


@pytest.mark.parametrize(("edit", "status"), EDITS.items())
def test_answers_id_and_status(
    owner: httpx.Client, make_task: MakeTask, scene_fits: bytes, edit: str, status: str
) -> None:
    task_id = make_task(scene_fits)["id"]
    for slash in ("", "/"):
        answer = check_ok(owner.post(f"/tasks/{task_id}/{edit}{slash}"))
        assert answer == {"id": task_id, "status": status}


@pytest.mark.parametrize("edit", EDITS)
def test_the_original_is_kept_as_image_orig_fits(
    owner: httpx.Client, make_task: MakeTask, scene_fits: bytes, edit: str
) -> None:
    task_id = make_task(scene_fits)["id"]
    for _ in range(2):  # the second edit does not replace it
        check_ok(owner.post(f"/tasks/{task_id}/{edit}/", json={"x1": 2, "direction": "both"}))
        assert owner.get(f"/tasks/{task_id}/files/image.orig.fits").content == scene_fits
    assert set(names_of(owner, task_id)) == {"image.fits", "image.orig.fits"}


@pytest.mark.parametrize("edit", EDITS)
def test_while_running_is_409(owner: httpx.Client, make_task: MakeTask, field_fits: bytes, edit: str) -> None:
    task_id = make_task(field_fits)["id"]
    with a_run(owner, task_id):
        check_error(owner.post(f"/tasks/{task_id}/{edit}/"), 409)


@pytest.mark.parametrize("edit", EDITS)
def test_without_an_image_is_404(owner: httpx.Client, make_task: MakeTask, edit: str) -> None:
    check_error(owner.post(f"/tasks/{make_task()['id']}/{edit}/"), 404)


@pytest.mark.parametrize("edit", EDITS)
def test_what_is_not_fits_is_400_and_stays(owner: httpx.Client, make_task: MakeTask, edit: str) -> None:
    task_id = make_task(b"this is not FITS" * 400)["id"]
    check_error(owner.post(f"/tasks/{task_id}/{edit}/"), 400)
    assert owner.get(f"/tasks/{task_id}/files/image.fits").content == b"this is not FITS" * 400


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_removes_outputs_and_computed_keys_and_sets_uploaded(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes, edit: str
) -> None:
    task_id = make_task(field_fits, config='{"sn": 6}')["id"]
    check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": ["inspect"]}))
    assert ended(owner, task_id)["state"] == "inspect_done"
    check_ok(owner.post(f"/tasks/{task_id}/{edit}/", json={"x2": 200}))
    task = check_ok(owner.get(f"/tasks/{task_id}/"))
    assert (task["state"], task["config"]) == ("uploaded", {"sn": 6})
    assert names_of(owner, task_id) == ["image.fits", "image.orig.fits"]
    check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": ["inspect"]}))
    assert ended(owner, task_id)["state"] == "inspect_done"


def test_fix_repairs_a_header_and_keeps_the_pixels(owner: httpx.Client, make_task: MakeTask, tmp_path: Any) -> None:
    path = tmp_path / "faulty.fits"
    header = field_files.observation()
    header["XYZ"] = 1
    field_files.write(path, scene(), header)
    field_files.patch_card(path, "XYZ", "XYZ     = 'no end of this string")
    task_id = make_task(path.read_bytes())["id"]
    check_ok(owner.post(f"/tasks/{task_id}/fix/"))
    pixels, fixed = image_of(owner, task_id)
    np.testing.assert_array_equal(pixels, scene())
    assert fixed["CRVAL1"] == header["CRVAL1"]
    for card in fixed.cards:
        card.verify("exception")


CROPS = {
    "a box": ({"x1": 10, "y1": 5, "x2": 30, "y2": 20}, np.s_[5:20, 10:30]),
    "absent is the edge": ({}, np.s_[:, :]),
    "only x1": ({"x1": 7}, np.s_[:, 7:]),
    "only y2": ({"y2": 9}, np.s_[:9, :]),
    "negative counts from the far edge": ({"x1": -20, "y2": -8}, np.s_[:-8, -20:]),
    "clipped to the image": ({"x1": -1000, "y1": 3, "x2": 1000, "y2": 10**6}, np.s_[3:, :]),
    "one pixel": ({"x1": 63, "y1": 47}, np.s_[47:48, 63:64]),
    "numbers as texts": ({"x1": "10", "x2": "20"}, np.s_[:, 10:20]),
    "null is absent": ({"x1": None, "x2": 20}, np.s_[:, :20]),
}


@pytest.mark.parametrize("what", CROPS)
def test_crop_is_0_based_and_half_open(owner: httpx.Client, make_task: MakeTask, scene_fits: bytes, what: str) -> None:
    task_id = make_task(scene_fits)["id"]
    options, part = CROPS[what]
    check_ok(owner.post(f"/tasks/{task_id}/crop/", json=options))
    np.testing.assert_array_equal(image_of(owner, task_id)[0], scene()[part])


def test_crop_by_a_form(owner: httpx.Client, make_task: MakeTask, scene_fits: bytes) -> None:
    task_id = make_task(scene_fits)["id"]
    check_ok(owner.post(f"/tasks/{task_id}/crop/", data={"x1": "4", "x2": "-4"}))
    assert image_of(owner, task_id)[0].shape == (ROWS, COLUMNS - 8)


def test_crop_keeps_the_wcs_right(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    before = WCS(pixels_of(field_fits)[1], fix=False)
    check_ok(owner.post(f"/tasks/{task_id}/crop/", json={"x1": 30, "y1": 50, "x2": -10}))
    after = WCS(image_of(owner, task_id)[1], fix=False)
    old, new = before.pixel_to_world_values(100, 120), after.pixel_to_world_values(70, 70)
    np.testing.assert_allclose(new, old, atol=1e-9)  # degrees


@pytest.mark.parametrize(
    "options", [{"x1": 30, "x2": 30}, {"x1": 40, "x2": 20}, {"y1": 1000}, {"x2": 0}, {"x2": -1000}]
)
def test_an_empty_crop_is_400_and_changes_nothing(
    owner: httpx.Client, make_task: MakeTask, scene_fits: bytes, options: dict[str, int]
) -> None:
    task_id = make_task(scene_fits)["id"]
    check_error(owner.post(f"/tasks/{task_id}/crop/", json=options), 400)
    assert owner.get(f"/tasks/{task_id}/files/image.fits").content == scene_fits
    assert names_of(owner, task_id) == ["image.fits"]


@pytest.mark.parametrize("name", ["x1", "y1", "x2", "y2"])
@pytest.mark.parametrize("value", ["left", 1.5, True, [1], 10**30, "1e3"])
def test_a_bad_crop_is_400_that_names_it(owner: httpx.Client, kept: dict[str, Any], name: str, value: Any) -> None:
    check_error(owner.post(f"/tasks/{kept['id']}/crop/", json={name: value}), 400, name)


def striped() -> tuple[Any, Any, Any]:
    random = np.random.default_rng(4)
    sky = random.normal(1000, 2, (256, 320))
    return sky, random.normal(0, 20, (256, 1)), random.normal(0, 20, (1, 320))


def stripes_of(image: Any, axis: int) -> float:
    """How much lines differ from their neighbours, ADU: gradients of the sky do not count."""
    return float(np.std(np.diff(np.median(image, axis=axis)))) / np.sqrt(2)


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "both", None])
def test_destripe_removes_stripes_of_its_direction_and_leaves_the_others(
    owner: httpx.Client, make_task: MakeTask, direction: str | None
) -> None:
    sky, rows, columns = striped()
    task_id = make_task(fits_bytes((sky + rows + columns).astype(np.float32)))["id"]
    check_ok(owner.post(f"/tasks/{task_id}/destripe/", json={"direction": direction} if direction else {}))
    image = image_of(owner, task_id)[0]
    assert np.median(image) == pytest.approx(1000, abs=5)
    horizontal, vertical = stripes_of(image, 1), stripes_of(image, 0)
    assert horizontal > 15 if direction == "vertical" else horizontal < 0.5
    assert vertical > 15 if direction == "horizontal" else vertical < 0.5


@pytest.mark.parametrize("direction", ["diagonal", "", 7, ["both"], "Both"])
def test_a_bad_direction_is_400_that_names_it(owner: httpx.Client, kept: dict[str, Any], direction: Any) -> None:
    answer = owner.post(f"/tasks/{kept['id']}/destripe/", json={"direction": direction})
    check_error(answer, 400, "direction")


def test_beside_another_edit_is_409_or_after_it_and_the_image_stays_whole(
    owner: httpx.Client, make_task: MakeTask
) -> None:
    sky, rows, _ = striped()
    content = fits_bytes((sky + rows).astype(np.float32))
    task_id = make_task(content)["id"]
    answers: list[httpx.Response] = []
    gate = threading.Barrier(5)

    def ask() -> None:
        gate.wait(20)
        answers.append(owner.post(f"/tasks/{task_id}/crop/", json={"x1": 1}))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    done = [answer for answer in answers if answer.status_code == 200]
    assert done
    for answer in answers:
        if answer not in done:
            check_error(answer, 409)
    # each that was answered 200 took effect, and once
    assert image_of(owner, task_id)[0].shape == (256, 320 - len(done))
    assert owner.get(f"/tasks/{task_id}/files/image.orig.fits").content == content
