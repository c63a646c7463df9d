"""The zero-point model: fit, reduction, storage."""

import json
from dataclasses import replace

import numpy as np
import pytest

from shared.errors import DataError
from shared.science.matching import blended, correlation_p_value, match_sky
from shared.science.zeropoint import Calibrators, Terms, ZeroPoint, fit_zero_point, powers

SHAPE = (1000, 1400)


def made_up(
    count: int = 600,
    *,
    color_term: float = -0.07,
    offset_adu: float = 0.0,
    slope: float = 0.0,
    intrinsic: float = 0.0,
    outliers: float = 0.0,
    seed: int = 1,
) -> Calibrators:
    """Make pairs that follow zp = 25 + 0.04 u - 0.02 v - 0.06 u v."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SHAPE[1], count), rng.uniform(0, SHAPE[0], count)
    color = rng.normal(0.8, 0.4, count)
    u, v = (x - 699.5) / 700, (y - 499.5) / 700
    cat_mag = rng.uniform(13, 18, count)
    natural = cat_mag - color_term * color
    mag = natural - (25 + 0.04 * u - 0.02 * v - 0.06 * u * v)
    flux = 10 ** (-0.4 * mag)
    mag = -2.5 * np.log10(flux + offset_adu)
    mag = mag - slope * (mag - np.median(mag))
    magerr, cat_magerr = 0.003 + 0.02 * 10 ** (0.4 * (cat_mag - 18)), np.full(count, 0.004)
    mag = mag + rng.normal(0, 1, count) * np.hypot(magerr, intrinsic)
    bad = rng.random(count) < outliers
    mag[bad] += rng.uniform(-2, 2, bad.sum())
    index = np.arange(count)
    return Calibrators(
        objects=index,
        stars=index,
        distance_arcsec=np.zeros(count),
        x=x,
        y=y,
        mag=mag,
        magerr=magerr,
        cat_mag=cat_mag + rng.normal(0, 1, count) * cat_magerr,
        cat_magerr=cat_magerr,
        color=color,
        good=np.ones(count, bool),
    )


def silent(_: str) -> None:
    return None


def test_recovers_what_was_put_in_despite_outliers() -> None:
    fit = fit_zero_point(made_up(outliers=0.15), Terms(spatial_order=2), SHAPE, log=silent)
    model = fit.model
    assert model.evaluate(699.5, 499.5)[0] == pytest.approx(25, abs=0.003)
    assert model.evaluate(1399, 0)[0] == pytest.approx(
        25 + 0.04 * 0.9993 + 0.02 * 0.7129 + 0.06 * 0.9993 * 0.7129, abs=0.006
    )
    assert model.color_term == pytest.approx(-0.07, abs=4 * model.color_term_err)
    assert model.color_term_err < 0.003
    assert model.used < 580


def test_error_of_the_zero_point_is_its_scatter_over_trials() -> None:
    models = [fit_zero_point(made_up(60, seed=seed), Terms(1), SHAPE, log=silent).model for seed in range(60)]
    values = [model.evaluate(1200, 900)[0] for model in models]
    quoted = np.median([model.error(1200, 900)[0] for model in models])
    assert np.std(values) / quoted == pytest.approx(1.0, abs=0.3)


def test_intrinsic_scatter_is_found() -> None:
    with_scatter = fit_zero_point(made_up(2000, intrinsic=0.02), Terms(), SHAPE, log=silent).model
    without = fit_zero_point(made_up(2000), Terms(), SHAPE, log=silent).model
    assert with_scatter.intrinsic_rms == pytest.approx(0.02, abs=0.003)
    assert without.intrinsic_rms < 0.003


def test_additive_term_is_found() -> None:
    pairs = made_up(3000, offset_adu=12.0)
    plain = fit_zero_point(pairs, Terms(2), SHAPE, log=silent)
    fit = fit_zero_point(pairs, Terms(2, bg_order=0), SHAPE, log=silent)
    faint = pairs.cat_mag > 17.5
    assert fit.model.coefficients[len(powers(2))] == pytest.approx(-12.0, abs=1.5)
    assert abs(np.median((pairs.zero - fit.values)[faint])) < 0.5 * abs(np.median((pairs.zero - plain.values)[faint]))


def test_nonlinearity_is_found() -> None:
    fit = fit_zero_point(made_up(2000, slope=0.02), Terms(2, nonlin=True), SHAPE, log=silent)
    assert fit.model.coefficients[-1] == pytest.approx(0.02 / 0.98, abs=0.002)
    assert fit.model.evaluate(699.5, 499.5)[0] == pytest.approx(25, abs=0.01)


def test_forced_color_term_is_used_and_not_fitted() -> None:
    fit = fit_zero_point(made_up(color_term=0.1), Terms(color=False), SHAPE, color_term=0.1, log=silent)
    assert (fit.model.color_term, fit.model.color_term_err) == (0.1, 0.0)
    assert fit.model.evaluate(699.5, 499.5)[0] == pytest.approx(25, abs=0.003)


def test_without_color_term_the_mean_color_goes_into_the_zero_point() -> None:
    fit = fit_zero_point(made_up(), Terms(color=False), SHAPE, log=silent)
    assert fit.model.color_term == 0
    assert fit.model.evaluate(699.5, 499.5)[0] == pytest.approx(25 - 0.07 * 0.8, abs=0.01)


@pytest.mark.parametrize("count", [3, 4, 6, 9, 14, 25])
def test_few_stars_reduce_the_model_and_the_log_says_so(count: int) -> None:
    lines: list[str] = []
    asked = Terms(spatial_order=4, bg_order=1, nonlin=True)
    fit = fit_zero_point(made_up(count), asked, SHAPE, log=lines.append)
    assert 2 * fit.model.terms.count() <= count
    assert any("reduced to" in line for line in lines)
    assert fit.model.evaluate(699.5, 499.5)[0] == pytest.approx(25, abs=0.15)


def test_too_few_stars_are_an_error_that_says_how_many() -> None:
    with pytest.raises(DataError, match="Only 2 good stars match the catalogue, of 2 that match at all"):
        fit_zero_point(made_up(2), Terms(), SHAPE, log=silent)


def test_stars_of_one_color_drop_the_color_term() -> None:
    pairs = replace(made_up(100), color=np.full(100, 0.8))
    lines: list[str] = []
    assert not fit_zero_point(pairs, Terms(), SHAPE, log=lines.append).model.terms.color
    assert lines


def test_json_round_trip_gives_the_same_zero_points() -> None:
    model = fit_zero_point(made_up(), Terms(3, bg_order=1, nonlin=True), SHAPE, log=silent).model
    again = ZeroPoint.from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
    x, y, mag = np.array([10.0, 700.0]), np.array([900.0, 3.0]), np.array([-9.0, -12.0])
    assert again == model
    np.testing.assert_array_equal(again.evaluate(x, y, mag), model.evaluate(x, y, mag))
    np.testing.assert_array_equal(again.error(x, y, mag), model.error(x, y, mag))


@pytest.mark.parametrize(
    "change", [{"version": 9}, {"coefficients": [1.0]}, {"x0": "here"}, {"terms": {"order": 1}}, {"terms": 3}]
)
def test_other_json_is_refused(change: dict[str, object]) -> None:
    data = fit_zero_point(made_up(), Terms(), SHAPE, log=silent).model.to_json()
    with pytest.raises(DataError, match="run the photometry step again"):
        ZeroPoint.from_json(data | change)


def test_matching_is_one_to_one_and_takes_the_closest() -> None:
    ra, dec = np.array([10.0, 10.0002, 359.9999, np.nan]), np.array([89.0, 89.0, 0.0, 5.0])
    first, second, distance = match_sky(ra, dec, np.array([10.0001, 0.0]), np.array([89.0, 0.0]), 5 / 3600)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) in ([(0, 0), (2, 1)], [(1, 0), (2, 1)])
    assert distance.max() * 3600 == pytest.approx(0.36, abs=0.01)


def test_matching_of_nothing() -> None:
    assert all(len(part) == 0 for part in match_sky([], [], [1.0], [2.0], 0.1))


def test_blends_count_the_sum_of_neighbours() -> None:
    dec = np.array([0.0, 0.001, 0.002, 1.0])
    mag = np.array([15.0, 19.5, 15.5, np.nan])
    assert blended(np.zeros(4), dec, mag, 0.0015, 0.03).tolist() == [False, True, False, False]
    assert blended(np.zeros(4), dec, mag, 0.0025, 0.03).tolist() == [True, True, True, False]


def test_correlation_tells_related_from_unrelated_magnitudes() -> None:
    rng = np.random.default_rng(1)
    mag = rng.uniform(12, 18, 100)
    assert correlation_p_value(mag, mag + rng.normal(0, 0.5, 100)) < 1e-6
    assert correlation_p_value(mag, rng.uniform(12, 18, 100)) > 0.01
    assert correlation_p_value(mag, -mag) > 0.99
    assert correlation_p_value(mag[:4], mag[:4]) == 1
