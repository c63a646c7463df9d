import astroscrappy
import numpy as np
import pytest

from shared.science.cosmics import cosmic_rays
from shared.science.masks import background_maps, build_mask
from tests.support import fits as made


def hits(image, seed=3, count=40):
    """Add short bright tracks, one pixel wide."""
    random = np.random.default_rng(seed)
    truth = np.zeros(image.shape, bool)
    for x, y, angle in zip(*random.integers(15, 240, (2, count)), random.uniform(0, np.pi, count), strict=True):
        for step in range(random.integers(1, 8)):
            truth[int(y + step * np.sin(angle)), int(x + step * np.cos(angle))] = True
    return image + np.where(truth, 800, 0).astype(np.float32), truth


def found_in(image):
    mask = ~np.isfinite(image)
    return cosmic_rays(image, mask, *background_maps(image, mask), made.GAIN)


def test_tracks_are_found_and_stars_are_left():
    image, truth = hits(made.field(stars=60))
    found = found_in(image)
    assert (found & truth).sum() > 0.97 * truth.sum()
    # tracks are grown by the pixels beside them that stand out, too
    assert (found & ~truth).sum() < 0.25 * truth.sum()


def test_stars_alone_are_no_cosmic_rays():
    assert found_in(made.field(stars=60)).sum() <= 5


def test_edges_and_masked_pixels():
    image = made.field()
    image[0, 100] += 2000
    image[255, 0] += 2000
    image[50:60] = np.nan
    found = found_in(image)
    assert found[0, 100]
    assert found[255, 0]
    assert not found[50:60].any()


def test_a_noiseless_image_has_none():
    assert not cosmic_rays(
        np.ones((32, 32), np.float32),
        np.zeros((32, 32), bool),
        np.ones((32, 32), np.float32),
        np.zeros((32, 32), np.float32),
        1.0,
    ).any()


def test_mask_tells_its_parts():
    image, truth = hits(made.field())
    image[5, 5] = np.inf
    image[7, 7:9] = 60_000
    lines: list[str] = []
    mask = build_mask(image, 57_000, made.GAIN, custom=None, mask_cosmics=True, log=lines.append)
    assert mask[5, 5]
    assert mask[7, 7:9].all()
    assert (mask & truth).sum() > 0.97 * truth.sum()
    # infinity is above any level
    assert [line.split(" pixels")[0] for line in lines[:2]] == ["Mask: 1", "Mask: 3"]


def moffat_field(fwhm_pix, seed, size=256):
    """Stars of any brightness anywhere within their pixels, on a sky of 200 ADU; and the pixels of their cores."""
    random = np.random.default_rng(seed)
    width = fwhm_pix / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
    fine = (np.arange(5) - 2) / 5
    rows, columns = np.mgrid[:size, :size].astype(float)
    clean, cores = np.full((size, size), 200.0), np.zeros((size, size), bool)
    for x, y, flux in zip(*random.uniform(10, size - 10, (2, 40)), 10 ** random.uniform(3, 5.3, 40), strict=True):
        box = np.s_[int(y) - 10 : int(y) + 11, int(x) - 10 : int(x) + 11]
        for dy in fine:
            for dx in fine:
                r2 = (columns[box] + dx - x) ** 2 + (rows[box] + dy - y) ** 2
                clean[box] += flux / 25 * 2.5 / (np.pi * width**2) * (1 + r2 / width**2) ** -3.5
        cores |= np.hypot(columns - x, rows - y) < fwhm_pix
    image = random.normal(clean, np.sqrt(clean / made.GAIN))
    return image.astype(np.float32), cores


@pytest.mark.parametrize("fwhm_pix", [1.5, 1.8, 2.5])
def test_cores_of_sharp_stars_are_left_as_well_as_by_astroscrappy(fwhm_pix):
    image, cores = moffat_field(fwhm_pix, seed=8)
    image, truth = hits(image, count=30)
    background, noise = background_maps(image, np.zeros(image.shape, bool))
    ours = cosmic_rays(image, np.zeros(image.shape, bool), background, noise, made.GAIN)
    variance = noise**2 + np.maximum(image - background, 0) / made.GAIN
    theirs, _ = astroscrappy.detect_cosmics(
        image - background, invar=variance.astype(np.float32), gain=1.0, satlevel=np.inf, cleantype="medmask", niter=3
    )
    away = truth & ~cores
    in_cores = (ours & cores & ~truth).sum()
    assert in_cores <= 0.01 * cores.sum()
    assert in_cores <= (theirs & cores & ~truth).sum() + 3
    assert (ours & away).sum() >= (theirs & away).sum() - 0.02 * away.sum()
