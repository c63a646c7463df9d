"""The search for transients through the API: from the upload to candidates, and tasks of others."""

import json

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stdweb.client import ApiError
from stdweb.sky import simulate
from tests.support.conformance import wait_until
from tests.support.transients import inject

STEPS = ["inspect", "photometry", "simple_transients"]


def test_new_stars_are_found_through_the_api(stack) -> None:
    sky = simulate(
        stack.root / "transients", size=512, seed=9, ra_deg=165.0, dec_deg=25.0, mirror_dir=stack.state.mirror_dir
    )
    path = stack.root / "transients" / "new.fits"
    injected = inject(sky, path, np.linspace(16.0, 19.0, 8))
    submitted = stack.run("stdweb", "submit", str(path), "--steps", ",".join(STEPS), "--wait")
    assert "transients_simple_done" in submitted.stdout, submitted.stdout + submitted.stderr
    task_id = int(submitted.stdout.split("Task ")[1].split()[0])
    with stack.client() as client:
        client.download(task_id, "candidates_simple.json", stack.root / "candidates.json")
        candidates = json.loads((stack.root / "candidates.json").read_text())
        assert candidates["found"] == len(candidates["candidates"])
        places = [[row["x"], row["y"]] for row in candidates["candidates"]]
        distance, _ = cKDTree(places).query(np.c_[injected["x"], injected["y"]])
        assert (distance < 1.5).sum() >= 7  # pixels
        assert len(places) <= 9
        names = {entry["name"] for entry in client.files(task_id)}
        assert {"transients_simple.log", "candidates_simple.vot", "candidates_simple.reg", "candidates_simple"} <= names
        # the step reads another task: here the same one, in which of course all of them were detected
        client.process(task_id, ["simple_transients"], {"simple_others": str(task_id)})
        wait_until(lambda: "running" not in client.task(task_id)["state"], 120, "the step ends")
        assert client.task(task_id)["state"] == "transients_simple_done"
        client.download(task_id, "candidates_simple.json", stack.root / "again.json")
        assert json.loads((stack.root / "again.json").read_text()) == candidates
        client.download(task_id, "transients_simple.log", stack.root / "transients.log")
        assert f"were detected in task {task_id} as well" in (stack.root / "transients.log").read_text()
        with pytest.raises(ApiError, match="simple_others: there is no task 999999 that you may see"):
            client.process(task_id, ["simple_transients"], {"simple_others": "999999"})
