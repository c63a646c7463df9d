"""Finding point sources in differences that are made here, so that what is in them is known."""

import time
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from scipy import ndimage
from scipy.spatial import cKDTree

from shared.science.difference import ENGINES, Difference, subtract
from shared.science.difference_search import (
    FLAG_EDGE,
    FLAG_MISMATCH,
    MOST_PLACES,
    Found,
    Options,
    find_candidates,
    scores,
)
from shared.science.difference_search_shapes import judge, learn
from shared.science.shapes import FLAG_ODD_SHAPE
from tests.support.difference import Shape, Sky, make_field, render

SHAPE = Shape(3.2)
RADIUS = 4.0
OPTIONS = Options(RADIUS, (20.0, 28.0))
SKY_NOISE = 10.0
GAIN = 2.0
SIZE = 384
POINT_SOURCE_NOISE = 62.0
"""Of the whole flux of a star by its shape, where the noise is SKY_NOISE: 10 / sqrt(sum of squares of the shape)."""


def made(
    stars: np.ndarray, *, light: np.ndarray | None = None, extended: np.ndarray | None = None, seed: int = 1
) -> Difference:
    """Make a difference whose template fits but for `light`, which the image has more."""
    convolved = render(SIZE, stars, SHAPE) + (0 if extended is None else extended)
    added = np.zeros_like(convolved) if light is None else light
    noise = np.sqrt(SKY_NOISE**2 + np.maximum(convolved + added, 0) / GAIN)
    difference = np.random.default_rng(seed).normal(0, 1, noise.shape) * noise + added
    return Difference(
        *(plane.astype(np.float32) for plane in (difference, convolved, noise, difference / noise)),
        np.zeros(noise.shape, bool),
        1.0,
        0.0,
        0.0,
        3.3,
        "template",
        len(stars),
    )


def masked(found: Difference, mask: np.ndarray) -> Difference:
    return replace(found, mask=mask, difference=np.where(mask, np.float32(0), found.difference))


def field(count: int = 150, seed: int = 3) -> np.ndarray:
    """Place stars of 1,000 to 300,000 ADU."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(10, SIZE - 10, (count, 2)), 1000 * 10 ** rng.uniform(0, 2.5, count)])


def apart_from(stars: np.ndarray, count: int, least_pix: float, seed: int = 5) -> np.ndarray:
    """Find places that are away from stars and from each other."""
    rng, places = np.random.default_rng(seed), np.zeros((0, 2))
    while len(places) < count:
        place = rng.uniform(15, SIZE - 15, (1, 2))
        if cKDTree(np.vstack([stars[:, :2], places])).query(place)[0][0] > least_pix:
            places = np.vstack([places, place])
    return places


def find(found: Difference, options: Options = OPTIONS) -> Found:
    image = found.convolved + found.difference
    return find_candidates(found, image, found.mask, options, lambda *_: None)


def pairs(table: Table, places: np.ndarray, radius_pix: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Tell which places were found, and which rows are false."""
    if not len(table):
        return np.zeros(len(places), bool), np.zeros(0, bool)
    rows = np.column_stack([table["x"], table["y"]])
    return cKDTree(rows).query(places[:, :2])[0] < radius_pix, cKDTree(places[:, :2]).query(rows)[0] > radius_pix


@pytest.fixture(scope="module")
def stars() -> np.ndarray:
    return field()


def test_faint_point_sources_are_found_where_they_are_and_nothing_else(stars: np.ndarray) -> None:
    places = np.column_stack([apart_from(stars, 14, 12), np.full(14, 9 * POINT_SOURCE_NOISE)])
    table = find(made(stars, light=render(SIZE, places, SHAPE))).table
    hit, false = pairs(table, places)
    assert hit.all()
    assert false.sum() <= 1
    assert (np.diff(table["significance"]) <= 0).all()
    real = table[~false]
    assert np.median(real["significance"]) == pytest.approx(9, abs=0.9)
    distance, nearest = cKDTree(places[:, :2]).query(np.column_stack([real["x"], real["y"]]))
    assert np.median(distance) < 0.5  # pixels
    apart = (np.asarray(real["x"]) - places[nearest, 0]) / np.asarray(real["xerr"])
    assert 0.5 < apart.std() < 1.5
    flux = np.asarray(real["flux"]) / (places[nearest, 2] * SHAPE.enclosed(RADIUS))
    assert flux.mean() == pytest.approx(1, abs=4 * flux.std() / np.sqrt(len(flux)))
    pulls = (flux - 1) * places[nearest, 2] * SHAPE.enclosed(RADIUS) / np.asarray(real["fluxerr"])
    assert 0.5 < pulls.std() < 1.5


@pytest.mark.parametrize("smooth_pix", [0.0, 1.2])
def test_the_threshold_means_the_same_where_pixels_share_their_noise(smooth_pix: float, stars: np.ndarray) -> None:
    found = made(stars[stars[:, 2] < 20_000])
    noise = ndimage.gaussian_filter(found.difference / found.noise, smooth_pix)
    noise *= 1 / noise.std()
    found = replace(found, difference=(noise * found.noise).astype(np.float32))
    score = scores(found, learn(found))
    assert score[found.convolved < 10].std() == pytest.approx(1, abs=0.05)
    assert (score > 3).mean() == pytest.approx(0.00135, abs=0.0008)
    assert len(find(found).table) <= 1


def left_by_misfits(stars: np.ndarray, *, scale: float = 0.03, shift_pix: float = 0.04) -> np.ndarray:
    """Draw what is left where each star is shifted and scaled in its own way."""
    rng = np.random.default_rng(8)
    moved = stars + np.column_stack(
        [rng.normal(0, shift_pix, (len(stars), 2)), rng.normal(0, scale, len(stars)) * stars[:, 2]]
    )
    return render(SIZE, moved, SHAPE) - render(SIZE, stars, SHAPE)


def test_what_is_left_of_stars_is_told_from_transients(stars: np.ndarray) -> None:
    new = np.column_stack([apart_from(stars, 12, 8), np.full(12, 12 * POINT_SOURCE_NOISE)])
    found = made(stars, light=left_by_misfits(stars) + render(SIZE, new, SHAPE))
    hit, false = pairs(find(found).table, new)
    assert hit.all()
    assert false.sum() <= 2
    everything = find(found, replace(OPTIONS, adjust=False)).table
    hit, false = pairs(everything, new)
    assert hit.all()
    assert false.sum() > 10
    assert (np.asarray(everything["flags"])[~false] & FLAG_MISMATCH == 0).all()
    assert (np.asarray(everything["flags"])[false] & FLAG_MISMATCH != 0).sum() >= false.sum() - 2


def test_a_transient_beside_a_star_on_a_galaxy_and_a_variable_star_stay(stars: np.ndarray) -> None:
    bright = stars[np.argsort(-stars[:, 2])[40]]
    beside = np.array([bright[0] + 5.0, bright[1] - 3.0, 60 * POINT_SOURCE_NOISE])
    place = apart_from(stars, 1, 20)[0]
    y, x = np.mgrid[:SIZE, :SIZE]
    galaxy = 900 * np.exp(-np.hypot(x - place[0], (y - place[1]) / 0.6) / 4)
    on_galaxy = np.array([place[0] + 2.0, place[1] + 1.5, 25 * POINT_SOURCE_NOISE])
    variable = stars[np.argsort(-stars[:, 2])[60]] * (1, 1, 0.5)
    new = np.vstack([beside, on_galaxy, variable])
    found = made(stars, light=left_by_misfits(stars) + render(SIZE, new, SHAPE), extended=galaxy)
    hit, _ = pairs(find(found).table, new)
    assert hit.tolist() == [True, True, True]


def test_cosmic_rays_have_not_the_shape_of_stars(stars: np.ndarray) -> None:
    light, places = np.zeros((SIZE, SIZE)), apart_from(stars, 30, 10)
    for number, (x, y) in enumerate(places.astype(int)):
        for step in range(1 + number % 3):
            light[y + step, x + step // 2] += SKY_NOISE * (20 + 10 * number)
    found = made(stars, light=light)
    assert not pairs(find(found).table, places, 3)[0].any()
    flagged = find(found, replace(OPTIONS, shapes=False)).table
    assert pairs(flagged, places, 3)[0].sum() >= 28
    assert (np.asarray(flagged["flags"]) & FLAG_ODD_SHAPE != 0).sum() >= 28


def test_masked_places_are_no_candidates_and_edges_are_flagged(stars: np.ndarray) -> None:
    places = apart_from(stars, 3, 12)
    new = np.column_stack([places, np.full(3, 30 * POINT_SOURCE_NOISE)])
    edge = np.array([[2.0, 200.0, 60 * POINT_SOURCE_NOISE]])
    found = made(
        stars[np.hypot(stars[:, 0] - 2, stars[:, 1] - 200) > 12], light=render(SIZE, np.vstack([new, edge]), SHAPE)
    )
    mask = np.zeros((SIZE, SIZE), bool)
    (x0, y0), (x1, y1) = np.rint(places[:2]).astype(int)
    mask[y0 - 1 : y0 + 2, x0 - 1 : x0 + 2] = True  # its core
    mask[y1, x1 + 2] = True  # a bad pixel beside it
    table = find(masked(found, mask)).table
    hit, _ = pairs(table, np.vstack([new, edge]))
    assert hit.tolist() == [False, True, True, True]
    rows = cKDTree(np.column_stack([table["x"], table["y"]])).query(np.vstack([new, edge])[1:, :2])[1]
    flags = np.asarray(table["flags"])[rows]
    assert flags[0] & 0x300  # masked pixels
    assert flags[1] == 0
    assert flags[2] & FLAG_EDGE


def test_rings_around_saturated_stars_are_no_candidates(stars: np.ndarray) -> None:
    x0, y0 = apart_from(stars, 1, 25)[0]
    y, x = np.mgrid[:SIZE, :SIZE]
    distance, angle = np.hypot(x - x0, y - y0), np.arctan2(y - y0, x - x0)
    ring = 15 * np.cos(5 * angle) * np.exp(-(((distance - 11) / 3) ** 2))
    found = made(stars, light=ring)
    table = find(masked(found, distance < 8)).table
    near = np.hypot(np.asarray(table["x"]) - x0, np.asarray(table["y"]) - y0) < 20
    assert near.sum() <= 1
    alone = find(masked(found, distance < 8), replace(OPTIONS, sn=2.0, shapes=False, adjust=False)).table
    assert (np.hypot(np.asarray(alone["x"]) - x0, np.asarray(alone["y"]) - y0) < 20).sum() > 2


def test_ten_thousand_false_detections_do_not_take_long() -> None:
    found = made(np.zeros((0, 3)))
    rng = np.random.default_rng(2)
    found = replace(found, difference=found.difference + rng.choice([0, 3000], found.mask.shape, p=[0.8, 0.2]))
    lines: list[str] = []
    options = Options(RADIUS, (20.0, 28.0), sn=0.05, min_area=1, shapes=False, adjust=False)
    began = time.monotonic()
    maps = {name: np.tile(getattr(found, name), (3, 3)) for name in ("difference", "convolved", "noise", "mask")}
    big = replace(found, **maps)
    table = find_candidates(big, big.difference, big.mask, options, lines.append).table
    assert time.monotonic() - began < 60
    assert 1000 < len(table) <= MOST_PLACES
    assert int(lines[0].split()[0]) > 10_000


def test_a_frame_without_stars_is_searched() -> None:
    new = np.array([[100.0, 150.0, 20 * POINT_SOURCE_NOISE], [300.3, 80.6, 40 * POINT_SOURCE_NOISE]])
    table = find(made(np.zeros((0, 3)), light=render(SIZE, new, SHAPE))).table
    hit, false = pairs(table, new)
    assert hit.all()
    assert not false.any()


def test_a_frame_that_is_all_masked_has_no_candidates(stars: np.ndarray) -> None:
    found = made(stars)
    assert len(find(masked(found, np.ones(found.mask.shape, bool))).table) == 0


def test_larger_areas_can_be_asked_for(stars: np.ndarray) -> None:
    places = np.column_stack([apart_from(stars, 2, 12), [10 * POINT_SOURCE_NOISE, 400 * POINT_SOURCE_NOISE]])
    found = made(stars, light=render(SIZE, places, SHAPE))
    assert pairs(find(found, replace(OPTIONS, min_area=5)).table, places)[0].tolist() == [True, True]
    assert pairs(find(found, replace(OPTIONS, min_area=90)).table, places)[0].tolist() == [False, True]


def test_the_fit_finds_the_place_and_its_errors(stars: np.ndarray) -> None:
    new = np.array([[100.3, 150.4, 40 * POINT_SOURCE_NOISE]])
    found = made(np.zeros((0, 3)), light=render(SIZE, new, SHAPE))
    verdict = judge(found, learn(found), np.array([100.0]), np.array([150.0]))
    assert verdict.dx[0] == pytest.approx(0.3, abs=0.1)
    assert verdict.dy[0] == pytest.approx(0.4, abs=0.1)
    assert 0.02 < verdict.xerr[0] < 0.08
    assert not verdict.mismatched[0]


@pytest.mark.parametrize(("engine", "wider"), [*((engine, "image") for engine in ENGINES), ("hotpants", "template")])
def test_transients_of_every_engine(engine: str, wider: str) -> None:
    """Signal to noise of 15 in the aperture of the image, whichever side is convolved."""
    own, other = Sky(SHAPE), Sky(Shape(2.4), level=50, gain=20, read_noise=2)
    if wider == "template":
        own, other = Sky(Shape(2.4)), Sky(SHAPE, level=50, gain=20, read_noise=2)
    field = make_field(own, other, size=256, stars=110, transients=16, transient_flux=3_000.0, seed=4)
    found = subtract(engine, field.pair)
    mask = np.zeros(found.mask.shape, bool)
    lines: list[str] = []
    table = find_candidates(found, field.pair.image, mask, OPTIONS, lines.append).table
    hit, false = pairs(table, field.transients)
    x, y = np.rint(field.transients[:, :2].T).astype(int)
    seen = ndimage.uniform_filter(found.mask.astype(float), 7)[y, x] < 0.2  # ZOGY masks around stars and along edges
    assert seen.sum() >= 12
    assert hit[seen].all()
    assert false.sum() <= 1
    flux = np.asarray(table["flux"])[~false] / (3_000 * own.shape.enclosed(RADIUS))
    # circles of pixels lose little light at their rims
    assert np.mean(flux) == pytest.approx(0.99, abs=0.05)
    pulls = (flux - np.mean(flux)) * 3_000 * own.shape.enclosed(RADIUS) / np.asarray(table["fluxerr"])[~false]
    assert 0.5 < pulls.std() < 1.6
    assert lines[-1].endswith("positive flux")
