"""Images of the shared data directory become the image of a task, and are measured, through the API."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from stdweb.client import ApiError, Client
from tests.support.stack import Stack
from tests.support.stacking import Exposure, fluxes, sky, wcs_of

SHAPE = (256, 256)


def run(client: Client, task_id: int, *steps: str, **config: Any) -> dict[str, Any]:
    """Run steps to their end and give the task."""
    client.process(task_id, steps, config)
    deadline = time.monotonic() + 120
    while "running" in (task := client.task(task_id))["state"]:
        assert time.monotonic() < deadline, task
        time.sleep(0.1)
    return task


def names(client: Client, task_id: int) -> set[str]:
    return {file["name"] for file in client.files(task_id)}


def test_stack_then_inspect_by_the_api(stack: Stack, tmp_path: Path) -> None:
    stars = sky(stars=30, reach_deg=110 / 3600)
    data = stack.state.volume / "data" / "night"
    for number in range(3):
        one = Exposure(SHAPE, seed=number, shift=(2.5 * number, -number), angle_deg=4.0 * number, cosmics=20)
        one.write(data / f"{number}.fits", stars)
    files = [f"night/{number}.fits" for number in range(3)]
    with stack.client() as client:
        first = client.create_task(data / "0.fits", {"stack_filenames": files, "filter": "R"})["id"]
        assert run(client, first, "inspect")["state"] == "inspect_done"
        task = run(client, first, "stack", stack_method="clipped_mean")
        assert (task["state"], task["error"]) == ("stacking_done", None)
        # the results of the image before have gone with it
        assert names(client, first) == {"image.fits", "coverage.fits", "stacking.log"}
        assert set(task["config"]) == {"stack_filenames", "stack_method", "filter"}

        # what was made is the image from now on, through cleanup too
        task = run(client, first, "cleanup", "inspect")
        assert task["state"] == "inspect_done"
        assert task["config"]["gain"] == pytest.approx(6.0)
        assert {"image.fits", "mask.fits", "coverage.fits", "stacking.log"} < names(client, first)
        client.download(first, "image.fits", tmp_path / "image.fits")
        image, cards = fits.getdata(tmp_path / "image.fits").astype(float), fits.getheader(tmp_path / "image.fits")
        clean = Exposure(SHAPE, noise=False, sky=0).pixels(stars).astype(float)
        truth, there = fluxes(clean, wcs_of(cards), stars, 8.0)
        flux, whole = fluxes(image, wcs_of(cards), stars, 8.0)
        used = there & whole & (truth > 2e4)
        assert used.sum() > 5
        assert np.median(flux[used] / truth[used]) == pytest.approx(1, abs=5e-3)
        client.download(first, "stacking.log", tmp_path / "stacking.log")
        assert "3 images combined" in (tmp_path / "stacking.log").read_text()

        # a failure says why, and leaves the image that was uploaded
        task = run(client, first, "stack", "inspect", stack_filenames=[*files, "night/none.fits"])
        assert task["state"] == "stacking_failed"
        assert "no file night/none.fits" in task["error"]
        assert names(client, first) == {"image.fits", "stacking.log"}
        with pytest.raises(ApiError, match="stack_filenames"):
            client.process(first, ["stack"], {"stack_filenames": ["../tasks/1/image.fits", files[0]]})
        with pytest.raises(ApiError, match="stack_filenames"):
            client.process(first, ["stack"], {"stack_filenames": files[:1]})
