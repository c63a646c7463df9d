"""The published client programs, unmodified but for address, user and password, get what they came for.

Where the published programs are not at hand, programs of our own that make the same calls take their place.
"""

import io
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from PIL import Image

from stdweb.settings import DEMO_USER
from stdweb.sky import Observation

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "spec" / "examples"
PROGRAMS = PUBLISHED if PUBLISHED.is_dir() else ROOT / "tests" / "support" / "clients"


def run(stack, observation: Observation, folder: Path, name: str) -> str:
    shutil.copy(observation.image, folder / "observation.fits")
    text = (PROGRAMS / name).read_text()
    values = {
        "http://localhost:8000/api": stack.state.base_url,
        "myuser": DEMO_USER,
        "mypass": stack.state.demo_password,
    }
    for published, ours in values.items():
        text = text.replace(published, ours)
    (folder / name).write_text(text)
    program = sys.executable if name.endswith(".py") else "bash"
    done = subprocess.run([program, name], cwd=folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def zero_point_mag(output: str) -> float:
    found = re.search(r"^Zero point: (\S+)$", output, re.MULTILINE)
    assert found is not None, output
    return float(found.group(1))


def check_objects(folder: Path, observation: Observation) -> None:
    """The table holds most of the stars that stand well above the noise."""
    objects = Table.read(folder / "objects.vot")
    truth = observation.truth
    bright = (truth["m_nat"] < 19.0) & (truth["re"] == 0) & (truth["x"] > 0) & (truth["x"] < 1535)
    bright &= (truth["y"] > 0) & (truth["y"] < 1535)
    assert len(objects) > 0.8 * bright.sum()
    assert {"x", "y", "ra", "dec", "mag_calib", "mag_calib_err"} <= set(objects.colnames)


def check_preview(content: bytes, kind: str, width: int) -> None:
    """A picture of the square image, with stars in it."""
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == (kind, (width, width))
    brightness = np.asarray(picture.convert("L")).astype(float)
    assert brightness.std() > 10
    assert brightness.max() > brightness.mean() + 80


@pytest.mark.parametrize(
    ("name", "tolerance_mag"),
    [
        ("workflow.py", 0.02),  # ps1 has R by way of g and r: the colour of the fit is not that of the simulation
        ("client.py", 0.02),
    ],
)
def test_python_program(stack, observation: Observation, tmp_path: Path, name: str, tolerance_mag: float) -> None:
    output = run(stack, observation, tmp_path, name)
    assert re.search(r"[Ss]tate: photometry_done$", output, re.MULTILINE), output
    radius_pix = 1.27 * observation.fwhm_pix
    assert zero_point_mag(output) == pytest.approx(observation.aperture_zero_point_mag(radius_pix), abs=tolerance_mag)
    check_objects(tmp_path, observation)
    if name == "workflow.py":
        check_preview((tmp_path / "preview.jpg").read_bytes(), "JPEG", 1024)


def test_shell_program(stack, observation: Observation, tmp_path: Path) -> None:
    output = run(stack, observation, tmp_path, "workflow.sh")
    assert "State: photometry_done" in output
    assert '"name": "photometry.log"' in output
    check_objects(tmp_path, observation)
    check_preview((tmp_path / "preview.jpg").read_bytes(), "JPEG", 1024)


def test_preview_of_the_client_class(stack, observation: Observation) -> None:
    with stack.client() as client:
        task_id = client.create_task(observation.image)["id"]
    kind = runpy.run_path(str(PROGRAMS / "client.py"))["STDWebClient"]
    published = kind(stack.state.base_url, username=DEMO_USER, password=stack.state.demo_password)
    check_preview(published.get_preview(task_id), "JPEG", 800)
    check_preview(published.get_preview(task_id, "image.fits", width=640, format="png", stretch="asinh"), "PNG", 640)
