"""Template subtraction through the API: every engine, both modes, on one task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from scipy.spatial import cKDTree

from stdweb.client import ApiError
from stdweb.sky import simulate, simulate_template
from stdweb.sky.template import TEMPLATE_GAIN
from tests.support.conformance import wait_until
from tests.support.stack import Stack

SIZE = 640
SURE_MAG = 19.5  # new stars up to here have a signal to noise above 10 on the sky


class Searched:
    """A task with photometry and a template, the transients of its image as targets."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        folder = stack.root / "subtraction"
        sky = simulate(
            folder, size=SIZE, seed=11, ra_deg=170.0, dec_deg=28.0, mirror_dir=stack.state.mirror_dir, transients=16
        )
        simulate_template(folder / "template.fits", sky)
        self.new = sky.truth[np.asarray(sky.truth["kind"]) == "transient"]
        config = {
            "filter": "r",
            "template": "custom",
            "custom_template_gain": TEMPLATE_GAIN,
            "target": "\n".join(f"{ra:.7f} {dec:+.7f}" for ra, dec in self.new["ra", "dec"].iterrows()),
        }
        with stack.client() as client:
            self.task_id = int(client.create_task(sky.image, config, "subtraction")["id"])
            client.upload(self.task_id, "custom_template.fits", folder / "template.fits")
        self.state = self.run("inspect", "photometry")["state"]

    def run(self, *steps: str, **config: Any) -> dict[str, Any]:
        with self.stack.client() as client:
            client.process(self.task_id, steps, config)
            wait_until(lambda: "running" not in client.task(self.task_id)["state"], 240, "the steps end")
            return dict(client.task(self.task_id))

    def get(self, name: str) -> Path:
        path = self.stack.root / "subtraction" / f"got-{name}"
        with self.stack.client() as client:
            client.download(self.task_id, name, path)
        return path

    def names(self) -> set[str]:
        with self.stack.client() as client:
            return {entry["name"] for entry in client.files(self.task_id)}

    def results(self) -> dict[str, Any]:
        with self.stack.client() as client:
            return dict(client._ask("GET", f"tasks/{self.task_id}/results/").json())

    def check_targets(self, targets: dict[str, Any]) -> None:
        """Compare with the truth: the magnitude in the instrument's system is that of the star."""
        rows = targets["targets"]
        assert len(rows) == len(self.new)
        apart = [
            (row["mag_calib"] - mag) / np.hypot(row["mag_calib_err"], 0.02)  # the template is not perfect either
            for row, mag in zip(rows, self.new["m_nat"], strict=True)
            if row["flux"] is not None and row["detected"]
        ]
        assert len(apart) >= 8
        assert abs(np.median(apart)) < 1
        assert np.percentile(np.abs(apart), 75) < 3


@pytest.fixture(scope="module")
def task(stack: Stack) -> Searched:
    made = Searched(stack)
    assert made.state == "photometry_done"
    return made


@pytest.mark.parametrize("engine", ["hotpants", "sfft", "zogy"])
def test_transients_are_found_and_measured(engine: str, task: Searched) -> None:
    ended = task.run("subtraction", subtraction_method=engine, subtraction_mode="detection")
    assert ended["state"] == "subtraction_done", ended["error"]
    results = task.results()
    assert results["sub_targets"]["method"] == engine
    assert results["sub_targets"]["template"] == "custom"
    task.check_targets(results["sub_targets"])
    found = results["sub_candidates"]
    places = np.array([[row["x"], row["y"]] for row in found["candidates"]])
    sure = task.new[np.asarray(task.new["m_nat"]) < SURE_MAG]
    distance, _ = cKDTree(places).query(np.c_[sure["x"], sure["y"]])
    assert (distance < 2).mean() > 0.7  # pixels; some are on masked pixels or beside bright stars
    names = task.names()
    assert {"subtraction.log", "candidates.vot", "candidates.reg", "candidates", "sub_target.vot"} <= names
    assert {"sub_target.cutout", "sub_targets", "sub_diff.fits", "sub_mask.fits"} <= names
    assert ("sub_scorr.fits" in names) == (engine == "zogy")
    with fits.open(task.get("sub_diff.fits")) as hdus:
        assert hdus[0].data.shape == (SIZE, SIZE)
        one = task.new[0]
        x, y = WCS(hdus[0].header).all_world2pix(one["ra"], one["dec"], 0)
        assert np.hypot(x - one["x"], y - one["y"]) < 0.3  # pixels
    assert len(Table.read(task.get("candidates.vot"))) == len(found["candidates"])


@pytest.mark.parametrize("engine", ["hotpants", "sfft", "zogy"])
def test_targets_alone(engine: str, task: Searched) -> None:
    ended = task.run("subtraction", subtraction_method=engine, subtraction_mode="target", sub_size=400)
    assert ended["state"] == "subtraction_done", ended["error"]
    results = task.results()
    task.check_targets(results["sub_targets"])
    assert results["sub_candidates"] is None
    names = task.names()
    assert {"sub_target.vot", "sub_target.cutout", "sub_diff.fits"} <= names
    # what the run before left went with its commit
    assert not {"candidates.vot", "candidates.reg", "candidates"} & names


def test_bad_options_and_missing_templates_are_told(task: Searched) -> None:
    for config, words in (
        ({"subtraction_method": "hotpanTs"}, "subtraction_method"),
        ({"hotpants_extra": {"outim": "/etc/passwd"}}, "hotpants_extra"),
        ({"hotpants_extra": {"ko": 99}}, "hotpants_extra"),
        ({"sub_size": 3}, "sub_size"),
        ({"template": "hst"}, "template"),
    ):
        with pytest.raises(ApiError, match=words):
            task.run("subtraction", **config)
    with task.stack.client() as client:
        task_id = client.create_task(task.stack.root / "subtraction" / "observation.fits", {}, "none")["id"]
        client.process(task_id, ["subtraction"])
        wait_until(lambda: "running" not in client.task(task_id)["state"], 60, "the step ends")
        ended = client.task(task_id)
    assert ended["state"] == "subtraction_failed"
    assert "run photometry first" in ended["error"]
