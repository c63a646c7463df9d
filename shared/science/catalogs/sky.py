"""Small geometry on the sphere: cones, HEALPix cells (nested), distances. Angles in degrees, ICRS."""

from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import Latitude, Longitude
from cdshealpix import nested
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Cells = NDArray[np.uint64]

MIN_RADIUS_DEG = 1e-4


def distance_deg(ra_deg: float, dec_deg: float, ras_deg: Floats, decs_deg: Floats) -> Floats:
    """Give the great-circle distances of many points from one (haversine, exact for small angles)."""
    ra0, dec0, ra, dec = np.radians(ra_deg), np.radians(dec_deg), np.radians(ras_deg), np.radians(decs_deg)
    half = np.sin((dec - dec0) / 2) ** 2 + np.cos(dec0) * np.cos(dec) * np.sin((ra - ra0) / 2) ** 2
    distances: Floats = np.degrees(2 * np.arcsin(np.sqrt(np.minimum(half, 1.0))))
    return distances


def cells_of(ras_deg: Any, decs_deg: Any, order: int) -> Cells:
    """Give the cell of each point."""
    cells = nested.lonlat_to_healpix(
        Longitude(np.asarray(ras_deg, dtype=float) * u.deg), Latitude(np.asarray(decs_deg, dtype=float) * u.deg), order
    )
    return np.asarray(cells, dtype=np.uint64)


def cone_cells(ra_deg: float, dec_deg: float, radius_deg: float, order: int) -> tuple[Cells, NDArray[np.bool_]]:
    """Give the cells that touch a cone, and which of them lie wholly inside."""
    cells, _, inside = nested.cone_search(
        Longitude(ra_deg * u.deg), Latitude(dec_deg * u.deg), max(radius_deg, MIN_RADIUS_DEG) * u.deg, order, flat=True
    )
    return np.asarray(cells, dtype=np.uint64), np.asarray(inside, dtype=bool)


def enclosing_cone(cells: Cells, order: int) -> tuple[float, float, float]:
    """Give centre and radius of a cone that holds all of the cells."""
    lon, lat = nested.vertices(cells, order)
    ras, decs = lon.deg.ravel(), lat.deg.ravel()
    x, y, z = _unit(ras, decs).mean(axis=1)
    ra_deg = float(np.degrees(np.arctan2(y, x)) % 360)
    dec_deg = float(np.degrees(np.arctan2(z, np.hypot(x, y))))
    # the edges of a cell bulge a little beyond the arcs between its vertices
    return ra_deg, dec_deg, float(distance_deg(ra_deg, dec_deg, ras, decs).max()) * 1.02


def _unit(ras_deg: Floats, decs_deg: Floats) -> Floats:
    ra, dec = np.radians(ras_deg), np.radians(decs_deg)
    return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
