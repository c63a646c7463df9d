"""Resampling against truth: flux, place, and masks."""

import numpy as np
import pytest
from astropy.wcs import WCS

from shared.science.templates import pixel_map, reproject
from tests.support.reprojection import Grid, tan, with_sip, with_tpv

SIDE = 320
FLUX = 1e5
FLUX_TOLERANCE = 0.002
PLACE_TOLERANCE_PIX = 0.02

CASES = {
    "same grid": {"scale": 1.0},
    "rotated by 33 degrees": {"scale": 1.0, "rotation_deg": 33.0},
    "almost the same scale": {"scale": 1.06, "rotation_deg": 5.0},
    "two times finer": {"scale": 0.5, "rotation_deg": 20.0},
    "two times coarser": {"scale": 2.0, "rotation_deg": -70.0},
    "four times finer": {"scale": 0.25},
    "six times finer": {"scale": 1 / 6, "rotation_deg": 10.0},
    "seven tenths": {"scale": 0.7, "rotation_deg": 100.0},
    "another parity": {"scale": 1.0, "flipped": True, "rotation_deg": 12.0},
    "another parity and scale": {"scale": 0.5, "flipped": True, "rotation_deg": 190.0},
}


def source_frame(scale: float, **options: object) -> tuple[WCS, tuple[int, int]]:
    """Give a template that covers the target with room to spare, its middle a little off."""
    side = int(1.6 * SIDE / scale)
    return tan(scale, (side, side), ra_deg=150.0007, dec_deg=35.0004, **options), (side, side)


def check(target: WCS, source: WCS, shape: tuple[int, int], fwhm_pix: float) -> None:
    stars = Grid.on(target, (SIDE, SIDE))
    drawn = stars.draw(source, shape, fwhm_pix, FLUX)
    places = pixel_map(target, (SIDE, SIDE), source)
    image, mask = reproject(drawn, np.zeros(shape, bool), places)
    assert not mask.any()
    assert np.isfinite(image).all()
    flux, offset_pix = stars.measure(image, radius_pix=max(4.0, 2.5 * fwhm_pix / places.scale))
    np.testing.assert_allclose(flux, FLUX, rtol=FLUX_TOLERANCE)
    assert offset_pix.max() < PLACE_TOLERANCE_PIX


@pytest.mark.parametrize("case", CASES)
def test_stars_keep_flux_and_place(case):
    source, shape = source_frame(**CASES[case])
    # 2.5 pixels of the finer grid's star: what a good survey gives
    check(tan(1.0, (SIDE, SIDE)), source, shape, fwhm_pix=max(2.5, 2.5 / CASES[case]["scale"] * 0.8))


@pytest.mark.parametrize("bend", [with_sip, with_tpv])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_distortions_of_both_are_followed(bend, scale):
    source, shape = source_frame(scale, rotation_deg=15.0)
    target = with_sip(tan(1.0, (SIDE, SIDE)), (SIDE, SIDE), 3.0)
    check(target, bend(source, shape, 4.0), shape, fwhm_pix=3.0 / scale)


def test_the_grid_is_as_fine_as_the_distortions_need():
    shape = (SIDE, SIDE)
    plain = tan(1.0, shape)
    assert pixel_map(with_sip(plain, shape, 40.0), shape, plain).step_pix == 16
    header = plain.to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header.update({"A_ORDER": 9, "B_ORDER": 9, "A_9_0": 1.0 / 100.0**9, "B_0_9": 1.0 / 100.0**9})
    assert pixel_map(WCS(header), shape, plain).step_pix < 16


def test_pixel_map_is_exact():
    shape = (200, 300)
    target = with_sip(tan(1.0, shape, rotation_deg=7.0), shape, 5.0)
    source = with_sip(tan(0.4, (900, 900), flipped=True), (900, 900), 9.0)
    places = pixel_map(target, shape, source)
    u, v = np.meshgrid(np.arange(300.0), np.arange(200.0))
    x, y = source.all_world2pix(*target.all_pix2world(u.ravel(), v.ravel(), 0), 0)
    ramp_x, ramp_y = (axis.astype(np.float32) for axis in np.meshgrid(np.arange(900.0), np.arange(900.0)))
    for ramp, exact in ((ramp_x, x), (ramp_y, y)):
        found, mask = reproject(ramp, np.zeros(ramp.shape, bool), places)
        ones, _ = reproject(np.ones_like(ramp), np.zeros(ramp.shape, bool), places)
        assert not mask.any()
        assert np.abs((found / ones).ravel() - exact).max() < 0.01  # pixels


def test_flat_light_grows_with_the_pixel():
    target = tan(2.0, (64, 64))
    for scale in (0.5, 1.0, 2.0, 3.0):
        source, shape = tan(scale, (512, 512)), (512, 512)
        image, mask = reproject(
            np.full(shape, 10, np.float32), np.zeros(shape, bool), pixel_map(target, (64, 64), source)
        )
        assert not mask.any()
        np.testing.assert_allclose(image, 10 * (2.0 / scale) ** 2, rtol=1e-4)


def test_the_same_grid_changes_nothing():
    wcs = tan(1.0, (50, 70))
    noise = np.random.default_rng(1).normal(0, 1, (50, 70)).astype(np.float32)
    bad = np.random.default_rng(2).random((50, 70)) < 0.1
    image, mask = reproject(noise, bad, pixel_map(wcs, (50, 70), wcs))
    np.testing.assert_allclose(image, noise, atol=1e-4)
    np.testing.assert_array_equal(mask, bad)


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 1.7])
def test_whatever_a_bad_pixel_touches_is_masked(scale):
    """Where bad pixels hold nonsense, no unmasked pixel may differ from what it is without them."""
    target = tan(1.0, (96, 96))
    shape = (int(150 / scale), int(150 / scale))
    source = tan(scale, shape, rotation_deg=31.0)
    rng = np.random.default_rng(3)
    clean = rng.normal(100, 1, shape).astype(np.float32)
    bad = rng.random(shape) < 0.003 * scale**2
    assert bad.any()
    spoiled = np.where(bad, np.float32(1e6), clean)
    places = pixel_map(target, (96, 96), source)
    expected, _ = reproject(clean, np.zeros(shape, bool), places)
    image, mask = reproject(spoiled, bad, places)
    np.testing.assert_array_equal(image[~mask], expected[~mask])
    assert 0 < mask.mean() < 0.7
    # and each bad pixel is found again at its own place
    rows, columns = np.nonzero(bad)
    x, y = target.all_world2pix(*source.all_pix2world(columns, rows, 0), 0)
    inside = (x > 0) & (x < 95) & (y > 0) & (y < 95)
    assert mask[np.rint(y[inside]).astype(int), np.rint(x[inside]).astype(int)].all()


def test_non_finite_pixels_are_masked_and_do_not_spread():
    target, source = tan(1.0, (64, 64)), tan(1.0, (90, 90), rotation_deg=20.0)
    field = np.full((90, 90), 7, np.float32)
    field[40:44, 40:44], field[50, 50] = np.nan, np.inf
    image, mask = reproject(field, np.zeros((90, 90), bool), pixel_map(target, (64, 64), source))
    assert mask.any()
    np.testing.assert_allclose(image[~mask], 7, rtol=1e-5)
    assert np.isnan(image).sum() < 40
    # masked at its edge, but with the value of what is left
    assert (mask & np.isfinite(image)).any()


def test_what_is_outside_is_masked_and_empty():
    target = tan(1.0, (100, 100))
    source = tan(1.0, (100, 100), ra_deg=150.0 + 40 / 3600 / np.cos(np.radians(35)))
    image, mask = reproject(
        np.ones((100, 100), np.float32), np.zeros((100, 100), bool), pixel_map(target, (100, 100), source)
    )
    # the source begins 40 pixels further east, on the left; its outer pixels have too few neighbours
    assert mask.mean() == pytest.approx(0.43, abs=0.03)
    assert np.isnan(image[50, 80])
    assert mask[50, 80]
    assert image[50, 30] == pytest.approx(1, abs=1e-4)
    far = tan(1.0, (100, 100), ra_deg=330.0, dec_deg=-35.0)
    image, mask = reproject(
        np.ones((100, 100), np.float32), np.zeros((100, 100), bool), pixel_map(target, (100, 100), far)
    )
    assert mask.all()
    assert np.isnan(image).all()


def test_threads_give_the_same():
    target, source = tan(1.0, (256, 256)), tan(0.9, (400, 400), rotation_deg=3.0)
    noise = np.random.default_rng(1).normal(0, 1, (400, 400)).astype(np.float32)
    bad = np.random.default_rng(2).random((400, 400)) < 0.01
    places = pixel_map(target, (256, 256), source)
    one, three = (reproject(noise, bad, places, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one[0], three[0])
    np.testing.assert_array_equal(one[1], three[1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 3)])
def test_tiny_frames(shape):
    target = tan(1.0, shape)
    source = tan(1.0, (100, 100))
    image, mask = reproject(
        np.ones((100, 100), np.float32), np.zeros((100, 100), bool), pixel_map(target, shape, source)
    )
    assert not mask.any()
    np.testing.assert_allclose(image, 1, rtol=1e-4)
    image, mask = reproject(np.ones(shape, np.float32), np.zeros(shape, bool), pixel_map(source, (100, 100), target))
    assert mask.sum() >= 100 * 100 - shape[0] * shape[1]
