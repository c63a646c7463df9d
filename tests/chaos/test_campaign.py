"""The short form of the campaign: fifteen faults, and no promise broken."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdweb.stack import processes
from tests.chaos.stack import ROOT

SEED = "1"
"""Other seeds are for `make chaos`; of this one every machine sees the same faults."""

LONGEST_S = 480  # against hanging; 103 to 238 s on two cores that had little else to do


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """Give a folder; what a campaign that was killed has left running is ended."""
    folder = tmp_path / "chaos"
    yield folder
    for mark in folder.glob("part-*/mark"):
        processes.end(mark.read_text(), 3.0)


@pytest.mark.timeout(LONGEST_S + 60)
def test_fifteen_faults_break_no_promise(work: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STDWEB_")}
    campaign = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--faults", "15", "--seed", SEED, "--work", work, "--keep"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr
    assert "15 faults" in campaign.stdout
    assert "Violations: none." in campaign.stdout
