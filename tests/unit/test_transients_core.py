"""Which objects are taken for known, on a few made-up ones."""

import numpy as np
import pytest
from astropy.table import Table
from pydantic import ValidationError

from services.transients import core
from shared.contracts.params import SimpleTransientsParams
from shared.science.candidates import names_of, regions, surveys_for
from shared.science.crossmatch import DES, GAIA, PS1, SKYMAPPER
from shared.science.matching import all_pairs

ARCSEC = 1 / 3600
RA, DEC = 359.9999, 60.0  # across the meridian of zero, and where a degree of RA is half of one on the sky


def at(*places: tuple[float, float, float]) -> Table:
    """Objects at offsets (east, north) in arcsec, with magnitudes."""
    east, north, mag = (np.array(column, float) for column in zip(*places, strict=True))
    ra = (RA + east * ARCSEC / np.cos(np.radians(DEC))) % 360
    return Table({"ra": ra, "dec": DEC + north * ARCSEC, "mag_calib": mag})


def known(*places: tuple[float, float, float]) -> core.Known:
    table = at(*places)
    return core.Known("test", *(np.asarray(table[name]) for name in ("ra", "dec", "mag_calib")))


@pytest.mark.parametrize(
    ("mag", "cat_mag", "mag_diff", "dropped"),
    [
        (18.0, 18.3, 2, True),
        (18.0, 19.99, 2, True),
        (18.0, 20.01, 2, False),  # brighter than the match by more than the difference
        (18.0, 15.0, 2, True),  # fainter than the match
        (18.0, np.nan, 2, True),  # known, of unknown brightness
        (18.0, 25.0, 0, True),  # every match rejects
        (18.0, 18.0, 0, True),
    ],
)
def test_a_match_rejects_what_is_not_much_brighter(mag: float, cat_mag: float, mag_diff: float, dropped: bool) -> None:
    objects = at((0, 0, mag), (30, 0, mag))
    found = core.matched(objects, known((0.5, 0.5, cat_mag)), 1 * ARCSEC, mag_diff)
    assert found.tolist() == [dropped, False]


def test_of_several_matches_one_that_is_bright_enough_rejects() -> None:
    objects = at((0, 0, 17.0))
    assert core.matched(objects, known((0.2, 0, 21.0), (0.4, 0, 17.5)), 1 * ARCSEC, 2).tolist() == [True]
    assert core.matched(objects, known((0.2, 0, 21.0), (1.4, 0, 17.5)), 1 * ARCSEC, 2).tolist() == [False]


def test_objects_without_counterparts_or_catalogues_without_sources_stay() -> None:
    none = core.Known("test", *(np.zeros(0) for _ in range(3)))
    assert core.matched(at((0, 0, 17.0)), none, ARCSEC, 2).tolist() == [False]
    assert core.blends(at((0, 0, 17.0)), none, ARCSEC, 3 * ARCSEC, 2).tolist() == [False]


def test_a_blend_has_its_light_at_the_object() -> None:
    pair = known((-1.5, 0, 18.0), (1.5, 0, 18.0))
    together = 18.0 - 2.5 * np.log10(2)

    def blended(objects: Table, stars: core.Known = pair, mag_diff: float = 2) -> list[bool]:
        return core.blends(objects, stars, 1 * ARCSEC, 4 * ARCSEC, mag_diff).tolist()

    assert blended(at((0, 0, together))) == [True]
    assert blended(at((2.4, 0, together))) == [False]  # near one of them, but not their common centre
    assert blended(at((0, 0, together - 2.1))) == [False]  # much brighter than both
    assert blended(at((0, 0, together - 2.1)), mag_diff=0) == [True]
    assert blended(at((0, 0, 18.0)), known((-0.5, 0, 18.0))) == [False]  # one star is no blend
    # the centre is nearer to the brighter one
    uneven = known((-1.5, 0, 17.0), (1.5, 0, 19.5))
    assert blended(at((-1.23, 0, 16.9)), uneven) == [True]
    assert blended(at((0, 0, 16.9)), uneven) == [False]


def test_pairs_across_the_meridian_and_at_the_pole() -> None:
    first, second = all_pairs(
        [0.0001, 10.0, np.nan], [0.0, 89.99999, 0.0], [359.9999, 190.0, 5.0], [0.0, 89.99999, np.nan], 1e-3
    )
    assert (first.tolist(), second.tolist()) == ([0, 1], [0, 1])


@pytest.mark.parametrize(
    ("flags", "prefilter", "good"),
    [
        (0x0, True, True),
        (0x3, True, True),
        (0x100, True, True),
        (0x4, True, False),
        (0x8, False, False),
        (0x200, True, False),
        (0x400, True, False),
        (0x800, False, False),
        (0x4000, True, False),
        (0x4000, False, True),
        (0x4002, True, True),  # a neighbour explains the shape
        (0x4100, True, False),
    ],
)
def test_flags(flags: int, prefilter: bool, good: bool) -> None:
    assert core.good_flags([flags], prefilter=prefilter).tolist() == [good]


@pytest.mark.parametrize(
    ("decs", "surveys"),
    [
        ([35.0], [GAIA, PS1]),
        ([-10.0], [GAIA, PS1, SKYMAPPER, DES]),
        ([-45.0], [GAIA, SKYMAPPER, DES]),
        ([-30.2, -29.9], [GAIA, PS1, SKYMAPPER, DES]),
    ],
)
def test_surveys_by_declination(decs: list[float], surveys: list[object]) -> None:
    assert surveys_for(np.array(decs)) == surveys


def test_magnitudes_of_the_nearest_band_that_is_there() -> None:
    assert core.comparable_columns(PS1, "R")[:2] == ("rmag", "imag")
    assert core.comparable_columns(SKYMAPPER, "g")[0] == "gPSF"
    assert core.comparable_columns(GAIA, "B")[0] == "BPmag"
    assert core.comparable_columns(GAIA, "Ks") == ()
    sources = Table(
        {"RAJ2000": [1.0, 1.0, 1.0], "DEJ2000": [0.0] * 3, "rmag": [17.0, np.nan, np.nan], "imag": [16.0, 16.5, np.nan]}
    )
    mag = core.Known.of("PS1", sources, ("rmag", "imag", "gmag")).mag
    np.testing.assert_array_equal(mag, [17.0, 16.5, np.nan])


def test_reference_stars_are_in_the_images_own_system() -> None:
    stars = Table({"RAJ2000": [1.0, 1.0], "DEJ2000": [0.0, 0.0], "rmag": [17.0, 18.0], "gmag": [18.0, np.nan]})
    solution = {"cat_col_mag": "rmag", "cat_col_color_mag1": "gmag", "cat_col_color_mag2": "rmag", "color_term": -0.2}
    np.testing.assert_allclose(core.reference_stars("x", stars, solution).mag, [17.2, 18.0])
    assert np.isnan(core.reference_stars("x", stars, {}).mag).all()


def test_names_and_regions() -> None:
    table = Table({"ra": [10.684708, 0.0], "dec": [-41.26875, 0.5], "mag_calib": [18.0, 17.0]})
    table = core.brightest(table)
    assert list(table["mag_calib"]) == [17.0, 18.0]
    table["name"] = names_of(table)
    assert list(table["name"]) == ["J000000.00+003000.0", "J004244.33-411607.5"]
    lines = regions(table, 3.8).splitlines()
    assert lines[0].startswith("# Region file format: DS9")
    assert "icrs" in lines
    assert lines[-1] == 'circle(10.684708,-41.268750,3.80") # text={J004244.33-411607.5}'
    assert names_of(table[:0]) == []


@pytest.mark.parametrize(
    ("value", "ids"),
    [("12, 15", (12, 15)), ("7", (7,)), (7, (7,)), ([3, "4"], (3, 4)), ("5 5;6", (5, 6)), ("", ()), (None, ())],
)
def test_other_tasks_are_read_from_what_clients_send(value: object, ids: tuple[int, ...]) -> None:
    assert SimpleTransientsParams.of({"simple_others": value}).other_tasks == ids


@pytest.mark.parametrize(
    "value", ["12, x", "../3", "-1", "0", "1.5", "1e3", True, {"a": 1}, ",".join(map(str, range(1, 30))), "9" * 40]
)
def test_what_is_no_list_of_tasks_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="simple_others"):
        SimpleTransientsParams.of({"simple_others": value})


@pytest.mark.parametrize(
    "bad", [{"simple_sr0": 0}, {"simple_sr0": 200}, {"simple_mag_diff": -1}, {"simple_blends": 0.3}]
)
def test_options_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        SimpleTransientsParams.of(bad)
