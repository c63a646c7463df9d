from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS

from shared.errors import DataError
from shared.science.astrometry import blind_match, refine_wcs
from shared.science.astrometry_blind import INDEX_SETTING
from stdweb.sky.wide import tycho_stars
from tests.support import astrometry as made

SKY = made.make()


def refine(sky, header=None, **options):
    lines: list[str] = []
    options = {"order": 3, "mag_column": "rmag", "log": lines.append, **options}
    return refine_wcs(sky.objects, sky.catalog, WCS(sky.rough if header is None else header), sky.shape, **options)


def turned(header, angle_deg):
    matrix = np.array([[header["CD1_1"], header["CD1_2"]], [header["CD2_1"], header["CD2_2"]]])
    angle = np.deg2rad(angle_deg)
    matrix = matrix @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = matrix[i, j]


def shifted(header, pixels=60):
    header["CRPIX1"] += pixels
    header["CRPIX2"] -= pixels


def scaled(header, factor=1.02):
    for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        header[key] *= factor


def mirrored(header):
    header["CD1_1"] *= -1
    header["CD2_1"] *= -1


def upside_down(header):
    turned(header, 180)


def both(header):
    shifted(header)
    turned(header, 1)


@pytest.mark.parametrize("mag_column", ["rmag", None])
def test_distortion_is_recovered(mag_column):
    solution = refine(SKY, mag_column=mag_column)
    assert solution.method == "own"
    assert made.residual_mas(solution.wcs, SKY) < 5
    assert solution.matched > 1200
    # noise of 0.02 pixels and of the catalogue's 0.02 arcsec, on two axes
    assert solution.rms_arcsec == pytest.approx(0.04, rel=0.1)
    assert solution.wcs.sip.a_order == 3


@pytest.mark.parametrize(
    "spoil", [shifted, lambda h: turned(h, 1), scaled, both, mirrored, upside_down], ids=lambda f: f.__name__
)
def test_wrong_headers_are_put_right(spoil):
    header = SKY.rough.copy()
    spoil(header)
    solution = refine(SKY, header)
    assert solution.method == "own"
    assert made.residual_mas(solution.wcs, SKY) < 5


def test_any_rotation_is_left_to_quad_hash():
    sky = made.make(side=1024, stars=300)
    header = sky.rough.copy()
    turned(header, 40)
    solution = refine(sky, header)
    assert solution.method in {"quad-hash", "scamp"}
    assert made.residual_mas(solution.wcs, sky) < 20


def test_saturated_ghosts_and_a_wrong_scale_are_left_to_scamp():
    sky = made.make(side=512, stars=400)
    random = np.random.default_rng(2)
    flux = sky.objects["flux"].max() * random.uniform(1, 3, 300)
    # quad-hash takes the brightest whatever their flags, SCAMP leaves saturated ones out
    ghosts = Table({"x": random.uniform(0, 512, 300), "y": random.uniform(0, 512, 300), "flux": flux})
    ghosts["fluxerr"], ghosts["flags"] = flux / 100, 4
    header = sky.rough.copy()
    scaled(header, 1.1)  # more than the own matcher looks for
    lines: list[str] = []
    solution = refine(replace(sky, objects=vstack([sky.objects, ghosts])), header, log=lines.append)
    assert [line.split(":")[0] for line in lines] == [
        "Astrometry (own)",
        "Astrometry (quad-hash)",
        "Astrometry (scamp)",
    ]
    assert solution.method == "scamp"
    assert solution.matched > 200
    assert made.residual_mas(solution.wcs, sky) < 10


def test_wrong_place_is_not_solved():
    header = SKY.rough.copy()
    header["CRVAL1"] += 3
    with pytest.raises(DataError, match="blind_match_wcs"):
        refine(SKY, header)


def test_stars_of_another_field_do_not_fool_it():
    random = np.random.default_rng(9)
    other = Table(SKY.catalog, copy=True)
    other["RAJ2000"] = SKY.catalog["RAJ2000"].mean() + random.uniform(-0.35, 0.35, len(other))
    other["DEJ2000"] = SKY.catalog["DEJ2000"].mean() + random.uniform(-0.3, 0.3, len(other))
    lines: list[str] = []
    with pytest.raises(DataError, match="do not match") as caught:
        refine_wcs(SKY.objects, other, WCS(SKY.rough), SKY.shape, order=3, log=lines.append)
    assert caught.value.code == "astrometry_failed"
    assert any("no match that is clearly better than chance" in line for line in lines)


def test_few_stars_lower_the_order():
    sky = made.make(side=1024, stars=14, unmatched=0.0)
    solution = refine(sky)
    assert solution.wcs.sip is None or solution.wcs.sip.a_order < 3
    assert made.residual_mas(solution.wcs, sky) < 300


def test_too_few_stars():
    sky = made.make(stars=2)
    with pytest.raises(DataError, match="too few for astrometry"):
        refine(sky)


def test_a_radius_that_was_asked_for_is_kept():
    solution = refine(SKY, radius_arcsec=0.03)
    assert solution.matched < refine(SKY).matched
    assert made.residual_mas(solution.wcs, SKY) < 10


def wide_field():
    """Real Tycho-2 stars at 5 arcsec a pixel."""
    centre, side = (83.0, 22.0), 2048
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": centre[0], "CRVAL2": centre[1]})
    header.update(
        {"CRPIX1": side / 2, "CRPIX2": side / 2, "CD1_1": 5 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 5 / 3600}
    )
    truth = WCS(header)
    stars = tycho_stars(*centre, 2.2)
    x, y = truth.all_world2pix(stars["ra"], stars["dec"], 0)
    names = [name for name in stars.colnames if name.lower() in {"vt", "mag", "mag_vt"}]
    flux = 10 ** (-0.4 * (np.asarray(stars[names[0]], float) - 22))
    inside = (x > 0) & (x < side) & (y > 0) & (y < side)
    return Table({"x": x, "y": y, "flux": flux})[inside], truth, (side, side)


BLIND = {
    "center": None,
    "radius_deg": 2.0,
    "scale_lo_arcsec": 0.5,
    "scale_hi_arcsec": 8.0,
    "order": 3,
    "indexes": (),
    "time_limit_s": 60,
}


@pytest.mark.parametrize("center", [None, (83.5, 22.3)])
def test_blind_match(center):
    objects, truth, shape = wide_field()
    lines: list[str] = []
    wcs = blind_match(objects, shape, **{**BLIND, "center": center}, log=lines.append)
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.linspace(300, 1750, 9)] * 2))
    back = wcs.all_world2pix(*truth.all_pix2world(x, y, 0), 0)
    assert np.median(np.hypot(back[0] - x, back[1] - y)) < 0.2
    assert any("5.00" in line for line in lines)


def test_field_too_small_for_the_indexes():
    objects, _, _ = wide_field()
    with pytest.raises(DataError, match=INDEX_SETTING) as caught:
        blind_match(objects, (500, 500), **{**BLIND, "scale_hi_arcsec": 1.0}, log=lambda *_: None)
    assert caught.value.code == "field_too_small"
    assert "at most 11.8 arcmin" in caught.value.user_message


def test_no_indexes(tmp_path):
    objects, _, shape = wide_field()
    with pytest.raises(DataError, match=INDEX_SETTING) as caught:
        blind_match(objects, shape, **{**BLIND, "indexes": (tmp_path,)}, log=lambda *_: None)
    assert caught.value.code == "no_indexes"


def test_no_blind_match():
    random = np.random.default_rng(4)
    objects = Table(
        {"x": random.uniform(0, 2048, 30), "y": random.uniform(0, 2048, 30), "flux": random.uniform(1, 9, 30)}
    )
    with pytest.raises(DataError, match="found no solution"):
        blind_match(
            objects,
            (2048, 2048),
            **{**BLIND, "center": (83.0, 22.0), "scale_lo_arcsec": 4, "time_limit_s": 5},
            log=lambda *_: None,
        )


def test_too_few_objects():
    with pytest.raises(DataError, match="too few for blind matching"):
        blind_match(Table({"x": [1.0], "y": [1.0], "flux": [1.0]}), (2048, 2048), **BLIND, log=lambda *_: None)
