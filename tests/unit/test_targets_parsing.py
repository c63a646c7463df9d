"""Targets that need no look-up, and lines that must never become one."""

import math

import pytest
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.science.targets import MAX_TARGETS, Target, parse_coordinates, resolve_targets, targets_of
from shared.worker.step import Resources


@pytest.fixture
def resources(tmp_path):
    return Resources(cache_dir=tmp_path)


def resolve(text, resources, wcs=None):
    return resolve_targets(text, wcs, resources, lambda *_: None)


@pytest.mark.parametrize(
    ("text", "ra_deg", "dec_deg"),
    [
        ("10.68 41.27", 10.68, 41.27),
        ("10.68, -41.27", 10.68, -41.27),
        ("10.68d +41.27d", 10.68, 41.27),
        ("10.68 deg 41.27 deg", 10.68, 41.27),
        ("1.068e1 4.127e1", 10.68, 41.27),
        ("00:42:44.3 +41:16:09", 10.6845833, 41.2691667),
        ("00 42 44.3, +41 16 09", 10.6845833, 41.2691667),
        ("05 34 31.9 22 00 52", 83.6329167, 22.0144444),
        ("00:42:44.3 -00:16:09", 10.6845833, -0.2691667),
        ("00h42m44.3s +41d16m09s", 10.6845833, 41.2691667),
        ("00h42m44.3s+41°16'09\"", 10.6845833, 41.2691667),
        ("10d41m04.5s 41d16m09s", 10.6845833, 41.2691667),
        ("12h34m +41d16m", 188.5, 41.2666667),
        ("360 0", 0.0, 0.0),
    ],
)
def test_usual_notations(text, ra_deg, dec_deg):
    assert parse_coordinates(text) == pytest.approx((ra_deg, dec_deg), abs=1e-6)


@pytest.mark.parametrize("text", ["400 20", "10 95", "-5 10", "12:61:10 10:10:10", "1 2 3", "nan nan", "1e999 0"])
def test_impossible_positions(text):
    assert parse_coordinates(text) is None


@given(st.floats(0, 359.999), st.floats(-90, 90))
def test_decimal_degrees_come_back(ra_deg, dec_deg):
    assert parse_coordinates(f"{ra_deg:.9f} {dec_deg:+.9f}") == pytest.approx((ra_deg, dec_deg), abs=1e-8)


def test_pixel_positions_with_and_without_wcs(resources):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [30.0, 10.0], [1.0, 1.0], [-0.001, 0.001]
    (target,) = resolve("x=0 y=0", resources, wcs)
    assert (target.x, target.y) == (0.0, 0.0)  # 0-based: FITS pixel 1, 1
    assert (target.ra_deg, target.dec_deg) == pytest.approx((30.0, 10.0))
    (bare,) = resolve("X = 123.4, Y=567.8", resources)
    assert (bare.x, bare.y) == (123.4, 567.8)
    assert math.isnan(bare.ra_deg)


def test_blank_lines_are_skipped_and_order_is_kept(resources):
    assert [target.name for target in resolve("\n1 2\n\n x=3 y=4 \n", resources)] == ["1 2", "x=3 y=4"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 2\n400 20", r"Line 2 .*400 20"),
        ("http://example.org/M31", r"Line 1 "),
        ("ftp://x", r"Line 1 "),
        ("M31\x00", r"Line 1 "),
        ("M31; rm $HOME", r"Line 1 "),
        ("a" * 300, r"longer than 200"),
        ("1 2\n" * (MAX_TARGETS + 1), r"at most 1000"),
    ],
)
def test_bad_lines_are_named_and_never_looked_up(text, says, resources):
    with pytest.raises(UsageError, match=says):
        resolve(text, resources)
    assert not list(resources.cache_dir.iterdir())


def test_computed_targets_are_read_back():
    config = {
        "targets": [
            {"name": "M31", "ra": 10.7, "dec": 41.3},
            {"name": "p", "ra": None, "dec": None, "x": 3, "y": 4.5},
            {"name": "nowhere"},
            "junk",
        ]
    }
    first, second = targets_of(config)
    assert first == Target("M31", 10.7, 41.3)
    assert (second.x, second.y) == (3.0, 4.5)
    assert math.isnan(second.ra_deg)
    assert targets_of({}) == []
