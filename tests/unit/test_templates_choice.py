"""Which survey, which band, which pieces of the sky."""

import math
import os

import numpy as np
import pytest

from shared.contracts.bands import FILTERS, TEMPLATES
from shared.errors import UsageError
from shared.science.templates import TEMPLATE_BANDS, suggested_template, template_band
from shared.science.templates.cells import blocks_on, legacy_bricks, ps1_skycells
from shared.science.templates.fetch import _prune
from shared.science.templates.surveys import HIPS_SURVEYS
from tests.support.reprojection import tan


@pytest.mark.parametrize(
    ("source", "band", "expected"),
    [
        ("ps1", "R", "r"),
        ("ps1", "B", "g"),
        ("ps1", "u", "g"),
        ("ps1", "y", "z"),
        ("ps1", "Ks", "i"),
        ("ls", "I", "i"),
        ("ls", "G", "r"),
        ("skymapper", "U", "u"),
        ("ztf", "z", "i"),
        ("ztf", "I", "i"),
        ("2mass", "Ks", "Ks"),
        ("2mass", "J", "J"),
        ("des", "RP", "i"),
        ("custom", "U", "U"),
    ],
)
def test_band_of_a_template(source, band, expected):
    assert template_band(source, band) == expected


def test_every_band_has_its_row_and_every_survey_its_hips():
    assert set(TEMPLATE_BANDS) == set(FILTERS)
    assert set(HIPS_SURVEYS) == set(TEMPLATES) - {"custom", "ps1", "ls"}
    assert all(set(survey.hips) == set(TEMPLATES[code].filters) for code, survey in HIPS_SURVEYS.items())


def test_a_band_that_a_survey_does_not_have_is_refused_with_those_that_have():
    with pytest.raises(UsageError, match=r"2MASS \(HiPS\) has no band near V: it has J H Ks. Set template to ps1, ls"):
        template_band("2mass", "V")
    with pytest.raises(UsageError, match="no template 'nowhere'"):
        template_band("nowhere", "r")


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "expected"),
    [(150, 20, "ps1"), (10, -29.9, "ps1"), (20, -45, "ls"), (265, -50, "skymapper")],
)
def test_suggested_template(ra_deg, dec_deg, expected):
    assert suggested_template(ra_deg, dec_deg) == expected


def test_all_of_the_sky_that_pan_starrs_covers_is_in_a_skycell():
    rng = np.random.default_rng(1)
    table = ps1_skycells()
    for ra_deg, dec_deg in zip(rng.uniform(0, 360, 40), rng.uniform(-28, 89, 40), strict=True):
        assert table.covers(ra_deg, dec_deg)
    assert not table.covers(10, -45)


def test_cells_on_a_frame_are_those_that_touch_it_middle_first():
    small = tan(1.0, (100, 100), ra_deg=149.7853, dec_deg=20.9964)
    assert list(ps1_skycells().name[ps1_skycells().on(small, (100, 100))]) == ["1799.025"]
    both = ps1_skycells().on(tan(1.0, (300, 300), ra_deg=149.99, dec_deg=20.9964), (300, 300))
    assert list(ps1_skycells().name[both]) == ["1799.025", "1799.024"]
    bricks = legacy_bricks()
    found = bricks.name[bricks.on(tan(1.0, (600, 600), ra_deg=150.0, dec_deg=20.0), (600, 600))]
    assert set(found[:2]) == {"S/1498p200", "S/1501p200"}
    assert len(found) == 2


@pytest.mark.parametrize(("dec_deg", "side_deg"), [(0.0, 0.5), (35.0, 0.3), (-89.9, 0.4), (89.99, 2.0), (60.0, 10.0)])
def test_blocks_cover_a_frame_and_neighbours_share_them(dec_deg, side_deg):
    shape = (200, 200)
    wcs = tan(3600 * side_deg / 200, shape, ra_deg=359.99, dec_deg=dec_deg)
    blocks = blocks_on(wcs, shape, side_deg)
    u, v = (axis.ravel() for axis in np.meshgrid(np.arange(0, 200, 7.0), np.arange(0, 200, 7.0)))
    sky = wcs.all_pix2world(u, v, 0)
    inside = np.zeros(u.size, bool)
    for block in blocks:
        side = math.ceil(block.side_deg * 1000)
        x, y = tan(3.6, (side, side), ra_deg=block.ra_deg, dec_deg=block.dec_deg).all_world2pix(*sky, 0)
        inside |= (x > 0) & (x < side - 1) & (y > 0) & (y < side - 1)
    assert inside.all()
    assert len({block.name for block in blocks}) == len(blocks) <= 12
    again = blocks_on(tan(3600 * side_deg / 200, shape, ra_deg=0.01, dec_deg=dec_deg), shape, side_deg)
    assert {block.name for block in again} & {block.name for block in blocks}


def test_the_cache_gives_up_what_was_not_used_for_longest(tmp_path):
    (tmp_path / "a").mkdir()
    files = [tmp_path / "a" / f"{k}.fits" for k in range(4)]
    for age, file in enumerate(files):
        file.write_bytes(b"x" * 100)
        os.utime(file, (1000 - age, 1000 - age))
    absent = tmp_path / "absent.fits"
    absent.touch()
    _prune(tmp_path, 250)
    assert [file.exists() for file in files] == [True, True, False, False]
    assert absent.exists()
