import numpy as np

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
