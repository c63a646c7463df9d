"""Whatever dies in the middle of photometry, the run ends done, once, with whole results."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from astropy.table import Table

from shared.contracts.steps import STEPS
from stdweb.client import ApiError, Client
from stdweb.stack import processes

RUN_S = 150


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
    return found


def working_on(stack, task_id: int) -> list[int]:
    """Processes of the photometry step of a task: the child, known by its title, and what it started."""
    found = []
    for pid in processes.members(stack.state.mark):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if f"photometry of task {task_id}" in title:
                found += [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        except (FileNotFoundError, psutil.NoSuchProcess):
            continue
    return found


def start(stack, client: Client, image: Path) -> tuple[int, int]:
    """Start a run and wait until photometry works; give the task and the child."""
    wait_until(stack.ready, 60, "every process is ready")
    task_id = client.create_task(image, {"filter": "R", "cat_name": "ps1"})["id"]
    client.process(task_id, ["inspect", "photometry"])
    return task_id, wait_until(lambda: working_on(stack, task_id), 90, "photometry works")[0]


def ended(client: Client, task_id: int) -> dict[str, Any] | None:
    try:
        task = client.task(task_id)
    except ApiError:  # the gateway is away
        return None
    return None if "running" in task["state"] else task


VICTIMS = {
    "child": lambda stack, child: child,
    "worker": lambda stack, child: stack.pid("photometry"),
    "gateway": lambda stack, child: stack.pid("gateway"),
    "broker": lambda stack, child: stack.pid("rabbitmq"),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_in_the_middle_it_ends_done_once_and_whole(stack, observation, tmp_path: Path, victim: str) -> None:
    with stack.client() as client:
        task_id, child = start(stack, client, observation.image)
        os.kill(VICTIMS[victim](stack, child), signal.SIGKILL)
        task = wait_until(lambda: ended(client, task_id), RUN_S, "the run ends")
        assert task["state"] == "photometry_done", task.get("error")
        assert task["config"]["zp"] == pytest.approx(observation.aperture_zero_point_mag(1.27 * 3.0), abs=0.02)

        commits = list((stack.folder / "volume" / "tasks" / str(task_id) / ".results").glob("*-photometry"))
        assert len(commits) == 1
        present = {entry["name"] for entry in client.files(task_id)}
        expected = {name for name in STEPS["photometry"].files if name.endswith(".png") and "diagnosis" not in name}
        assert present >= expected | {
            "objects.vot",
            "objects.parquet",
            "photometry.json",
            "image.wcs",
            "photometry.log",
        }
        client.download(task_id, "objects.vot", tmp_path / "objects.vot")
        assert len(Table.read(tmp_path / "objects.vot")) > 500
        wait_until(lambda: not working_on(stack, task_id), 5, "nothing works on the task any more")


def test_cancelled_in_the_middle_no_process_is_left_and_nothing_published(stack, observation) -> None:
    with stack.client() as client:
        task_id, child = start(stack, client, observation.image)
        involved = [child, *working_on(stack, task_id)]
        answer = client.cancel(task_id)
        assert answer == {"id": task_id, "state": "cancelled", "revoked_count": 1}
        assert client.task(task_id)["state"] == "cancelled"
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in involved), 5, "the step's processes are gone")
        assert not working_on(stack, task_id)
        names = {entry["name"] for entry in client.files(task_id)}
        assert "inspect.log" in names
        assert not names & {"objects.vot", "photometry.log"}
        client.process(task_id, ["photometry"])
        task = wait_until(lambda: ended(client, task_id), RUN_S, "the next run ends")
        assert task["state"] == "photometry_done", task.get("error")
