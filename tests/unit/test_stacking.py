"""Stacks of simulated exposures: fluxes, noise, positions, gain, cosmic rays, all against what was put in."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from pydantic import ValidationError

from shared.contracts.params import StackParams
from shared.science.stacking_combine import clip_tolerance, combine, median_loss
from shared.science.stacking_grid import place, resample, wcs_transform
from shared.science.stacking_stars import find_stars
from shared.taskdir import open_data
from tests.support.stacking import (
    GAIN,
    SATURATION,
    SKY,
    Exposure,
    Sky,
    Stacking,
    fluxes,
    header,
    run_stack,
    sky,
    wcs_of,
)

SHIFTS = [(0.0, 0.0), (3.3, -2.7), (-5.5, 4.2), (8.0, 1.0), (0.5, 0.5)]
ANGLES = [0.0, 5.0, -12.0, 90.0, 180.0]
TOTALS = {"sum": 5, "clipped_mean": 1, "median": 1}
APERTURE_PIX = 8.0


@pytest.fixture(scope="module")
def stars() -> Sky:
    return sky()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, stars: Sky) -> Path:
    """Five exposures, shifted and turned, in two versions: as they are, and with cosmic rays."""
    root = tmp_path_factory.mktemp("stacking")
    for number, (shift, angle) in enumerate(zip(SHIFTS, ANGLES, strict=True)):
        one = Exposure(seed=number, shift=shift, angle_deg=angle)
        one.write(root / "data" / f"{number}.fits", stars)
        one.cosmics = 40
        one.write(root / "data" / f"cosmic{number}.fits", stars)
    return root


@pytest.fixture(scope="module")
def clean(stars: Sky) -> np.ndarray:
    """The first exposure as it would be without sky and noise."""
    return Exposure(noise=False, sky=0).pixels(stars).astype(float)


def names(stem: str = "") -> list[str]:
    return [f"{stem}{number}.fits" for number in range(5)]


def check_photometry(result: Stacking, clean: np.ndarray, stars: Sky, total: float, tolerance: float = 0.003) -> None:
    wcs = wcs_of(Exposure().header())
    truth, there = fluxes(clean, wcs, stars, APERTURE_PIX)
    flux, whole = fluxes(result.image, wcs, stars, APERTURE_PIX)
    used = there & whole & (truth > 2e4)
    assert used.sum() > 12
    assert np.median(flux[used] / truth[used]) == pytest.approx(total, rel=tolerance)


def spread(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


@pytest.mark.parametrize("method", TOTALS)
def test_sums_add_and_means_keep_fluxes_and_positions(folder: Path, stars: Sky, clean: np.ndarray, method: str) -> None:
    result = run_stack(folder, *names(), stack_method=method)
    check_photometry(result, clean, stars, TOTALS[method])
    # positions, against the truth on the sky
    found = find_stars(np.nan_to_num(result.image).astype(np.float32), ~np.isfinite(result.image), 10.0)
    x, y = wcs_of(result.header).all_world2pix(stars.ra, stars.dec, 0)
    separation = np.hypot(found.x[:, None] - x, found.y[:, None] - y)
    nearest = separation.argmin(axis=1)
    close = separation.min(axis=1) < 1
    assert close.sum() > 25
    off_mas = 1000 * np.array([found.x - x[nearest], found.y - y[nearest]])[:, close]  # a pixel is an arcsecond
    assert np.abs(np.median(off_mas, axis=1)).max() < 10
    assert np.median(np.hypot(*off_mas)) < 20


@pytest.mark.parametrize("method", TOTALS)
def test_the_gain_gives_the_noise_of_photons(tmp_path: Path, method: str) -> None:
    # whole pixels apart, so that nothing is interpolated, and flat, so that all noise is that of photons
    none = Sky(np.zeros(0), np.zeros(0), np.zeros(0))
    for number in range(5):
        Exposure(seed=number, shift=(2.0 * number, -number), sky=2000.0).write(
            tmp_path / "data" / f"{number}.fits", none
        )
    result = run_stack(tmp_path, *names(), stack_method=method, stack_subtract_bg=False)
    whole = result.image[result.coverage == 5]
    assert np.median(whole) == pytest.approx(2000 * TOTALS[method], rel=1e-3)
    assert np.var(whole) == pytest.approx(np.mean(whole) / result.header["GAIN"], rel=0.03)
    nominal = {"sum": GAIN, "clipped_mean": 5 * GAIN, "median": 5 * GAIN / 1.434}[method]
    assert result.header["GAIN"] == pytest.approx(nominal, rel=0.01)


def test_interpolation_keeps_the_noise_of_apertures(tmp_path: Path) -> None:
    none = Sky(np.zeros(0), np.zeros(0), np.zeros(0))
    for number in range(4):
        shift = (0.3 * number, 0.25 * number)
        Exposure(seed=number, shift=shift, angle_deg=3.0 * number).write(tmp_path / "data" / f"{number}.fits", none)
    result = run_stack(tmp_path, *(f"{number}.fits" for number in range(4)))
    part = result.image[20:300, 20:300]
    per_pixel = 4**0.5 * (SKY / GAIN) ** 0.5
    assert 0.8 * per_pixel < spread(part) < per_pixel  # neighbours share noise
    sums = part.reshape(28, 10, 28, 10).sum(axis=(1, 3))
    assert spread(sums) == pytest.approx(10 * per_pixel, rel=0.1)


@pytest.mark.parametrize("method", ["clipped_mean", "median"])
def test_cosmic_rays_are_rejected(folder: Path, stars: Sky, clean: np.ndarray, method: str) -> None:
    hit = run_stack(folder, *names("cosmic"), stack_method=method)
    check_photometry(hit, clean, stars, 1)
    empty = (clean < 1) & (hit.coverage >= 3)
    assert np.abs(hit.image[empty]).max() < 8 * spread(hit.image[empty])
    summed = run_stack(folder, *names("cosmic"))
    assert np.abs(summed.image[empty]).max() > 50 * spread(summed.image[empty])


def test_cosmic_rays_can_be_masked_in_each_image(folder: Path, stars: Sky, clean: np.ndarray) -> None:
    result = run_stack(folder, *names("cosmic"), stack_mask_cosmics=True)
    check_photometry(result, clean, stars, 5)
    empty = (clean < 1) & (result.coverage >= 3)
    assert np.abs(result.image[empty]).max() < 8 * spread(result.image[empty])
    assert result.says("hit by cosmic rays")


def test_the_header_says_what_all_images_make(folder: Path) -> None:
    result = run_stack(folder, *names())
    assert (result.header["NCOMBINE"], result.header["EXPTIME"], result.header["GAIN"]) == (5, 150.0, GAIN)
    assert result.header["DATE-OBS"] == "2026-10-15T22:02:00.000"
    assert result.header["DATE-END"] == "2026-10-15T22:04:30.000"
    assert result.header["SATURATE"] == pytest.approx(5 * (SATURATION - SKY), rel=1e-3)
    assert result.header["FILTER"] == "r"
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        assert result.header[key] == fits.getheader(folder / "data" / "0.fits")[key]
    assert result.coverage.dtype.kind == "i"
    assert result.coverage.max() == 5
    # a corner that the turned images do not reach has the same flux scale, by fewer images
    assert result.coverage.min() < 5
    assert np.isfinite(result.image[result.coverage > 0]).all()
    mean = run_stack(folder, *names(), stack_method="clipped_mean")
    assert (mean.header["EXPTIME"], mean.header["TOTEXP"]) == (30.0, 150.0)


@pytest.mark.parametrize(
    "other",
    [
        {"scale": 2.0, "shape": (160, 160)},
        {"scale": 0.6, "shape": (500, 620), "shift": (3.3, 2.1)},
        {"mirrored": True, "angle_deg": 33.0},
        {"flux_scale": 0.6},
        {"sky": 3000.0},
        {"fwhm_arcsec": 3.6, "shift": (0.4, 0.4)},
    ],
    ids=lambda other: next(iter(other)),
)
@pytest.mark.parametrize("with_wcs", [True, False])
def test_other_pixels_parity_transparency_sky_and_seeing(
    folder: Path, stars: Sky, clean: np.ndarray, other: dict, with_wcs: bool
) -> None:
    one = Exposure(seed=9, **other)
    path = one.write(folder / "data" / "other.fits", stars)
    if not with_wcs:
        image, cards = fits.getdata(path), fits.getheader(path)
        for key in [key for key in cards if key.startswith(("CTYPE", "CRVAL", "CRPIX", "CD"))]:
            del cards[key]
        fits.PrimaryHDU(image, cards).writeto(path, overwrite=True)
    result = run_stack(folder, "0.fits", "1.fits", "other.fits", stack_method="clipped_mean")
    expected = clean
    if "fwhm_arcsec" in other:
        expected = (2 * clean + Exposure(noise=False, sky=0, fwhm_arcsec=3.6).pixels(stars)) / 3
    check_photometry(result, expected, stars, (2 + other.get("flux_scale", 1)) / 3)
    assert result.header["NCOMBINE"] == 3
    assert result.says("aligned by world coordinates" if with_wcs else "stars", "other.fits: aligned by")
    assert result.says("times as bright") == ("flux_scale" in other)


def test_a_wrong_solution_is_found_out_by_the_stars(folder: Path, stars: Sky, clean: np.ndarray) -> None:
    one = Exposure(seed=8, shift=(4.0, 2.0))
    wrong = one.header()["CRPIX1"] + 12
    Exposure(seed=8, shift=(4.0, 2.0), cards={"CRPIX1": wrong}).write(folder / "data" / "wrong.fits", stars)
    result = run_stack(folder, "0.fits", "1.fits", "wrong.fits")
    assert result.says("its world coordinates disagree with 0.fits")
    check_photometry(result, clean, stars, 3)


def test_backgrounds_that_are_kept_add_up_without_steps(folder: Path, stars: Sky, clean: np.ndarray) -> None:
    Exposure(seed=7, sky=1500.0, shift=(60.0, 40.0)).write(folder / "data" / "moon.fits", stars)
    result = run_stack(folder, "0.fits", "moon.fits", stack_subtract_bg=False)
    one, both = (np.median(result.image[(result.coverage == n) & (clean < 1)]) for n in (1, 2))
    assert both == pytest.approx(SKY + 1500, rel=5e-3)
    assert one == pytest.approx(both, abs=5)
    assert result.header["SATURATE"] == pytest.approx(2 * (SATURATION - 1500) + SKY + 1500, rel=1e-3)
    check_photometry(result, clean, stars, 2)


def test_what_is_saturated_in_an_image_is_saturated_in_the_stack(folder: Path, stars: Sky) -> None:
    for number in range(3):
        image = Exposure(seed=number).pixels(stars)
        cards = Exposure(seed=number, cards={"SATURATE": 6000.0}).header()
        fits.PrimaryHDU(np.minimum(image, 6000), cards).writeto(folder / "data" / f"full{number}.fits", overwrite=True)
    full = Exposure(seed=0).pixels(stars) >= 6000
    assert full.sum() > 20
    for method in TOTALS:
        result = run_stack(folder, "full0.fits", "full1.fits", "full2.fits", stack_method=method)
        level = result.header["SATURATE"]
        assert (result.image[full] >= level).mean() > 0.95
        assert (result.image[~full] < level).mean() > 0.999


@pytest.mark.parametrize("kind", ["unsigned", "scaled", "compressed", "gzipped", "extension", "doubles", "blank"])
def test_pixels_of_every_kind(folder: Path, stars: Sky, clean: np.ndarray, kind: str) -> None:
    image, cards = Exposure(seed=5).pixels(stars), Exposure(seed=5).header()
    path = folder / "data" / ("kind.fits.gz" if kind == "gzipped" else "kind.fits")
    match kind:
        case "unsigned":
            fits.PrimaryHDU(np.clip(image, 0, 65535).round().astype(np.uint16), cards).writeto(path, overwrite=True)
        case "scaled":
            hdu = fits.PrimaryHDU(image, cards)
            hdu.scale("int16", bzero=30000.0, bscale=1.0)
            hdu.writeto(path, overwrite=True)
        case "compressed":
            whole = np.clip(image, 0, 65535).round().astype(np.int32)
            parts = [fits.PrimaryHDU(), fits.CompImageHDU(whole, cards, compression_type="RICE_1")]
            fits.HDUList(parts).writeto(path, overwrite=True)
        case "extension":
            fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, cards)]).writeto(path, overwrite=True)
        case "doubles":
            fits.PrimaryHDU(image.astype(np.float64), cards).writeto(path, overwrite=True)
        case "blank":
            image[100:140, :50] = np.nan
            image[0, 0] = np.inf
            fits.PrimaryHDU(image, cards).writeto(path, overwrite=True)
        case _:
            fits.PrimaryHDU(image, cards).writeto(path, overwrite=True)
    result = run_stack(folder, "0.fits", "1.fits", path.name)
    check_photometry(result, clean, stars, 3)
    if kind == "blank":
        assert result.coverage[110:130, 5:45].max() == 2
    assert result.coverage[150, 150] == 3


def test_paths_stay_in_the_shared_data_directory(tmp_path: Path) -> None:
    (tmp_path / "data" / "night").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "data" / "night" / "a.fits").write_text("a")
    (tmp_path / "data" / "link.fits").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "out").symlink_to(tmp_path)
    with open_data(tmp_path, "night/a.fits") as path:
        assert path.read_text() == "a"
    for name in ("../secret", "link.fits", "out/secret", "night", "night/../night/a.fits", "/etc/passwd", "gone", ""):
        with pytest.raises(FileNotFoundError), open_data(tmp_path, name):
            pass
    for name in ("../a", "/etc/passwd", "a/../b", ".hidden", "a\\b", "a\0b", "a//b", ""):
        with pytest.raises(ValidationError):
            StackParams.of({"stack_filenames": ["good.fits", name]})


def test_a_clipped_mean_of_normal_noise_loses_nothing() -> None:
    random = np.random.default_rng(3)
    strip = random.normal(0, 5, (6, 100, 100)).astype(np.float32)
    options = {"scales": np.ones(6), "noise_adu": np.full(6, 5.0), "gains": np.ones(6)}
    flux, coverage = combine(strip, "clipped_mean", **options)
    assert (coverage == 6).mean() > 0.999
    assert np.std(flux) == pytest.approx(5 / 6**0.5, rel=0.02)
    middle, _ = combine(strip, "median", **options)
    assert np.var(middle) == pytest.approx(median_loss(6) * 25 / 6, rel=0.04)
    assert clip_tolerance(np.array([3.0, np.nan, 3.0])) == pytest.approx(0.2)


def test_resampling_keeps_fluxes_and_knows_edges() -> None:
    random = np.random.default_rng(4)
    image = random.normal(0, 1, (64, 48)).astype(np.float32)
    flags = np.zeros(image.shape, np.uint8)
    flags[30, 20] = 1
    moved, _ = resample(image, flags, place(lambda x, y: (x + 3, y - 2), (64, 48)))
    assert np.array_equal(moved[40, :40], image[38, 3:43])
    assert np.isnan(moved[:2]).all()
    assert np.isnan(moved[:, 45:]).all()
    assert np.isnan(moved[32, 17])
    assert np.isfinite(moved[2:, :45]).sum() == 62 * 45 - 1
    here, there = WCS(header((64, 48))), WCS(header((64, 48), crpix=(1000.0, 1000.0)))
    placement = place(wcs_transform(here, there), (64, 48))
    assert not np.isfinite(resample(image, flags, placement)[0]).any()
