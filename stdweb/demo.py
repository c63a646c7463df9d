"""`python -m stdweb.demo`: process a simulated observation through the API and compare with what is true of it.

`python -m stdweb.demo transients` searches for new sources in another one, see `stdweb.demo_transients`.
"""

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS, FITSFixedWarning
from rich.console import Console
from rich.table import Table as Grid

from .client import ApiError, Client
from .demo_transients import run as run_transients
from .settings import DEMO_USER, STATE_FOLDER, StackError, StackState
from .sky import Observation, simulate
from .sky.observe import GAIN, READ_NOISE_E, SKY_ADU
from .submit import follow

STEPS: Final = ("inspect", "photometry")
CONFIG: Final = {"filter": "r", "cat_name": "ps1"}
RADIUS_PER_MOFFAT_FWHM: Final = 1.27  # 2 x FLUX_RADIUS of the simulated profile over its FWHM

_DETECTION_SN: Final = 5.0
_EDGE_FRACTION: Final = 0.1
_GRID: Final = 41

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Line:
    """One line of the comparison: a quantity, what was measured and what is true, as text with units."""

    quantity: str
    measured: str
    truth: str


def limit_mag(zero_point_mag: float, radius_pix: float, sn: float) -> float:
    """Give the magnitude at which a star has a signal-to-noise ratio `sn` in an aperture, for the simulated noise.

    Parameters
    ----------
    zero_point_mag
        For the flux within the aperture.
    radius_pix
        Radius of the aperture.
    sn
        Signal-to-noise ratio.

    Notes
    -----
    Solves F = sn sqrt(F/g + n (S/g + (r/g)^2)), the equation of the CCD: Howell, Handbook of CCD Astronomy, 4.4.
    """
    background = math.pi * radius_pix**2 * (SKY_ADU / GAIN + (READ_NOISE_E / GAIN) ** 2)
    half = sn**2 / GAIN / 2
    return zero_point_mag - 2.5 * math.log10(half + math.sqrt(half**2 + sn**2 * background))


def read_wcs(path: Path) -> WCS:
    """Read the world coordinate system that photometry keeps in a file without pixels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The WCS transformation has more axes", FITSFixedWarning)
        return WCS(fits.getheader(path))


def wcs_error_mas(wcs: WCS, true: WCS, size_pix: int) -> float:
    """Give the rms distance between two world coordinate systems in the central 80 % of each axis, milliarcseconds."""
    at = np.linspace(_EDGE_FRACTION * size_pix, (1 - _EDGE_FRACTION) * size_pix, _GRID)
    x, y = (axis.ravel() for axis in np.meshgrid(at, at))
    measured, expected = (SkyCoord(*one.all_pix2world(x, y, 0), unit="deg") for one in (wcs, true))
    return float(np.sqrt(np.mean(measured.separation(expected).to_value(u.mas) ** 2)))


def compare(config: dict[str, Any], objects: Table, wcs: WCS, observation: Observation, size_pix: int) -> list[Line]:
    """Set what was measured beside what is true.

    Parameters
    ----------
    config
        Of the processed task.
    objects
        Its `objects.vot`.
    wcs
        Its `image.wcs`.
    observation
        What was simulated.
    size_pix
        Side of the image.
    """
    radius_pix = config["fwhm"] * config.get("rel_aper", 1.0)
    zero_point_mag = observation.aperture_zero_point_mag(radius_pix)
    truth = observation.truth
    faintest_mag = limit_mag(zero_point_mag, radius_pix, config.get("sn", _DETECTION_SN))
    on_image = np.all([(truth[axis] > 0) & (truth[axis] < size_pix - 1) for axis in ("x", "y")], axis=0)
    return [
        Line("zero point", f"{config['zp']:.3f} ± {config['zp_err']:.3f} mag", f"{zero_point_mag:.3f} mag"),
        Line("colour term", f"{config['color_term']:+.3f}", f"{-observation.color_term:+.3f}"),
        Line(
            "FWHM (2 x FLUX_RADIUS)",
            f"{config['fwhm']:.2f} px",
            f"{RADIUS_PER_MOFFAT_FWHM * observation.fwhm_pix:.2f} px",
        ),
        Line("limit, S/N 5", f"{config['mag_limit']:.2f} mag", f"{faintest_mag:.2f} mag"),
        Line("objects", f"{len(objects)}", f"{int(np.sum(on_image & (truth['m_nat'] < faintest_mag)))} to the limit"),
        Line("astrometric residual, stars", f"{1000 * config['astrom_rms']:.1f} mas", ""),
        Line("astrometric residual, WCS", f"{wcs_error_mas(wcs, observation.wcs, size_pix):.1f} mas", "0 mas"),
    ]


def run(state: StackState, size_pix: int = 2048) -> None:
    """Simulate, process, compare, and say where to look.

    Raises
    ------
    ApiError
        The service refused something or the processing failed.
    """
    folder = state.folder / "demo"
    with console.status("Simulating an observation and the catalogues of its sky"):
        observation = simulate(folder, size=size_pix, mirror_dir=state.mirror_dir)
    mirrors = f"mirrors of ps1, gaiadr3syn and gaiaedr3 in {_shown(state.mirror_dir)}"
    console.print(f"Simulated {_shown(observation.image)}, {mirrors}")
    with Client(state.base_url) as client:
        client.login(DEMO_USER, state.demo_password)
        task_id = client.create_task(observation.image, CONFIG, "Demonstration")["id"]
        console.print(f"Uploaded as task {task_id}; running {' and '.join(STEPS)}")
        client.process(task_id, STEPS)
        (task,) = follow(client, [task_id])
        if task["state"] != "photometry_done":
            raise ApiError(
                f"Task {task_id} ended as {task['state']}: {task.get('error')}. Logs: {folder.parent / 'logs'}"
            )
        for name in ("objects.vot", "image.wcs"):
            client.download(task_id, name, folder / name)
        names = [entry["name"] for entry in client.files(task_id)]
    grid = Grid("", "measured", "simulated truth")
    objects, wcs = Table.read(folder / "objects.vot"), read_wcs(folder / "image.wcs")
    for line in compare(task["config"], objects, wcs, observation, size_pix):
        grid.add_row(line.quantity, line.measured, line.truth)
    console.print(grid)
    console.print(f"{len(names)} files, among them objects.vot, photometry.log and {_plots(names)} plots:")
    console.print(f"  API      {state.base_url}/tasks/{task_id}/files/")
    console.print(f"  save     .venv/bin/stdweb get {task_id} --to demo-results")
    console.print(f"  log in   user {DEMO_USER}, password {state.demo_password}")
    console.print("  end      make down")


def _plots(names: list[str]) -> int:
    return sum(name.endswith(".png") for name in names)


def _shown(path: Path | None) -> str:
    if path is None:
        return ""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


DEMONSTRATIONS: Final = {"photometry": run, "transients": run_transients}


def main(arguments: Sequence[str] = ()) -> None:
    """Run a demonstration on the stack of this folder; a known failure is one message and exit code 1."""
    (name,) = arguments[:1] or ("photometry",)
    if name not in DEMONSTRATIONS:
        console.print(f"There is no demonstration {name!r}; there are: {', '.join(DEMONSTRATIONS)}", markup=False)
        sys.exit(2)
    try:
        DEMONSTRATIONS[name](StackState.started(STATE_FOLDER))
    except (ApiError, StackError) as error:
        console.print(str(error), style="red", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
