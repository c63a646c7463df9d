"""Aperture photometry against analytic truth."""

import numpy as np
import pytest

from shared.science import aperture, limits

FWHM_PIX = 3.5
SIGMA_PIX = FWHM_PIX / 2.3548


def gaussian_stars(x: np.ndarray, y: np.ndarray, flux: float, size: int) -> np.ndarray:
    """Draw round Gaussian stars, averaged over each pixel."""
    offsets = (np.arange(5) - 2) / 5
    grid_y, grid_x = np.mgrid[0:size, 0:size].astype(float)
    image = np.zeros((size, size))
    for px, py in zip(x, y, strict=True):
        for dy in offsets:
            for dx in offsets:
                r2 = (grid_x + dx - px) ** 2 + (grid_y + dy - py) ** 2
                image += flux / 25 / (2 * np.pi * SIGMA_PIX**2) * np.exp(-r2 / (2 * SIGMA_PIX**2))
    return image


def measure(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, rms: float = 1.0, **options: object
) -> aperture.Photometry:
    options = {"radius_pix": 5.0, "annulus_pix": (12.0, 18.0), "gain": 2.0} | options
    mask = options.pop("mask", np.zeros(image.shape, bool))
    return aperture.measure(image.astype(np.float32), np.full(image.shape, rms, np.float32), mask, x, y, **options)


def test_area_of_the_aperture_is_that_of_a_circle() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(20, 40, (2, 50))
    found = measure(np.ones((60, 60)), x, y, radius_pix=3.3)
    np.testing.assert_allclose(found.npix, np.pi * 3.3**2, rtol=1e-6)


@pytest.mark.parametrize("radius", [0.3, 1.0, 7.5])
def test_area_holds_for_any_radius(radius: float) -> None:
    found = measure(np.ones((60, 60)), np.array([30.2]), np.array([29.7]), radius_pix=radius)
    assert found.npix[0] == pytest.approx(np.pi * radius**2, rel=1e-6)


def test_flux_of_a_gaussian_wherever_in_the_pixel_and_whatever_the_sky() -> None:
    rng = np.random.default_rng(2)
    for level in (0.0, 250.0):
        x, y = rng.uniform(39.5, 40.5, (2, 1))
        image = gaussian_stars(x, y, 1000.0, 81) + level
        found = measure(image, x, y)
        expected = 1000 * (1 - np.exp(-25 / (2 * SIGMA_PIX**2)))
        assert found.flux[0] == pytest.approx(expected, rel=2e-3)
        assert found.sky[0] == pytest.approx(level, abs=0.02)
        assert found.flags[0] == 0


@pytest.mark.parametrize("optimal", [None, FWHM_PIX])
def test_quoted_errors_are_the_scatter(optimal: float | None) -> None:
    rng = np.random.default_rng(3)
    gain, sky = 2.0, 100.0
    places = np.arange(30, 570, 45.0)
    x, y = (axis.ravel() for axis in np.meshgrid(places, places))
    clean = np.zeros((600, 600))
    stamp = gaussian_stars(np.array([20.0]), np.array([20.0]), 1500.0, 41)
    for px, py in zip(x.astype(int), y.astype(int), strict=True):
        clean[py - 20 : py + 21, px - 20 : px + 21] += stamp
    image = rng.poisson((clean + sky) * gain) / gain - sky
    found = measure(image, x, y, rms=np.sqrt(sky / gain), gain=gain, optimal_fwhm_pix=optimal)
    assert np.std(found.flux) / np.median(found.fluxerr) == pytest.approx(1.0, abs=0.15)
    assert np.mean(found.flux) == pytest.approx(1500, rel=0.02)


def test_optimal_weights_do_better_on_faint_stars() -> None:
    found = [
        measure(
            gaussian_stars(np.array([40.0]), np.array([40.0]), 50.0, 81),
            np.array([40.0]),
            np.array([40.0]),
            10.0,
            optimal_fwhm_pix=fwhm,
        ).fluxerr[0]
        for fwhm in (None, FWHM_PIX)
    ]
    assert found[1] < 0.8 * found[0]


def test_sky_ignores_stars_in_the_annulus() -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(50, 3, (101, 101)) + gaussian_stars(np.array([65.0, 50.0]), np.array([50.0, 36.0]), 3000.0, 101)
    found = measure(image, np.array([50.0]), np.array([50.0]), rms=3.0)
    assert found.sky[0] == pytest.approx(50, abs=0.5)


def test_sky_of_a_crowded_field_is_right_and_nearly_as_sure_as_a_mean() -> None:
    rng = np.random.default_rng(6)
    size, noise = 700, 20.0
    image = rng.normal(300, noise, (size, size))
    # sources too faint to be detected, each spread over 3 × 3 pixels; they lift the mean by 0.66
    for row, column, peak in zip(*rng.integers(1, size - 1, (2, 900)), rng.exponential(40.0, 900), strict=True):
        image[row - 1 : row + 2, column - 1 : column + 2] += peak
    x, y = rng.uniform(40, size - 40, (2, 600))
    found = measure(image, x, y, rms=noise, radius_pix=4.0, annulus_pix=(19.0, 26.0), gain=1e9)
    pixels = np.pi * (26**2 - 19**2)
    assert np.median(found.sky) == pytest.approx(300, abs=0.33)
    assert np.std(found.sky) < 1.3 * noise / np.sqrt(pixels)
    one = measure(image, x[:1], y[:1], rms=noise, radius_pix=4.0, annulus_pix=(19.0, 26.0), gain=1e9, skew=found.skew)
    assert one.sky[0] == pytest.approx(found.sky[0], abs=1e-6)
    assert one.fluxerr[0] == pytest.approx(found.fluxerr[0], rel=1e-6)


def test_sky_follows_the_crowding_of_a_field() -> None:
    rng = np.random.default_rng(7)
    size, noise = 900, 20.0
    image = rng.normal(300, noise, (size, size))
    # faint sources as above, but on one half only, where they lift the mean by 0.9
    rows, columns = rng.integers(1, (size - 1, size // 2), (3000, 2)).T
    for row, column, peak in zip(rows, columns, rng.exponential(40.0, 3000), strict=True):
        image[row - 1 : row + 2, column - 1 : column + 2] += peak
    x, y = rng.uniform(40, size - 40, (2, 1500))
    found = measure(image, x, y, rms=noise, radius_pix=4.0, annulus_pix=(19.0, 26.0), gain=1e9)
    for half in (x < 0.4 * size, x > 0.6 * size):
        assert np.median(found.sky[half]) == pytest.approx(300, abs=0.33)


def test_flags_say_what_was_wrong() -> None:
    image = np.ones((60, 60))
    image[:, 40:] = np.nan
    mask = ~np.isfinite(image)
    mask[20, 20] = True
    x, y = np.array([20.0, 30.0, np.nan, 50.0, 500.0]), np.array([20.0, 30.0, 30.0, 30.0, 500.0])
    found = measure(image, x, y, mask=mask, annulus_pix=(6.0, 9.0))
    assert found.flags[0] == aperture.FLAG_MASKED_APERTURE
    assert np.isfinite(found.flux[0])
    assert found.flags[1] == 0
    assert found.flags[2] & aperture.FLAG_NOT_MEASURED
    assert found.flags[3] & aperture.FLAG_NOT_MEASURED
    assert found.flags[4] & aperture.FLAG_NO_LOCAL_SKY
    assert np.isnan(found.flux[4])


def test_limiting_flux_has_the_signal_to_noise_it_is_named_for() -> None:
    flux = limits.limiting_flux(20.0, 1.5, 5.0)
    assert limits.signal_to_noise(np.array([flux]), 20.0, 1.5)[0] == pytest.approx(5.0)


def test_aperture_noise_of_an_empty_image() -> None:
    rng = np.random.default_rng(5)
    image = rng.normal(0, 4, (300, 300)).astype(np.float32)
    noise = limits.aperture_noise(
        image,
        np.full_like(image, 4),
        np.zeros(image.shape, bool),
        radius_pix=4,
        annulus_pix=(12, 20),
        gain=1e9,
    )
    x, y = rng.uniform(25, 275, (2, 2000))
    found = measure(image, x, y, rms=4.0, radius_pix=4, annulus_pix=(12, 20), gain=1e9)
    assert noise == pytest.approx(np.std(found.flux), rel=0.1)


def test_aperture_noise_of_nothing_is_unknown() -> None:
    image = np.ones((30, 30), np.float32)
    options = {"radius_pix": 2.0, "annulus_pix": (4.0, 6.0), "gain": 1.0}
    assert np.isnan(limits.aperture_noise(image, image, np.ones(image.shape, bool), **options))
