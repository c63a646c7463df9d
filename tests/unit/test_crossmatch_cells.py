"""Small cells of the sky around circles, of which a survey's answers are kept."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from cdshealpix import nested

from shared.science.catalogs.sky import cells_of, distance_deg
from shared.science.crossmatch_cells import FINEST_ORDER, CellCache, Circles, cell_diagonal_deg

RADIUS_DEG = 4.8 / 3600


def circles_at(dec_deg: float, count: int = 100, radius_deg: float = RADIUS_DEG) -> Circles:
    rng = np.random.default_rng(3)
    ra = (7.0 + rng.uniform(-0.3, 0.3, count) / max(np.cos(np.deg2rad(dec_deg)), 0.01)) % 360
    return Circles.around(ra, np.clip(dec_deg + rng.uniform(-0.3, 0.3, count), -90, 90), radius_deg)


@pytest.mark.parametrize("dec_deg", [-89.9, -41.8, 0.0, 41.8, 60.0, 88.0])
def test_cells_hold_the_circles_and_reach_out_by_a_diagonal(dec_deg: float) -> None:
    circles = circles_at(dec_deg)
    cells, diagonal_deg = circles.cells(), cell_diagonal_deg(circles.cells(), circles.order)
    rng = np.random.default_rng(4)
    angle, away = rng.uniform(0, 360, (100, 40)), RADIUS_DEG * np.sqrt(rng.uniform(0, 1, (100, 40)))
    centers = SkyCoord(circles.ra_deg, circles.dec_deg, unit="deg")
    points = centers[:, None].directional_offset_by(angle * centers.ra.unit, away * centers.ra.unit)
    assert np.isin(cells_of(points.ra.deg.ravel(), points.dec.deg.ravel(), FINEST_ORDER), cells).all()
    lon, lat = nested.vertices(cells, FINEST_ORDER)
    corners = SkyCoord(lon.ravel(), lat.ravel())
    assert corners.match_to_catalog_sky(centers)[1].deg.max() <= RADIUS_DEG + diagonal_deg
    lon, lat = nested.healpix_to_lonlat(cells, FINEST_ORDER)
    size_deg = np.rad2deg(np.sqrt(4 * np.pi / 12 / 4**FINEST_ORDER))
    assert np.sqrt(2) * size_deg < diagonal_deg < 2.6 * size_deg


@pytest.mark.parametrize("radius_arcsec", [0.5, 15, 70, 400])
def test_any_radius_is_covered_by_circles_that_xmatch_takes(radius_arcsec: float) -> None:
    asked = circles_at(30.0, 20, radius_arcsec / 3600)
    cells = asked.cells()
    assert 3600 * (asked.radius_deg + cell_diagonal_deg(cells, asked.order)) < 170
    assert len(cells) < 100 * len(asked)
    positions = circles_at(30.0, 20)
    rng = np.random.default_rng(4)
    angle, away = rng.uniform(0, 360, (20, 200)), radius_arcsec / 3600 * np.sqrt(rng.uniform(0, 1, (20, 200)))
    centers = SkyCoord(positions.ra_deg, positions.dec_deg, unit="deg")
    points = centers[:, None].directional_offset_by(angle * centers.ra.unit, away * centers.ra.unit)
    assert np.isin(cells_of(points.ra.deg.ravel(), points.dec.deg.ravel(), asked.order), cells).all()


def test_only_circles_that_touch_are_asked_again() -> None:
    circles = circles_at(10.0)
    one = circles.part(5, 6)
    touched = circles.touching(one.cells())
    away = distance_deg(one.ra_deg[0], one.dec_deg[0], touched.ra_deg, touched.dec_deg)
    assert len(touched) >= 1
    assert away.max() <= 2 * RADIUS_DEG + cell_diagonal_deg(one.cells(), one.order)


def test_what_was_noted_is_told_again_also_by_another(tmp_path) -> None:
    circles = circles_at(10.0, 8)
    cells = circles.cells()
    sources = Table({"ra": circles.ra_deg, "dec": circles.dec_deg})
    sources["cell"] = cells_of(sources["ra"], sources["dec"], FINEST_ORDER)
    first, second = (CellCache(tmp_path, ("ra", "dec"), FINEST_ORDER) for _ in range(2))
    assert set(second.missing(cells)) == set(cells)
    first.add(cells[:100], sources[np.isin(sources["cell"], cells[:100])])
    assert set(second.missing(cells)) == set(cells[100:])
    first.add(cells[100:], sources[np.isin(sources["cell"], cells[100:])])
    assert second.missing(cells).size == 0
    assert sorted(second.read(cells)["ra"]) == sorted(circles.ra_deg)
