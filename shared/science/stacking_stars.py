"""Stars of the images of a stack: found, paired, and used to lay one image over another without world coordinates.

Triangles of neighbouring stars, told by the ratios of their sides, give candidates for the transformation, as in
astroalign (Beroiz et al. 2020, Astronomy and Computing 32, 100384), which is not used because it does not know
mirrored images; the candidate that brings most stars together is refined by least squares.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .astrometry_sip import terms
from .stacking_grid import Floats, Transform

_THRESHOLDS_SIGMA: Final = (8.0, 4.0)
"""The lower one where the other finds few stars."""

_FEW_STARS: Final = 20
_MIN_AREA: Final = 5
_MAX_STARS: Final = 500
_STACK_PIXELS: Final = 3_000_000
_APERTURE_FWHM: Final = 2.5
_MIN_FWHM_PIX: Final = 1.2

_BRIGHT: Final = 60
_NEIGHBOURS: Final = 7
_SHAPE_TOLERANCE: Final = 0.006
_FLAT: Final = 0.1
_MAX_CANDIDATES: Final = 4000
_MAX_STRETCH: Final = 1.1
_VOTE_PIX: Final = 3.0
_ROUNDS_PIX: Final = (3.0, 2.0, 1.5, 1.0)
_MIN_PAIRS: Final = 6
_MIN_SHARE: Final = 0.25
_OVER_CHANCE: Final = 5.0
_PAIRS_FOR_BENDING: Final = 40

_MIN_SCALE_PAIRS: Final = 5
_MAX_SCALE_ERROR: Final = 0.03


@dataclass(frozen=True)
class Stars:
    """Clean stars of an image, the brightest first.

    Parameters
    ----------
    x, y
        Pixels, 0-based.
    flux
        ADU, in an aperture of 2.5 FWHM.
    fwhm_pix
        Median of twice the radius of half of the flux; NaN without stars.
    """

    x: Floats
    y: Floats
    flux: Floats
    fwhm_pix: float

    def __len__(self) -> int:
        return len(self.x)


_NO_STARS: Final = Stars(np.zeros(0), np.zeros(0), np.zeros(0), math.nan)


def find_stars(image: NDArray[np.float32], unusable: NDArray[np.bool_], noise_adu: float) -> Stars:
    """Find the brighter stars of an image whose background is about zero; none where there are none.

    Parameters
    ----------
    image
        Finite where it is usable.
    unusable
        Pixels without a value, and saturated ones.
    noise_adu
        Standard deviation of the background.
    """
    stars = _NO_STARS
    for threshold in _THRESHOLDS_SIGMA:
        if noise_adu > 0 and len(stars) < _FEW_STARS:
            stars = _stars_above(threshold, image, unusable, noise_adu)
    return stars


def _stars_above(threshold: float, image: NDArray[np.float32], unusable: NDArray[np.bool_], noise_adu: float) -> Stars:
    none = _NO_STARS
    sep.set_extract_pixstack(_STACK_PIXELS)
    try:
        found = sep.extract(image, threshold, err=noise_adu, mask=unusable, minarea=_MIN_AREA)
    except Exception:  # noqa: BLE001  SEP's wrapper raises the bare class; an image that is all objects has no stars
        return none
    found = found[(found["flag"] & (sep.OBJ_MERGED | sep.OBJ_TRUNC)) == 0]
    found = found[np.argsort(-found["flux"], kind="stable")][: 3 * _MAX_STARS]
    if not len(found):
        return none
    half, _ = sep.flux_radius(image, found["x"], found["y"], 6.0 * found["a"], 0.5, subpix=5, mask=unusable)
    wide = 2 * half > _MIN_FWHM_PIX
    if not wide.any():
        return none
    found, fwhm_pix = found[wide], float(np.median(2 * half[wide][:_MAX_STARS]))
    radius = _APERTURE_FWHM * fwhm_pix
    x, y, _ = sep.winpos(image, found["x"], found["y"], fwhm_pix / 2.355, mask=unusable)
    flux, _, flags = sep.sum_circle(image, x, y, radius, mask=unusable)
    clean = (flags == 0) & (flux > 0) & np.isfinite(x) & np.isfinite(y)
    order = np.flatnonzero(clean)[np.argsort(-flux[clean], kind="stable")][:_MAX_STARS]
    x, y, flux = (np.ascontiguousarray(one[order], dtype=float) for one in (x, y, flux))
    return Stars(x, y, flux, fwhm_pix)


def pairs_of(first: Stars, other: Stars, transform: Transform, radius_pix: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pair the stars of two images, one to one, within a radius in the other one's pixels.

    Returns
    -------
    Indices into the first and the other.
    """
    x, y = transform(first.x, first.y)
    return _pairs(np.stack([x, y], axis=1), np.stack([other.x, other.y], axis=1), radius_pix)


def _pairs(points: Floats, others: Floats, radius_pix: float) -> tuple[NDArray[Any], NDArray[Any]]:
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    if not known.size or not len(others):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    distance, index = cKDTree(others).query(points[known], distance_upper_bound=radius_pix)
    near = np.flatnonzero(np.isfinite(distance))
    near = near[np.argsort(distance[near], kind="stable")]
    _, once = np.unique(index[near], return_index=True)
    return known[near[once]], index[near[once]]


def expected_pairs(first: Stars, transform: Transform, shape: tuple[int, int]) -> int:
    """Count the brightest stars of the first image that the other one, of some shape, should show."""
    x, y = transform(first.x[:_BRIGHT], first.y[:_BRIGHT])
    return int(((x > 0) & (x < shape[1] - 1) & (y > 0) & (y < shape[0] - 1)).sum())


def bright(stars: Stars) -> Stars:
    """Give the brightest stars."""
    return Stars(stars.x[:_BRIGHT], stars.y[:_BRIGHT], stars.flux[:_BRIGHT], stars.fwhm_pix)


def flux_scale(first: Stars, other: Stars, pairs: tuple[NDArray[Any], NDArray[Any]]) -> tuple[float, float] | None:
    """Measure how much brighter stars are in the other image, and the error of that; None with too few stars."""
    if len(pairs[0]) < _MIN_SCALE_PAIRS:
        return None
    ratios = other.flux[pairs[1]] / first.flux[pairs[0]]
    ratios = ratios[np.argsort(-first.flux[pairs[0]])][: max(_BRIGHT, len(ratios) // 2)]
    scale = float(np.median(ratios))
    error = 1.4826 * float(np.median(np.abs(ratios - scale))) * 1.25 / np.sqrt(len(ratios))
    return (scale, error) if scale > 0 and error < _MAX_SCALE_ERROR * scale else None


def match_stars(first: Stars, other: Stars) -> tuple[Transform, int] | None:
    """Find where the stars of the first image are in the other one, turned, mirrored and scaled as it may be.

    Returns
    -------
    transform, pairs
        From pixels of the first image to pixels of the other, and how many stars agree; None when none was found.
    """
    points, others = (np.stack([one.x, one.y], axis=1) for one in (first, other))
    if min(len(points), len(others)) < _MIN_PAIRS:
        return None
    matrices = _candidates(points[:_BRIGHT], others[:_BRIGHT])
    if not len(matrices):
        return None
    votes = _votes(matrices, points[:_BRIGHT], others[:_BRIGHT])
    solution = matrices[int(np.argmax(votes))]
    order = 1
    here = there = np.zeros(0, np.intp)
    for radius_pix in _ROUNDS_PIX:
        here, there = _pairs(_design(points, order) @ solution.T, others, radius_pix)
        if len(here) < _MIN_PAIRS:
            return None
        if radius_pix < _ROUNDS_PIX[0] and len(here) >= _PAIRS_FOR_BENDING:
            order = 2
        solution = np.linalg.lstsq(_design(points[here], order), others[there], rcond=None)[0].T
    if not _credible(points, others, _design(points, order) @ solution.T, len(here)):
        return None

    def transform(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        there = _design(np.stack([x.ravel(), y.ravel()], axis=1), order) @ solution.T
        return there[:, 0].reshape(x.shape), there[:, 1].reshape(x.shape)

    return transform, len(here)


def _design(points: Floats, order: int) -> Floats:
    # in thousands of pixels, so that squares do not drown the rest
    u, v = points[:, 0] / 1000, points[:, 1] / 1000
    return np.stack([u**i * v**j for i, j in terms(order)], axis=1)


def _triangles(points: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Give the shapes of triangles of neighbours, and their corners, each opposite to a longer side than the next."""
    count = min(_NEIGHBOURS + 1, len(points))
    _, near = cKDTree(points).query(points, k=count)
    corners = np.unique(
        np.sort(np.array([(row[0], *pair) for row in near for pair in combinations(row[1:], 2)]), axis=1), axis=0
    )
    at = points[corners]
    sides = np.stack([np.hypot(*(at[:, (k + 1) % 3] - at[:, (k + 2) % 3]).T) for k in range(3)], axis=1)
    order = np.argsort(-sides, axis=1)
    sides = np.take_along_axis(sides, order, axis=1)
    corners = np.take_along_axis(corners, order, axis=1)
    fine = (sides[:, 0] > 0) & (sides[:, 2] > _FLAT * sides[:, 0])
    shapes = sides[fine, 1:] / sides[fine, :1]
    return shapes, corners[fine]


def _candidates(points: Floats, others: Floats) -> Floats:
    """Give transformations, (2, 3) matrices for `_design`, that bring a triangle onto one of the same shape."""
    shapes, corners = _triangles(points)
    other_shapes, other_corners = _triangles(others)
    none = np.zeros((0, 2, 3))
    if not len(shapes) or not len(other_shapes):
        return none
    near = cKDTree(shapes).query_ball_tree(cKDTree(other_shapes), _SHAPE_TOLERANCE)
    same = [(k, m) for k, found in enumerate(near) for m in found]
    if not same:
        return none
    # evenly from all over the image, where there are too many
    pairs = np.array(same)[:: max(len(same) // _MAX_CANDIDATES, 1)]
    here, there = points[corners[pairs[:, 0]]], others[other_corners[pairs[:, 1]]]
    design = np.stack([_design(three, 1) for three in here])
    usable = np.abs(np.linalg.det(design)) > 1e-9  # noqa: PLR2004  three stars on a line
    matrices: Floats = np.swapaxes(np.linalg.solve(design[usable], there[usable]), 1, 2)
    stretch = np.linalg.svd(matrices[:, :, 1:], compute_uv=False)
    kept: Floats = matrices[(stretch[:, 1] > 0) & (stretch[:, 0] < _MAX_STRETCH * stretch[:, 1])]
    return kept


def _votes(matrices: Floats, points: Floats, others: Floats) -> NDArray[np.int64]:
    landed = np.einsum("nk,mck->mnc", _design(points, 1), matrices)
    distance, _ = cKDTree(others).query(landed.reshape(-1, 2), distance_upper_bound=_VOTE_PIX)
    votes: NDArray[np.int64] = np.isfinite(distance).reshape(len(matrices), len(points)).sum(axis=1)
    return votes


def _credible(points: Floats, others: Floats, landed: Floats, pairs: int) -> bool:
    """Tell whether so many stars agree that it is no chance."""
    low, high = others.min(axis=0), others.max(axis=0)
    common = int(((landed >= low) & (landed <= high)).all(axis=1).sum())
    area = float(np.prod(np.maximum(high - low, 1)))
    chance = common * len(others) / area * np.pi * _ROUNDS_PIX[-1] ** 2
    return pairs >= max(_MIN_PAIRS, _MIN_SHARE * min(common, len(others)), _OVER_CHANCE * chance) and len(points) > 0
