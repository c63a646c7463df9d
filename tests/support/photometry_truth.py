"""Comparing measured objects with what a simulation put in."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from scipy.spatial import cKDTree

MATCH_PIX = 1.5
ISOLATION_PIX = 12.0
ISOLATION_MAG = 3.0


@dataclass(frozen=True)
class Stars:
    """Isolated unflagged stars: true magnitude, measured minus true, and quoted error, mag; found: true stars only."""

    mag: np.ndarray
    offset: np.ndarray
    error: np.ndarray
    all_mag: np.ndarray
    found: np.ndarray


def compare(objects: Table, truth: Table) -> Stars:
    """Match by position and keep what nothing disturbs."""
    stars = truth[np.asarray(truth["re"]) == 0]
    points = np.c_[truth["x"], truth["y"]]
    every = cKDTree(points)
    distance, index = cKDTree(np.c_[stars["x"], stars["y"]]).query(
        np.c_[objects["x"], objects["y"]], distance_upper_bound=MATCH_PIX
    )
    near = np.flatnonzero(np.isfinite(distance) & (np.asarray(objects["flags"]) == 0))
    true_mag = np.asarray(stars["m_nat"], float)
    all_mag = np.asarray(truth["m_nat"], float)
    alone = np.ones(len(near), bool)
    for row, i in enumerate(near):
        place = [stars["x"][index[i]], stars["y"][index[i]]]
        around = [k for k in every.query_ball_point(place, ISOLATION_PIX) if np.hypot(*(points[k] - place)) > 1e-6]
        alone[row] = not (all_mag[around] < true_mag[index[i]] + ISOLATION_MAG).any()
    near = near[alone]
    mag = true_mag[index[near]]
    anyone = np.isfinite(
        cKDTree(np.c_[objects["x"], objects["y"]]).query(np.c_[stars["x"], stars["y"]], distance_upper_bound=MATCH_PIX)[
            0
        ]
    )
    return Stars(
        mag,
        np.asarray(objects["mag_calib"], float)[near] - mag,
        np.asarray(objects["mag_calib_err"], float)[near],
        true_mag,
        anyone,
    )


def robust_scatter(values: np.ndarray) -> float:
    """Give 1.48 times the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def pooled(parts: list[Stars]) -> Stars:
    """Join the stars of several fields."""
    return Stars(*(np.concatenate([getattr(part, name) for part in parts]) for name in Stars.__dataclass_fields__))


def table_by_mag(stars: Stars, edges: np.ndarray, least: int = 50) -> list[dict[str, float]]:
    """Give number, bias, scatter, median quoted error, their ratio, and completeness in bins of true magnitude."""
    rows = []
    for low, high in pairwise(edges):
        inside = (stars.mag >= low) & (stars.mag < high)
        if inside.sum() < least:
            continue
        scatter, error = robust_scatter(stars.offset[inside]), float(np.median(stars.error[inside]))
        around = (stars.all_mag >= low) & (stars.all_mag < high)
        rows.append(
            {
                "low": float(low),
                "high": float(high),
                "stars": int(inside.sum()),
                "bias": float(np.median(stars.offset[inside])),
                "scatter": scatter,
                "error": error,
                "ratio": scatter / error,
                "found": float(stars.found[around].mean()),
            }
        )
    return rows


def read_solution(path: Path) -> WCS:
    """Read `image.wcs`, whose NAXIS is 0 because it has no pixels."""
    header = fits.getheader(path)
    del header["NAXIS"]
    return WCS(header)


def astrometric_rms_mas(wcs: WCS, true_wcs: WCS, size: int) -> float:
    """Give the rms distance of two solutions over the central 80 % of each axis, mas."""
    grid = np.linspace(0.1 * size, 0.9 * size, 33)
    x, y = (axis.ravel() for axis in np.meshgrid(grid, grid))
    ra, dec = wcs.all_pix2world(x, y, 0)
    true_ra, true_dec = true_wcs.all_pix2world(x, y, 0)
    east = (ra - true_ra) * np.cos(np.deg2rad(true_dec))
    return float(3.6e6 * np.sqrt(np.mean(east**2 + (dec - true_dec) ** 2)))
