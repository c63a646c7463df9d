"""The short form of `make scale`: nothing is lost, and what a step costs is told of every process."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_step_of_a_burst_is_lost_and_costs_are_told() -> None:
    command = [sys.executable, "bench/scale.py", "--only", "burst", "--chains", "10"]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    burst, cost = ended.stdout.splitlines()
    assert "40 steps in 10 chains" in burst
    assert " 0 not done" in burst
    assert {"gateway", "rabbitmq", "store", "scale_worker", "clients"} <= {word.strip(",") for word in cost.split()}
