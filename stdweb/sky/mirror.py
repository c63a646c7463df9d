"""Catalogue mirrors of a made-up sky, as VizieR would have it, so that everything runs without Internet."""

from pathlib import Path
from typing import Final

import numpy as np
from astropy.table import Table

from shared.science.catalogs.build import add_to_mirror
from shared.science.catalogs.mirror import COVERAGE_ORDER
from shared.science.catalogs.sky import cone_cells

PS1_SATURATION_MAG: Final = 13.4
PS1_DEPTH_MAG: Final = {"g": 22.4, "r": 22.2, "i": 22.0, "z": 21.4, "y": 20.4}
PS1_FLOOR_MAG: Final = 0.004
GAIA_LIMIT_MAG: Final = 17.65  # of the synthetic photometry
GAIA_DEPTH_MAG: Final = 20.8
LOST_FRACTION: Final = 0.004  # stars that a survey simply does not have


def write_mirror(sky: Table, mirror_dir: Path, *, ra_deg: float, dec_deg: float, radius_deg: float, seed: int) -> None:
    """Write the mirrors `ps1`, `gaiadr3syn` and `gaiaedr3` of a sky from `make_sky`.

    Parameters
    ----------
    sky
        All sources of a cap that is a little larger than the cone.
    mirror_dir
        Folder of all mirrors; a mirror that exists is added to.
    ra_deg, dec_deg, radius_deg
        The cone in which they will be complete.
    seed
        Of the catalogues' own errors.
    """
    rng = np.random.default_rng([seed, 20262])
    cells, _ = cone_cells(ra_deg, dec_deg, radius_deg, COVERAGE_ORDER)
    tables = {
        "ps1": ps1_stars(sky, rng),
        "gaiadr3syn": gaia_stars(sky, rng),
        "gaiaedr3": gaia_sources(sky, rng),
    }
    for code, stars in tables.items():
        note = f"has a simulated sky around RA {ra_deg:g}, Dec {dec_deg:+g}"
        add_to_mirror(stars, mirror_dir, code, cells=cells, order=COVERAGE_ORDER, note=note)


def _moved(sky: Table, rng: np.random.Generator, error_arcsec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    east, north = rng.normal(0, 1, (2, len(sky))) * error_arcsec / 3600
    return np.asarray(sky["ra"] + east / np.cos(np.radians(sky["dec"]))) % 360, np.asarray(sky["dec"] + north)


def ps1_stars(sky: Table, rng: np.random.Generator) -> Table:
    """Make the rows of II/349/ps1 for a sky: measured magnitudes with errors, NaN where saturated or too faint."""
    error_arcsec = np.hypot(0.008, 0.05 * 10 ** (0.3 * (sky["r"] - 21)))
    stars = Table()
    stars["RAJ2000"], stars["DEJ2000"] = _moved(sky, rng, np.asarray(error_arcsec))
    stars["objID"] = np.asarray(sky["id"], dtype=np.int64) + 150_000_000_000_000_000
    stars["e_RAJ2000"] = stars["e_DEJ2000"] = error_arcsec
    for band, depth_mag in PS1_DEPTH_MAG.items():
        true = np.asarray(sky[band], dtype=float)
        error = np.hypot(PS1_FLOOR_MAG, 0.1 * 10 ** (0.4 * (true - depth_mag)))
        measured = true + rng.normal(0, 1, len(sky)) * error
        lost = (true < PS1_SATURATION_MAG) | (true > depth_mag + 0.5)
        stars[f"{band}mag"] = np.where(lost, np.nan, np.round(measured, 4))
        stars[f"e_{band}mag"] = np.where(lost, np.nan, np.round(error, 4))
    seen = np.isfinite(stars["rmag"]) | np.isfinite(stars["imag"])
    return stars[seen & (rng.random(len(sky)) > LOST_FRACTION)]


def gaia_stars(sky: Table, rng: np.random.Generator) -> Table:
    """Make the rows of I/360/syntphot for a sky: Johnson-Cousins and Sloan magnitudes and fluxes."""
    bright = (sky["kind"] == "star") & (sky["r"] < GAIA_LIMIT_MAG) & (rng.random(len(sky)) > LOST_FRACTION)
    chosen = sky[bright]
    stars = Table()
    stars["RAJ2000"], stars["DEJ2000"] = _moved(chosen, rng, np.full(len(chosen), 0.0005))
    stars["Source"] = np.asarray(chosen["id"], dtype=np.int64) + 900_000_000_000_000_000
    for band in "UBVRIugrizy":
        true = np.asarray(chosen[f"{band}_sloan" if band in "ugriz" else band], dtype=float)
        noise = 0.05 if band in "Uu" else 0.01
        error = np.hypot(0.003, noise * 10 ** (0.3 * (true - GAIA_LIMIT_MAG)))
        stars[f"{band}mag"] = np.round(true + rng.normal(0, 1, len(chosen)) * error, 4)
        flux = 10 ** (-0.4 * (true - 25))  # the unit does not matter, only the ratio is used
        stars[f"F{band}"], stars[f"e_F{band}"] = flux, flux * error * np.log(10) / 2.5
    return stars


def gaia_sources(sky: Table, rng: np.random.Generator) -> Table:
    """Make the rows of I/350/gaiaedr3 for a sky: every star that is not too faint, and the brightest galaxies."""
    bright = (np.asarray(sky["r"]) < GAIA_DEPTH_MAG - 1.5 * (np.asarray(sky["kind"]) != "star")) & (
        rng.random(len(sky)) > LOST_FRACTION
    )
    chosen = sky[bright]
    stars = Table()
    stars["RAJ2000"], stars["DEJ2000"] = _moved(chosen, rng, np.full(len(chosen), 0.0005))
    stars["Source"] = np.asarray(chosen["id"], dtype=np.int64) + 800_000_000_000_000_000
    for band, near in (("G", "r"), ("BP", "g"), ("RP", "i")):
        error = np.hypot(0.003, 0.01 * 10 ** (0.3 * (chosen[near] - GAIA_LIMIT_MAG)))
        stars[f"{band}mag"] = np.round(chosen[near] + rng.normal(0, 1, len(chosen)) * error, 4)
        stars[f"e_{band}mag"] = np.round(error, 4)
    return stars
