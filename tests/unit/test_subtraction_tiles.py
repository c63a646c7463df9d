"""Parts of a frame: where they are, and that their differences are those of the whole frame."""

from dataclasses import replace

import numpy as np
import pytest

from services.subtraction.tiles import Box, Mosaic, around, bounding, grid, subtract_parts
from shared.errors import DataError
from shared.science.difference import Difference, Options, subtract
from shared.science.difference.widths import star_widths
from tests.support.difference import Field, Shape, Sky, make_field

SHAPE = (300, 500)


@pytest.mark.parametrize("shape", [(300, 500), (1000, 1000), (1, 7), (2048, 2048), (1499, 1501)])
def test_parts_cover_every_pixel_once(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    for box in grid(shape, 1000):
        seen[box.slices] += 1
        assert max(box.shape) <= 1500
    assert (seen == 1).all()


def test_parts_are_of_about_the_asked_size() -> None:
    assert len(grid((2048, 2048), 1000)) == 4
    assert len(grid((2048, 2048), 512)) == 16
    assert len(grid((700, 700), 1000)) == 1


def test_one_part_is_enough_for_neighbours() -> None:
    assert around([100, 120], [100, 90], SHAPE, 200, 40) == [Box(0, 200, 0, 200)]
    both = around([100, 400], [100, 200], SHAPE, 200, 40)
    assert both == [Box(0, 200, 0, 200), Box(100, 300, 300, 500)]
    assert bounding(both) == Box(0, 300, 0, 500)


def test_beyond_the_frame_nothing_is_missed() -> None:
    # both are at the edge, and the first one's part ends there as well
    assert around([3, 10], [2, 60], SHAPE, 200, 40) == [Box(0, 200, 0, 200)]
    assert around([499, 250], [299, 150], SHAPE, 1000, 40) == [Box(0, 300, 0, 500)]


def test_boxes_grow_within_the_frame() -> None:
    assert Box(10, 50, 20, 60).grown(15, SHAPE) == Box(0, 65, 5, 75)
    assert Box(10, 50, 20, 60).within(Box(5, 70, 15, 90)) == Box(5, 45, 5, 45)


@pytest.fixture(scope="module")
def field() -> Field:
    return make_field(
        Sky(Shape(3.2)),
        Sky(Shape(2.4), level=50, gain=20, read_noise=2),
        size=448,
        stars=400,
        transients=16,
    )


def in_parts(field: Field, size_pix: int, margin_pix: int = 40, threads: int = 2, **pair: object) -> tuple:
    lines: list[str] = []
    told: list[float] = []
    found, done = subtract_parts(
        "hotpants",
        replace(field.pair, **pair),
        grid((448, 448), size_pix),
        Options(threads=threads),
        margin_pix=margin_pix,
        log=lambda *words: lines.append(" ".join(map(str, words))),
        progress=told.append,
    )
    assert told[-1] == 1
    return found, done, "\n".join(lines)


def test_the_mosaic_is_the_difference_of_the_whole_frame(field: Field) -> None:
    own, other = star_widths(field.pair)
    assert own == pytest.approx(3.3, abs=0.2)
    assert other == pytest.approx(2.55, abs=0.2)
    whole = subtract("hotpants", field.pair, Options())
    found, done, log = in_parts(field, 224, fwhm_pix=own, template_fwhm_pix=other)
    assert done.all()
    assert "Part 4 of 4" in log
    assert found.stars > 0.8 * whole.stars
    assert found.scale == pytest.approx(whole.scale, rel=0.01)
    both = ~(found.mask | whole.mask)
    assert both.mean() > 0.95
    assert (found.mask ^ whole.mask).mean() < 0.01
    apart = (found.difference - whole.difference) / whole.noise
    # kernels of parts differ by their errors, which show on stars
    assert np.median(np.abs(apart[both])) < 0.1
    assert np.median(np.abs((found.noise / whole.noise - 1)[both])) < 0.03
    # no seam: columns beside it are as far from the whole frame's as others
    quiet = both & field.quiet
    beside = [np.median(apart[:, column][quiet[:, column]]) for column in range(218, 230)]
    assert np.ptp(beside) < 0.1
    ratio = (found.difference / found.noise)[quiet]
    assert 0.95 < ratio.std() < 1.05


def test_a_part_without_stars_is_matched_with_its_surroundings(field: Field) -> None:
    mask = np.zeros((448, 448), bool)
    for x, y, _ in field.stars:
        if x < 224 and y < 224:
            mask[max(int(y) - 12, 0) : int(y) + 13, max(int(x) - 12, 0) : int(x) + 13] = True
    mask[200:300, :300] |= mask[:100, :300]
    found, done, log = in_parts(field, 224, margin_pix=0, mask=mask, fwhm_pix=3.3, template_fwhm_pix=2.6)
    assert "It is tried with more around it" in log
    assert done.all()
    quiet = field.quiet & ~found.mask
    quiet[:, 224:] = False
    quiet[224:] = False
    assert quiet.sum() > 500
    assert 0.9 < (found.difference / found.noise)[quiet].std() < 1.1


def test_what_has_no_template_stays_masked(field: Field) -> None:
    template = field.pair.template.copy()
    template[:, 220:] = np.nan
    found, done, log = in_parts(field, 224, template=template, fwhm_pix=3.3, template_fwhm_pix=2.6)
    assert "no common pixels of image and template" in log
    assert done[:, :224].all()
    assert not done[:, 250:].any()
    assert found.mask[:, 224:].all()
    for plane in (found.difference, found.noise, found.convolved, found.significance):
        assert np.isfinite(plane).all()
    assert (found.noise > 0).all()


def test_nothing_at_all_is_an_error(field: Field) -> None:
    with pytest.raises(DataError, match="no good pixels in common"):
        in_parts(field, 224, template=np.full((448, 448), np.nan, np.float32))
    blank = np.random.default_rng(1).normal(100, 5, (448, 448)).astype(np.float32)
    with pytest.raises(DataError, match="No star is seen in image and template both"):
        in_parts(field, 224, template=blank)


def part(level: float, mask: np.ndarray) -> Difference:
    plane = np.full((10, 10), level, np.float32)
    return Difference(plane, plane, plane, plane, mask, 1, 0.1, 0.1, 3.0, "template", 5)


def test_masked_pixels_are_taken_from_the_other_part() -> None:
    mosaic = Mosaic.empty((10, 15))
    half = np.zeros((10, 10), bool)
    half[:, 5:] = True
    mosaic.add(part(1.0, half), Box(0, 10, 0, 10), Box(0, 10, 0, 10), 0)
    mosaic.add(part(2.0, np.zeros((10, 10), bool)), Box(0, 10, 5, 15), Box(0, 10, 5, 15), 0)
    found = mosaic.finished()
    assert (found.difference[:, :5] == 1).all()
    assert (found.difference[:, 5:] == 2).all()
    assert not found.mask.any()
    assert found.stars == 10


def test_one_part_fades_into_the_next() -> None:
    mosaic = Mosaic.empty((10, 16))
    good = np.zeros((10, 10), bool)
    mosaic.add(part(1.0, good), Box(0, 10, 0, 8), Box(0, 10, 0, 10), 4)
    mosaic.add(part(2.0, good), Box(0, 10, 8, 16), Box(0, 10, 6, 16), 4)
    found = mosaic.finished()
    np.testing.assert_allclose(found.difference[3], [1] * 6 + [1.125, 1.375, 1.625, 1.875] + [2] * 6, atol=1e-6)
    assert mosaic.done.all()
