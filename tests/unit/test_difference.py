"""Difference images of simulated pairs against what was put in."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from shared.science.difference import ENGINES, Difference, Options, hotpants_options, subtract
from tests.support.difference import Field, Shape, Sky, aperture_fluxes, make_field, render

SHARP, BROAD = Shape(2.4), Shape(3.2)
IMAGE = Sky(BROAD)
DEEP = Sky(SHARP, level=50, gain=20, read_noise=2)


@pytest.fixture(scope="module")
def deep() -> Field:
    return make_field(IMAGE, DEEP)


def on_stars(found: Difference, field: Field, least_flux: float) -> np.ndarray:
    """Give difference over noise around bright stars."""
    near = np.zeros(found.mask.shape, bool)
    for x, y, flux in field.stars:
        if flux >= least_flux:
            near[max(int(y) - 5, 0) : int(y) + 6, max(int(x) - 5, 0) : int(x) + 6] = True
    return found.significance[near & ~found.mask]


def off_stars(found: Difference, field: Field) -> np.ndarray:
    return found.significance[field.quiet & ~found.mask]


SCALE_ERROR = {"hotpants": 0.005, "zogy": 0.015, "sfft": 0.005}


def check(
    found: Difference, field: Field, *, bias: float = 0.01, shape: Shape = BROAD, engine: str = "hotpants"
) -> None:
    """Noise as quoted off sources, on the image's zero point, photometric scale."""
    sky = off_stars(found, field)
    assert 0.95 < sky.std() < 1.05
    assert abs(sky.mean()) < 0.03
    fluxes = aperture_fluxes(found.difference, field.transients, shape) / field.transients[:, 2]
    assert abs(fluxes.mean() - 1) < bias
    assert found.scale == pytest.approx(field.scale, rel=SCALE_ERROR[engine])
    for plane in (found.difference, found.convolved, found.noise, found.significance):
        assert plane.dtype == np.float32
        assert np.isfinite(plane).all()
    assert (found.noise > 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_deeper_and_sharper_template(engine: str, deep: Field) -> None:
    found = subtract(engine, deep.pair)
    # a star in ZOGY's difference has a shape of its own, with other wings than the aperture is corrected for
    check(found, deep, bias=0.02 if engine == "zogy" else 0.01, engine=engine)
    assert on_stars(found, deep, 30_000).std() < (1.4 if engine == "hotpants" else 1.7)
    assert found.convolved_side == ("both" if engine == "zogy" else "template")
    assert found.mask.mean() < 0.2


@pytest.mark.parametrize("engine", ["hotpants", "sfft"])
def test_broader_and_shallower_template_keeps_the_zero_point_of_the_image(engine: str) -> None:
    field = make_field(Sky(SHARP), Sky(BROAD, level=900), scale=1.6, transient_flux=60_000, seed=2)
    found = subtract(engine, field.pair)
    assert found.convolved_side == "image"
    assert found.fwhm_pix == pytest.approx(3.3, abs=0.2)
    check(found, field, engine=engine)
    assert on_stars(found, field, 30_000).std() < 1.4


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("engine", ["hotpants", "sfft"])
def test_scale_is_right_whatever_the_noise_of_the_template(engine: str, seed: int) -> None:
    field = make_field(IMAGE, Sky(Shape(2.6), level=900), size=256, stars=100, scale=1.0, seed=seed)
    found = subtract(engine, field.pair)
    assert found.scale == pytest.approx(field.scale, rel=0.008)
    assert on_stars(found, field, 30_000).std() < 1.4


def test_most_stars_decide_when_many_have_changed(deep: Field) -> None:
    changed = deep.stars[deep.stars[:, 2] > 20_000][::2]
    added = render(deep.pair.image.shape[0], changed * (1, 1, 2), BROAD).astype(np.float32)
    found = subtract("hotpants", replace(deep.pair, image=deep.pair.image + added))
    assert found.scale == pytest.approx(deep.scale, rel=0.01)


def test_rings_around_saturated_stars_are_masked() -> None:
    field = make_field(IMAGE, DEEP, seed=12, transients=0)
    middle = np.array([[160.3, 161.1, 4e6]])
    light = render(320, middle, BROAD)
    image = np.minimum(field.pair.image + light, 50_000).astype(np.float32)
    template = np.minimum(field.pair.template + render(320, middle / (1, 1, field.scale), SHARP), 300_000)
    pair = replace(field.pair, image=image, template=template.astype(np.float32))
    pair = replace(pair, mask=image >= 50_000, template_mask=template >= 300_000)
    for engine in ENGINES:
        found = subtract(engine, pair)
        assert (np.abs(found.significance) > 6).sum() < (40 if engine == "zogy" else 10)
        assert found.mask.mean() < 0.15


def test_a_shifted_template_is_brought_under_the_image(deep: Field) -> None:
    template = ndimage.shift(deep.pair.template, (0.4, -0.3), order=3, mode="nearest")
    for engine in ENGINES:
        found = subtract(engine, replace(deep.pair, template=template))
        offsets = []
        for x, y, _ in deep.transients:
            left, top = round(x) - 4, round(y) - 4
            box = slice(top, top + 9), slice(left, left + 9)
            if not found.mask[box].any():
                row, column = ndimage.center_of_mass(np.maximum(found.difference[box], 0))
                offsets.append((left + column - x, top + row - y))
        assert len(offsets) >= 4
        assert np.abs(np.mean(offsets, axis=0)).max() < 0.1


def test_noise_of_a_shallow_template_counts() -> None:
    field = make_field(IMAGE, Sky(SHARP, level=1500), scale=0.8, transient_flux=60_000, seed=4)
    found = subtract("hotpants", field.pair)
    check(found, field)
    assert np.median(found.noise) > 1.1 * np.sqrt(400 / 1.5 + (5 / 1.5) ** 2)


def test_noise_is_right_for_a_template_whose_pixels_are_correlated(deep: Field) -> None:
    field = make_field(IMAGE, Sky(Shape(2.2), level=1500), scale=0.8, seed=4)
    left = field.pair.template
    smooth = 0.25 * (2 * left + np.roll(left, 1, 0) + np.roll(left, 1, 1))
    found = subtract("hotpants", replace(field.pair, template=smooth))
    assert 0.95 < off_stars(found, field).std() < 1.05


@pytest.mark.parametrize("angle_deg", [0.0, 35.0])
def test_elongated_stars(angle_deg: float) -> None:
    field = make_field(Sky(Shape(4.0, 0.75, angle_deg)), DEEP, seed=5)
    found = subtract("hotpants", field.pair)
    assert found.scale == pytest.approx(field.scale, rel=0.005)
    assert 0.95 < off_stars(found, field).std() < 1.05
    assert on_stars(found, field, 30_000).std() < 1.4


@pytest.mark.parametrize("engine", ["hotpants", "zogy"])
def test_gradients(engine: str) -> None:
    field = make_field(replace(IMAGE, slope=0.4), replace(DEEP, slope=-0.4), seed=6)
    found = subtract(engine, field.pair)
    sky = np.where(field.quiet & ~found.mask, found.significance, np.nan)
    quarters = [np.nanmean(part) for half in np.array_split(sky, 2) for part in np.array_split(half, 2, axis=1)]
    assert np.abs(quarters).max() < 0.06
    assert 0.95 < np.nanstd(sky) < 1.05


def test_scale_that_varies_over_the_field() -> None:
    field = make_field(IMAGE, DEEP, seed=7)
    x = np.mgrid[:320, :320][1] / 320 - 0.5
    flat = (1 + 0.06 * x).astype(np.float32)
    found = subtract("hotpants", replace(field.pair, image=field.pair.image * flat))
    assert on_stars(found, field, 30_000).std() < 1.4
    assert found.scale == pytest.approx(field.scale, rel=0.005)


def test_kernel_that_varies_over_the_field() -> None:
    left, right = (make_field(Sky(Shape(width)), DEEP, seed=8, stars=300) for width in (3.0, 3.6))
    x = np.mgrid[:320, :320][1] / 319
    mixed = ((1 - x) * left.pair.image + x * right.pair.image).astype(np.float32)
    pair = replace(left.pair, image=mixed)
    fixed, varying = (
        on_stars(subtract("hotpants", pair, Options(hotpants_options(extra))), left, 30_000).std()
        for extra in ({}, {"ko": 1})
    )
    assert varying < 0.8 * fixed


def test_regions_have_solutions_of_their_own() -> None:
    field = make_field(IMAGE, DEEP, seed=9, stars=300)
    step = np.where(np.mgrid[:320, :320][1] < 160, 1.0, 1.3).astype(np.float32)
    pair = replace(field.pair, image=(field.pair.image - 400) * step + 400)
    found = subtract("hotpants", pair, Options(hotpants_options({"nrx": 2, "nsx": 5})))
    assert on_stars(found, field, 30_000).std() < 1.5


@pytest.mark.parametrize("engine", ENGINES)
def test_saturated_stars_and_missing_pixels_are_masked(engine: str, deep: Field) -> None:
    image, template = deep.pair.image.copy(), deep.pair.template.copy()
    saturated = np.zeros(image.shape, bool)
    level = np.sort(template.ravel())[-40]
    saturated |= template >= level
    template[saturated] = level
    template[100:104, :] = np.nan
    image[:, 200:203] = np.inf
    cosmics = np.zeros(image.shape, bool)
    cosmics[50:53, 50:60] = True
    image[cosmics] += 20_000
    pair = replace(deep.pair, image=image, template=template, mask=cosmics, template_mask=saturated)
    found = subtract(engine, pair)
    assert found.mask[saturated].all()
    assert found.mask[100:104].all()
    assert found.mask[:, 200:203].all()
    assert found.mask[cosmics].all()
    assert (found.difference[found.mask] == 0).all()
    assert (found.significance[found.mask] == 0).all()
    assert found.mask.mean() < (0.5 if engine == "zogy" else 0.3)
    wrong = (np.abs(found.significance) > 6) & ~found.mask
    for x, y, _ in deep.transients:
        wrong[int(y) - 12 : int(y) + 13, int(x) - 12 : int(x) + 13] = False
    assert wrong.sum() < 10
    assert 0.95 < off_stars(found, deep).std() < 1.05


def test_variable_stars_do_not_bend_the_scale(deep: Field) -> None:
    image = deep.pair.image.copy()
    for x, y, flux in deep.stars[:12]:
        changed = make_star(image.shape[0], x, y, flux)
        image += changed
    found = subtract("hotpants", replace(deep.pair, image=image))
    assert found.scale == pytest.approx(deep.scale, rel=0.005)


def make_star(size: int, x: float, y: float, flux: float) -> np.ndarray:
    grid_y, grid_x = np.mgrid[:size, :size]
    return (flux * BROAD.values(grid_x - x, grid_y - y)).astype(np.float32)


def test_noise_that_is_given_is_used(deep: Field) -> None:
    noise = np.full(deep.pair.image.shape, 60.0, np.float32)
    found = subtract("hotpants", replace(deep.pair, noise=noise, template_noise=noise / 100))
    assert np.median(found.noise) == pytest.approx(60, rel=0.01)


def test_side_can_be_chosen(deep: Field) -> None:
    found = subtract("hotpants", deep.pair, Options(hotpants_options({"c": "i"})))
    assert found.convolved_side == "image"
    assert found.scale == pytest.approx(deep.scale, rel=0.02)


def test_fill_values_and_rescaled_noise(deep: Field) -> None:
    mask = np.zeros(deep.pair.image.shape, bool)
    mask[10:20, 10:20] = True
    pair = replace(deep.pair, mask=mask, noise=np.full(mask.shape, 35.0, np.float32))
    options = Options(hotpants_options({"fi": -99, "fin": 1e6, "okn": True}))
    found = subtract("hotpants", pair, options)
    assert (found.difference[mask] == -99).all()
    assert (found.noise[mask] == 1e6).all()
    assert (found.significance[mask] == 0).all()
    assert 0.95 < off_stars(found, deep).std() < 1.05


def test_zogy_scores_are_standard_and_its_fluxes_right(deep: Field) -> None:
    found = subtract("zogy", deep.pair)
    assert found.scores is not None
    score = found.scores.scorr[deep.quiet & ~found.mask]
    assert 0.9 < score.std() < 1.1
    fluxes = [found.scores.flux[round(y), round(x)] for x, y, _ in deep.transients]
    errors = [found.scores.flux_error[round(y), round(x)] for x, y, _ in deep.transients]
    assert np.mean(fluxes) == pytest.approx(20_000, rel=0.02)
    assert 100 < np.median(errors) < 500


@pytest.mark.parametrize("shape", [(320, 300), (256, 320)])
def test_frames_that_are_no_squares(shape: tuple[int, int], deep: Field) -> None:
    part = slice(0, shape[0]), slice(0, shape[1])
    pair = replace(deep.pair, image=deep.pair.image[part], template=deep.pair.template[part])
    for engine in ("hotpants", "zogy"):
        found = subtract(engine, pair)
        assert found.difference.shape == shape
        assert found.scale == pytest.approx(deep.scale, rel=SCALE_ERROR[engine])
