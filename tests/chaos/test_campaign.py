"""The short form of the campaign: fifteen faults, and no promise broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.stack import ROOT

SEED = "1"
"""Other seeds are for `make chaos`; of this one every machine sees the same faults."""


@pytest.mark.timeout(330)
def test_fifteen_faults_break_no_promise(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STDWEB_")}
    campaign = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--faults", "15", "--seed", SEED, "--work", tmp_path / "chaos", "--keep"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr
    assert "15 faults" in campaign.stdout
    assert "Violations: none." in campaign.stdout
