"""Matching detected objects with catalogue stars, and fitting the distortion to the matches.

The catalogue is put on the tangent plane of the approximate field centre once; objects follow by a polynomial from
pixels, so that nothing has to be inverted. A vote among bright stars gives the offset (and, where that fails, a small
rotation and scale error too), then matching and fitting alternate with a shrinking tolerance and growing order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from .astrometry_sip import Floats, terms

_BRIGHT_OBJECTS: Final = 200
_VOTE_BIN_PIX: Final = 3.0
_SHIFT_FRACTION: Final = 0.15
_SHIFT_BOUNDS_PIX: Final = (100.0, 600.0)
_ROTATIONS_DEG: Final = np.arange(-3.0, 3.01, 0.3)
_SCALES: Final = np.arange(0.97, 1.031, 0.005)
_FEW_ROTATIONS_DEG: Final = np.arange(-1.2, 1.21, 0.3)
_FEW_SCALES: Final = np.arange(0.99, 1.011, 0.005)
_UPRIGHT: Final = (np.eye(2),)
_TURNED: Final = tuple(
    matrix
    for matrix in (np.array([[a, b], [c, d]], float) for a, b, c, d in product((-1, 0, 1), repeat=4))
    if abs(np.linalg.det(matrix)) == 1 and (matrix != 0).sum() == 2 and not (matrix == np.eye(2)).all()  # noqa: PLR2004
)
"""The other seven ways to turn and mirror a frame by right angles, which headers get wrong."""
_VOTE_SIGNIFICANCE: Final = 8.0
_VOTE_MIN: Final = 5
_VOTE_PAIRS: Final = 25_000
_VOTE_FEWEST: Final = 40

_STAGES: Final = ((1, 12.0), (1, 6.0), (2, 5.0), (3, 4.0), (9, 3.0), (9, 2.0))
"""Order of the polynomial (at most the one asked for) and tolerance in pixels of each round."""

_FINAL_ROUNDS: Final = 6
_CLIP_SIGMA: Final = 4.0
_MATCHES_PER_TERM: Final = 3
_TOLERANCE_BOUNDS_PIX: Final = (0.5, 2.0)
_MIN_MATCHES: Final = 5
_MIN_EXCESS_SIGMA: Final = 6.0
_MIN_EXCESS_RATIO: Final = 2.5
_MAX_RMS_FRACTION: Final = 0.35
"""Largest robust residual in units of the tolerance; chance matches have 0.7."""

_CELLS: Final = 4
_CELL_MIN: Final = 6
_CELL_FRACTION: Final = 0.4
_CELLS_GOOD: Final = 0.75

_ERROR_BOUNDS_PIX: Final = (0.003, 1.0)


@dataclass(frozen=True)
class Field:
    """What is matched. Objects are ordered by brightness, brightest first, and so are stars if they have magnitudes.

    Parameters
    ----------
    x, y
        Objects, pixels, 0-based.
    error_pix
        Error of a coordinate of each object.
    clean
        Objects without flags.
    xi, eta
        Stars on the tangent plane, degrees.
    star_error_deg
        Error of a coordinate of each star.
    ranked
        Whether the stars are ordered by brightness.
    shape
        Of the image, (rows, columns).
    """

    x: Floats
    y: Floats
    error_pix: Floats
    clean: NDArray[np.bool_]
    xi: Floats
    eta: Floats
    star_error_deg: Floats
    ranked: bool
    shape: tuple[int, int]


@dataclass(frozen=True)
class Match:
    """A verified match.

    Parameters
    ----------
    objects, stars
        Indices of the pairs in the fit.
    weights
        Of the pairs in the sum of squares.
    order
        Of the polynomial that the number of pairs supports.
    rms_deg
        Weighted root mean square distance of the pairs.
    """

    objects: NDArray[np.intp]
    stars: NDArray[np.intp]
    weights: Floats
    order: int
    rms_deg: float


class _Plane:
    """A polynomial from pixels to the tangent plane."""

    def __init__(self, shape: tuple[int, int], order: int) -> None:
        self.x0, self.y0, self.scale = (shape[1] - 1) / 2, (shape[0] - 1) / 2, max(shape) / 2
        self.powers = terms(order)
        self.coefficients: Floats = np.zeros((len(self.powers), 2))

    def design(self, x: Floats, y: Floats) -> Floats:
        u, v = (x - self.x0) / self.scale, (y - self.y0) / self.scale
        return np.stack([u**i * v**j for i, j in self.powers], axis=1)

    def fit(self, x: Floats, y: Floats, targets: Floats, weights: Floats) -> "_Plane":
        root = np.sqrt(weights)[:, None]
        solution, *_ = np.linalg.lstsq(self.design(x, y) * root, targets * root, rcond=None)
        self.coefficients = np.asarray(solution, np.float64)
        return self

    def __call__(self, x: Floats, y: Floats) -> Floats:
        return np.asarray(self.design(x, y) @ self.coefficients)

    @property
    def pixel_deg(self) -> float:
        linear = self.coefficients[1:3] / self.scale
        return math.sqrt(abs(float(np.linalg.det(linear))))


def match(field: Field, start: Floats, order: int, radius_deg: float | None) -> Match | None:
    """Match objects with stars.

    Parameters
    ----------
    field
        Objects and stars.
    start
        First positions of the objects on the tangent plane, degrees, shape (n, 2); NaN where unknown.
    order
        Of the polynomial, at most.
    radius_deg
        Final tolerance; from the residuals when None.

    Returns
    -------
    Match or None
        None when no match is clearly better than chance.
    """
    known = np.isfinite(start).all(axis=1)
    if known.sum() < _MIN_MATCHES or len(field.xi) < _MIN_MATCHES:
        return None
    rough = _Plane(field.shape, 1).fit(field.x[known], field.y[known], start[known], np.ones(int(known.sum())))
    pixel_deg = rough.pixel_deg
    if not (math.isfinite(pixel_deg) and pixel_deg > 0):
        return None
    tree = cKDTree(np.stack([field.xi, field.eta], axis=1))
    for guess in _votes(field, start, pixel_deg, rough.coefficients[1:3]):
        closer = _approach(field, tree, guess, max(order, 1), pixel_deg)
        found = (
            None
            if closer is None
            else _final(field, tree, closer, order=max(order, 1), radius_deg=radius_deg, pixel_deg=pixel_deg)
        )
        if found is not None:
            return found
    return None


def _approach(field: Field, tree: cKDTree, guess: Floats, order: int, pixel_deg: float) -> Floats | None:
    for stage_order, tolerance_pix in _STAGES:
        pairs = _pairs(tree, guess, tolerance_pix * pixel_deg)
        # a fit through few pairs has to stay stiff
        used = _supported(min(stage_order, order), len(pairs[0]))
        if used < 1:
            return None
        guess = _robust_fit(field, pairs, used, tolerance_pix * pixel_deg)
    return guess


def _supported(order: int, matches: int) -> int:
    while order > 1 and matches < _MATCHES_PER_TERM * len(terms(order)):
        order -= 1
    return order if matches >= _MIN_MATCHES else 0


def _votes(field: Field, start: Floats, pixel_deg: float, axes: Floats) -> Iterator[Floats]:
    """Shift the first positions so that bright objects fall on stars; then turn and scale them too."""
    usable = np.isfinite(start).all(axis=1)
    bright = np.flatnonzero(usable & field.clean)[:_BRIGHT_OBJECTS]
    if len(bright) < _VOTE_MIN:
        bright = np.flatnonzero(usable)[:_BRIGHT_OBJECTS]
    reach_pix = float(np.clip(_SHIFT_FRACTION * max(field.shape), *_SHIFT_BOUNDS_PIX))
    stars = _bright_stars(field, start[usable], len(bright), reach_pix * pixel_deg)
    if len(stars) < _VOTE_MIN:
        return
    middle = np.nanmean(start[usable], axis=0)
    positions = (start[bright] - middle) / pixel_deg
    stars = (stars - middle) / pixel_deg
    shift, significance = _peak(positions, stars, reach_pix)
    if significance >= _VOTE_SIGNIFICANCE:
        yield start + shift * pixel_deg
    # hundreds of votes: fewer pairs in each
    few = positions[: int(np.clip(_VOTE_PAIRS / len(stars), _VOTE_FEWEST, _BRIGHT_OBJECTS // 2))]
    for mirrors, angles_deg, scales in (
        (_UPRIGHT, _ROTATIONS_DEG, _SCALES),
        (_TURNED, _FEW_ROTATIONS_DEG, _FEW_SCALES),
    ):
        best: tuple[float, Floats, Floats] = (0.0, np.zeros(2), np.eye(2))
        for mirror, angle, scale in product(mirrors, np.deg2rad(angles_deg), scales):
            rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            # mirrors are along the axes of the detector, whose directions on the sky are the rows of `axes`
            turn = scale * np.linalg.solve(axes, mirror @ axes) @ rotation
            shift, significance = _peak(few @ turn, stars, reach_pix)
            if significance > best[0]:
                best = significance, shift, turn
        if best[0] >= _VOTE_SIGNIFICANCE:
            yield np.asarray(((start - middle) / pixel_deg @ best[2] + best[1]) * pixel_deg + middle)


def _bright_stars(field: Field, positions: Floats, count: int, reach_deg: float) -> Floats:
    """Give the stars within reach of the frame, as dense as the bright objects are if their brightness is known."""
    low, high = positions.min(axis=0) - reach_deg, positions.max(axis=0) + reach_deg
    stars = np.stack([field.xi, field.eta], axis=1)
    near = stars[((stars > low) & (stars < high)).all(axis=1)]
    if not field.ranked:
        return np.asarray(near[: 10 * _BRIGHT_OBJECTS])
    area_ratio = float(np.prod((high - low) / np.maximum(high - low - 2 * reach_deg, 1e-9)))
    return np.asarray(near[: max(int(1.5 * count * min(area_ratio, 4.0)), 30)])


def _peak(positions: Floats, stars: Floats, reach_pix: float) -> tuple[Floats, float]:
    """Find the most frequent difference, pixels, and how far it stands above chance, in standard deviations."""
    differences = (stars[None, :, :] - positions[:, None, :]).reshape(-1, 2)
    differences = differences[(np.abs(differences) < reach_pix).all(axis=1)]
    bins = int(2 * reach_pix / _VOTE_BIN_PIX)
    index = ((differences + reach_pix) / (2 * reach_pix) * bins).astype(np.intp)
    counts = np.bincount(index[:, 0] * bins + index[:, 1], minlength=bins * bins).reshape(bins, bins)
    smooth = uniform_filter(counts.astype(float), 3, mode="constant") * 9
    row, column = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
    expected = max(9 * len(differences) / bins**2, 0.5)
    if smooth[row, column] < _VOTE_MIN:
        return np.zeros(2), 0.0
    near = (np.abs(index - [row, column]) <= 1).all(axis=1)
    shift = np.median(differences[near], axis=0)
    return shift, float((smooth[row, column] - expected) / math.sqrt(expected))


def _pairs(tree: cKDTree, positions: Floats, tolerance_deg: float) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Pair each object with its nearest star and each star with its nearest object."""
    usable = np.flatnonzero(np.isfinite(positions).all(axis=1))
    distance, star = tree.query(positions[usable], distance_upper_bound=tolerance_deg)
    there = np.isfinite(distance)
    objects, star, distance = usable[there], star[there], distance[there]
    nearest = np.lexsort((distance, star))
    keep = np.ones(len(nearest), bool)
    keep[1:] = star[nearest][1:] != star[nearest][:-1]
    chosen = nearest[keep]
    return objects[chosen], star[chosen], distance[chosen]


def _robust_fit(
    field: Field, pairs: tuple[NDArray[np.intp], NDArray[np.intp], Floats], order: int, tolerance_deg: float
) -> Floats:
    objects, stars, _ = pairs
    targets = np.stack([field.xi[stars], field.eta[stars]], axis=1)
    x, y = field.x[objects], field.y[objects]
    weights = np.ones(len(objects))
    plane = _Plane(field.shape, order)
    for _ in range(4):
        plane.fit(x, y, targets, weights)
        distance = np.hypot(*(plane(x, y) - targets).T)
        core = max(float(np.median(distance)), 1e-3 * tolerance_deg)
        weights = 1 / (1 + (distance / (2 * core)) ** 2) ** 2
    return plane(field.x, field.y)


def _final(
    field: Field, tree: cKDTree, guess: Floats, *, order: int, radius_deg: float | None, pixel_deg: float
) -> Match | None:
    """Repeat a weighted, clipped fit until its pairs settle, and judge it."""
    tolerance_deg = radius_deg or _TOLERANCE_BOUNDS_PIX[1] * pixel_deg
    for number in range(_FINAL_ROUNDS):
        objects, stars, distance = _pairs(tree, guess, tolerance_deg)
        used = _supported(order, len(objects))
        if used < 1:
            return None
        weights, good = _weights(field, objects, stars, distance, pixel_deg)
        if good.sum() < _MIN_MATCHES:
            return None
        used = _supported(order, int(good.sum()))
        targets = np.stack([field.xi[stars], field.eta[stars]], axis=1)
        plane = _Plane(field.shape, used).fit(
            field.x[objects[good]], field.y[objects[good]], targets[good], weights[good]
        )
        guess = plane(field.x, field.y)
        if radius_deg is None and number == _FINAL_ROUNDS // 2:
            spread = 1.48 * float(np.median(distance))
            tolerance_deg = _bounded(5 * spread, pixel_deg)
    if not _is_real(field, tree, guess, tolerance_deg, pixel_deg):
        return None
    residual = np.hypot(*(guess[objects] - targets).T)[good]
    rms_deg = math.sqrt(float(np.sum(weights[good] * residual**2) / np.sum(weights[good])))
    return Match(objects[good], stars[good], weights[good], used, rms_deg)


def _bounded(tolerance_deg: float, pixel_deg: float) -> float:
    low, high = _TOLERANCE_BOUNDS_PIX
    return min(max(tolerance_deg, low * pixel_deg), high * pixel_deg)


def _weights(
    field: Field, objects: NDArray[np.intp], stars: NDArray[np.intp], distance: Floats, pixel_deg: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Weigh pairs by the errors of both sides and by what the residuals of the best show to be missing in these."""
    known = (np.clip(field.error_pix[objects], *_ERROR_BOUNDS_PIX) * pixel_deg) ** 2 + field.star_error_deg[stars] ** 2
    best = known <= np.quantile(known, 0.3)
    # the median of a 2-D Gaussian distance is 1.177 sigma
    seen = float(np.median(distance[best]) / 1.177) ** 2
    floor = max(seen - float(np.median(known[best])), (0.002 * pixel_deg) ** 2)
    variance = known + floor
    flagged = ~field.clean[objects]
    variance[flagged] *= 9.0  # blended or saturated: their centroids are off by more than their noise
    good = distance**2 < _CLIP_SIGMA**2 * 2 * variance
    return pixel_deg**2 / variance, good


def _is_real(field: Field, tree: cKDTree, positions: Floats, tolerance_deg: float, pixel_deg: float) -> bool:
    """Tell whether more objects lie on stars, and closer, than chance would have it."""
    # in a crowded catalogue each object has a star within two pixels: a fine tolerance tells more
    tolerance_deg = _bounded(tolerance_deg, pixel_deg)
    bright = positions[np.isfinite(positions).all(axis=1)][: 5 * _BRIGHT_OBJECTS]
    distance, _ = tree.query(bright, distance_upper_bound=tolerance_deg)
    there = np.isfinite(distance)
    low, high = bright.min(axis=0), bright.max(axis=0)
    stars = np.stack([field.xi, field.eta], axis=1)
    inside = int(((stars > low) & (stars < high)).all(axis=1).sum())
    density = inside / max(float(np.prod(high - low)), 1e-12)
    chance = len(bright) * (1 - math.exp(-density * math.pi * tolerance_deg**2))
    found = int(there.sum())
    if found < _MIN_MATCHES or found < _MIN_EXCESS_RATIO * chance:
        return False
    if found - chance < _MIN_EXCESS_SIGMA * math.sqrt(max(chance, 0.25)):
        return False
    if float(np.median(distance[there])) > _MAX_RMS_FRACTION * tolerance_deg:
        return False
    return _is_everywhere(bright, there, stars)


def _is_everywhere(positions: Floats, matched: NDArray[np.bool_], stars: Floats) -> bool:
    """Tell whether the match holds all over the frame: a wrong rotation fits well in some part of it."""
    low, high = positions.min(axis=0), positions.max(axis=0)

    def cells(points: Floats) -> NDArray[np.intp]:
        index = ((points - low) / np.maximum(high - low, 1e-12) * _CELLS).astype(np.intp).clip(0, _CELLS - 1)
        return np.asarray(index[:, 0] * _CELLS + index[:, 1])

    inside = ((stars >= low) & (stars <= high)).all(axis=1)
    of_objects, count = cells(positions), _CELLS * _CELLS
    objects = np.bincount(of_objects, minlength=count)
    hits = np.bincount(of_objects[matched], minlength=count)
    filled = (objects >= _CELL_MIN) & (np.bincount(cells(stars[inside]), minlength=count) >= _CELL_MIN)
    if filled.sum() < _CELLS:
        return True
    fraction = hits[filled] / objects[filled]
    return bool(np.mean(fraction > _CELL_FRACTION * fraction.max()) > _CELLS_GOOD)
