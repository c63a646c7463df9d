"""Solving a field without knowing where it is, by Astrometry.net's `solve-field`."""

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from ..errors import DataError, InternalError, StepError, TransientError
from .images import FITS_FAULTS, quiet_fits
from .processes import find_program, run_program
from .wcs import pixel_scale_deg, usable_wcs

Log = Callable[..., None]

INDEX_SETTING: Final = "STDWEB_ASTROMETRY_INDEXES"

_SYSTEM_INDEXES: Final = (
    Path("/usr/share/astrometry"),
    Path("/usr/local/astrometry/data"),
    Path("/usr/local/share/astrometry"),
)
_MAX_OBJECTS: Final = 500
_MIN_OBJECTS: Final = 5
_MIN_SIGNAL_TO_NOISE: Final = 8.0
_GRACE_S: Final = 10.0
_MIN_ORDER: Final = 1


def blind_match(
    objects: Table,
    shape: tuple[int, int],
    *,
    center: tuple[float, float] | None,
    radius_deg: float,
    scale_lo_arcsec: float,
    scale_hi_arcsec: float,
    order: int,
    indexes: tuple[Path, ...],
    time_limit_s: float,
    log: Log,
) -> WCS:
    """Solve a field blindly.

    Parameters
    ----------
    objects
        Columns `x`, `y` (pixels, 0-based), `flux`, and if there `fluxerr` and `flags`.
    shape
        Of the image, (rows, columns).
    center, radius_deg
        Where to search, (ra, dec) in degrees; the whole sky when None.
    scale_lo_arcsec, scale_hi_arcsec
        Range of the pixel scale.
    order
        Of the distortion polynomial.
    indexes
        Folders with index files; where the system installs them when empty.
    time_limit_s
        For the search.
    log
        Takes lines for the user.

    Raises
    ------
    DataError
        When there is no solution.
    """
    program = find_program("solve-field")
    if program is None:
        raise DataError("no_solver", "Blind matching needs Astrometry.net's solve-field, which is not installed here.")
    folders = [folder for folder in (indexes or _SYSTEM_INDEXES) if folder.is_dir()]
    smallest_deg = _smallest_field_deg(folders)
    if smallest_deg is None:
        raise DataError(
            "no_indexes",
            "Blind matching has no index files of Astrometry.net. Install some and name their folders in "
            f"{INDEX_SETTING}.",
        )
    largest_deg = math.hypot(*shape) * scale_hi_arcsec / 3600
    if largest_deg < smallest_deg:
        raise _too_small(largest_deg, smallest_deg)
    stars = _brightest(objects)
    if len(stars) < _MIN_OBJECTS:
        raise DataError(
            "too_few_stars",
            f"{len(stars)} objects are too few for blind matching. Lower the detection threshold sn.",
        )
    log(
        f"Blind matching of {len(stars)} objects, {scale_lo_arcsec:g} to {scale_hi_arcsec:g} arcsec a pixel, "
        + ("anywhere" if center is None else f"within {radius_deg:g} deg of {center[0]:.5f} {center[1]:+.5f}")
    )
    with TemporaryDirectory(prefix="stdweb-solve-") as name:
        folder = Path(name)
        argv = _command(program, folder, folders, stars=stars, shape=shape, time_limit_s=time_limit_s)
        argv += ["--scale-low", str(scale_lo_arcsec), "--scale-high", str(scale_hi_arcsec)]
        argv += ["--tweak-order", str(max(order, _MIN_ORDER))]
        if center is not None:
            argv += ["--ra", f"{center[0]:.6f}", "--dec", f"{center[1]:.6f}", "--radius", f"{radius_deg:g}"]
        argv.append(str(folder / "objects.fits"))
        wcs = _solved(argv, folder, shape, time_limit_s, log)
    if wcs is None:
        raise _unsolved(shape, scale_lo_arcsec, smallest_deg)
    ra, dec = wcs.all_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0)
    log(f"Blind match: centre {float(ra):.5f} {float(dec):+.5f}, {3600 * pixel_scale_deg(wcs):.3f} arcsec a pixel")
    return wcs


def _solved(argv: list[str], folder: Path, shape: tuple[int, int], time_limit_s: float, log: Log) -> WCS | None:
    """Run the solver; None when it finds nothing within its time."""
    try:
        run_program(argv, folder, time_limit_s + _GRACE_S, log)
    except InternalError as error:
        log(error.details.get("output", ""))
        return None
    except TransientError as error:
        if error.code == "program_timeout":
            return None
        raise
    solution = folder / "objects.wcs"
    if not solution.is_file():
        return None
    with quiet_fits():
        header = fits.getheader(solution)
    header["NAXIS1"], header["NAXIS2"] = shape[1], shape[0]
    return usable_wcs(header)


def _command(
    program: str, folder: Path, indexes: list[Path], *, stars: Table, shape: tuple[int, int], time_limit_s: float
) -> list[str]:
    config = folder / "engine.cfg"
    config.write_text(
        f"cpulimit {max(int(time_limit_s), 1)}\n" + "".join(f"add_path {path}\n" for path in indexes) + "autoindex\n"
    )
    with quiet_fits():
        stars.write(folder / "objects.fits", format="fits", overwrite=True)
    none = [
        word for name in ("new-fits", "rdls", "match", "corr", "index-xyls", "solved") for word in (f"--{name}", "none")
    ]
    return [
        program,
        *("--config", str(config), "--dir", str(folder), "--temp-dir", str(folder)),
        *("--overwrite", "--no-plots", "--no-remove-lines", "--uniformize", "0", *none),
        *("--x-column", "X", "--y-column", "Y", "--sort-column", "FLUX"),
        *("--width", str(shape[1]), "--height", str(shape[0]), "--crpix-center"),
        *("--cpulimit", str(max(int(time_limit_s), 1)), "--scale-units", "arcsecperpix"),
    ]


def _brightest(objects: Table) -> Table:
    flux = np.asarray(objects["flux"], float)
    good = np.isfinite(flux) & (flux > 0)
    if "fluxerr" in objects.colnames:
        errors = np.asarray(objects["fluxerr"], float)
        significant = good & (flux > _MIN_SIGNAL_TO_NOISE * errors)
        good = significant if significant.sum() >= _MIN_OBJECTS else good
    chosen = np.flatnonzero(good)[np.argsort(-flux[good], kind="stable")][:_MAX_OBJECTS]
    # pixels of FITS count from 1
    return Table(
        {
            "X": np.asarray(objects["x"], float)[chosen] + 1,
            "Y": np.asarray(objects["y"], float)[chosen] + 1,
            "FLUX": flux[chosen],
        }
    )


def _smallest_field_deg(folders: list[Path]) -> float | None:
    """Give the size of the smallest star patterns in the index files, None without any."""
    sizes = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.fits"))):
        with quiet_fits():
            try:
                sizes.append(math.degrees(float(fits.getheader(path)["SCALE_L"])))
            except FITS_FAULTS:
                continue
    return min(sizes, default=None)


def _too_small(field_deg: float, smallest_deg: float) -> DataError:
    return DataError(
        "field_too_small",
        f"The field is at most {60 * field_deg:.1f} arcmin wide, but the installed index files of Astrometry.net hold "
        f"no patterns below {60 * smallest_deg:.0f} arcmin. Raise blind_match_ps_up, or install finer index files and "
        f"name their folders in {INDEX_SETTING}.",
    )


def _unsolved(shape: tuple[int, int], scale_lo_arcsec: float, smallest_deg: float) -> StepError:
    message = (
        "Blind matching found no solution. Try another range of pixel scales (blind_match_ps_lo, blind_match_ps_up), "
        "a position (blind_match_center, blind_match_sr0), or a lower sn."
    )
    if math.hypot(*shape) * scale_lo_arcsec / 3600 < smallest_deg:
        message += (
            f" If the field is smaller than {60 * smallest_deg:.0f} arcmin, it is too small for the installed index "
            f"files: install finer ones and name their folders in {INDEX_SETTING}."
        )
    return DataError("no_blind_match", message)
