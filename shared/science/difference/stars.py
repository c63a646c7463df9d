"""Stars by which image and template are matched."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...errors import DataError
from .prepare import Frame

_PEAK_SIDE_PIX: Final = 7
_CORE_PIX: Final = 3
_MAX_TRIES: Final = 2
_STACK_RADIUS_PIX: Final = 20
_STACK_STARS: Final = 50
_FINE: Final = 8
_RING_PIX: Final = 2
_SHARP_PERCENTILE: Final = 80
_STAR_CONCENTRATION: Final = 0.94
"""Light in the middle of a star over that of the sharper ones, at least."""


@dataclass(frozen=True)
class Box:
    """A part of the frame: rows from `top` up to `bottom`, columns from `left` up to `right`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Give it as an index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Stars:
    """Peaks that are seen in both frames, brightest first.

    Parameters
    ----------
    x, y
        0-based pixels of the peak.
    peak
        Its height in the fainter of both, in units of the noise of the sky.
    """

    x: NDArray[np.intp]
    y: NDArray[np.intp]
    peak: NDArray[np.float32]

    def __len__(self) -> int:
        return self.x.size

    def take(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> "Stars":
        """Choose some."""
        return Stars(self.x[keep], self.y[keep], self.peak[keep])


def find_stars(image: Frame, template: Frame, threshold: float) -> Stars:
    """Find peaks above a threshold in both frames, without bad pixels in their cores.

    Parameters
    ----------
    threshold
        In units of the noise of the sky.
    """
    highest = ndimage.maximum_filter(image.pixels, _PEAK_SIDE_PIX, mode="nearest")
    peaks = (image.pixels == highest) & (image.pixels > threshold * image.sky)
    y, x = np.nonzero(peaks)
    del highest, peaks
    rows, columns = image.shape
    inside = (x >= _CORE_PIX) & (y >= _CORE_PIX) & (x < columns - _CORE_PIX) & (y < rows - _CORE_PIX)
    x, y = x[inside], y[inside]
    other = np.full(x.size, -np.inf, np.float32)
    dirty = np.zeros(x.size, bool)
    for dy in range(-_CORE_PIX, _CORE_PIX + 1):
        for dx in range(-_CORE_PIX, _CORE_PIX + 1):
            dirty |= image.bad[y + dy, x + dx] | template.bad[y + dy, x + dx]
            if max(abs(dx), abs(dy)) < _CORE_PIX:
                other = np.maximum(other, template.pixels[y + dy, x + dx])
    height = np.minimum(image.pixels[y, x] / image.sky[y, x], other / template.sky[y, x])
    good = ~dirty & (height > threshold)
    x, y, height = x[good], y[good], height[good]
    order = np.argsort(-height, kind="stable")
    return Stars(x[order], y[order], height[order])


def find_enough(image: Frame, template: Frame, threshold: float, factor: float, least: int) -> Stars:
    """Find stars, with a lower threshold when they are fewer than `least`.

    Raises
    ------
    DataError
        When there are none at all.
    """
    found = find_stars(image, template, threshold)
    for _ in range(_MAX_TRIES):
        if len(found) >= least:
            break
        threshold *= factor
        found = find_stars(image, template, threshold)
    if not len(found):
        raise DataError(
            "no_kernel_stars",
            "No star is seen in image and template both, so that they cannot be matched. Check that the template "
            "covers the field, the astrometry of both, the saturation levels, and the masks.",
        )
    return found


def spread(stars: Stars, box: Box, cells: tuple[int, int], per_cell: int) -> Stars:
    """Choose the brightest stars of each cell of a region.

    Parameters
    ----------
    box
        The region.
    cells
        Number of cells along y and x.
    """
    inside = stars.take((stars.x >= box.left) & (stars.x < box.right) & (stars.y >= box.top) & (stars.y < box.bottom))
    row = (inside.y - box.top) * cells[0] // (box.bottom - box.top)
    column = (inside.x - box.left) * cells[1] // (box.right - box.left)
    cell = row * cells[1] + column
    order = np.argsort(cell, kind="stable")  # within a cell the brightest stay first
    _, first, count = np.unique(cell[order], return_index=True, return_counts=True)
    rank = np.arange(len(inside)) - np.repeat(first, count)
    return inside.take(np.sort(order[rank < per_cell]))


def measure_fwhm(frame: Frame, stars: Stars) -> float:
    """Measure the width of stars: of the circle with the area that lies above half of the peak, pixels.

    Raises
    ------
    DataError
        When no star is clean enough.
    """
    return width(psf(frame, frame, stars, min(_STACK_RADIUS_PIX, min(frame.shape) // 4)))


def width(profile: NDArray[np.float64]) -> float:
    """Measure the diameter of the circle with the area that lies above half of the peak, pixels."""
    fine = ndimage.zoom(profile, _FINE, order=3, grid_mode=True, mode="grid-constant")
    labels, _ = ndimage.label(fine > 0.5 * fine.max())
    top = np.unravel_index(int(np.argmax(fine)), fine.shape)
    area = float((labels == labels[top]).sum()) / _FINE**2
    return float(2 * np.sqrt(area / np.pi))


def psf(frame: Frame, centred: Frame, stars: Stars, radius: int) -> NDArray[np.float64]:
    """Stack the brightest stars into their common shape, of the sum 1.

    Parameters
    ----------
    centred
        The frame in which the stars are centred on the middle pixel. When it is another one, a common shift between
        both frames becomes part of the shape.
    radius
        Half-width of the result, pixels.

    Raises
    ------
    DataError
        When no star is clean enough.
    """
    rows, columns = frame.shape
    pieces = []
    for x, y in zip(stars.x, stars.y, strict=True):
        if not (radius < x < columns - radius - 1 and radius < y < rows - radius - 1):
            continue
        box = slice(y - radius, y + radius + 1), slice(x - radius, x + radius + 1)
        core = slice(y - _CORE_PIX, y + _CORE_PIX + 1), slice(x - _CORE_PIX, x + _CORE_PIX + 1)
        weights, flux = np.maximum(centred.pixels[core], 0), float(frame.pixels[core].sum())
        if weights.sum() <= 0 or flux <= 0:
            continue
        dy, dx = np.array(ndimage.center_of_mass(weights)) - _CORE_PIX
        piece = ndimage.shift(frame.pixels[box].astype(float), (-dy, -dx), order=5, mode="nearest")
        bad = ndimage.shift(frame.bad[box].astype(np.float32), (-dy, -dx), order=1, mode="nearest") > 0
        pieces.append(np.where(bad, np.nan, piece / flux))
        if len(pieces) >= _STACK_STARS:
            break
    if not pieces:
        raise DataError(
            "no_psf_stars",
            "No star of the image is clean enough to measure its shape. Check the masks and the saturation level.",
        )
    stack = _sharpest(np.array(pieces), radius)
    seen = np.isfinite(stack).any(axis=0)
    shape = np.zeros(stack.shape[1:])
    shape[seen] = np.nanmedian(stack[:, seen], axis=0)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    # neighbours raise the median of a crowded field, by about as much everywhere
    level = float(np.median(shape[np.hypot(x, y) > radius - _RING_PIX]))
    shape = np.maximum(shape - level, 0)
    return np.asarray(shape / shape.sum())


def _sharpest(stack: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Choose the stars among centred pieces: galaxies and blends have less of their light in the middle."""
    middle, core = (
        stack[:, radius - half : radius + half + 1, radius - half : radius + half + 1].sum(axis=(1, 2))
        for half in (1, _CORE_PIX)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        concentration = middle / core
    known = concentration[np.isfinite(concentration)]
    if not known.size:
        return stack
    chosen = concentration > _STAR_CONCENTRATION * np.percentile(known, _SHARP_PERCENTILE)
    return np.asarray(stack[chosen])


def shortest_half(values: NDArray[np.float64]) -> tuple[float, float]:
    """Give the median of the half of the values that lies closest together, and its length.

    It stays where it is when nearly half of the values are anywhere (Rousseeuw & Leroy 1987, section 4.4); a median of
    all is off by as much as those are many.
    """
    ordered = np.sort(values)
    half = (ordered.size + 1) // 2
    lengths = ordered[half - 1 :] - ordered[: ordered.size - half + 1]
    first = int(np.argmin(lengths))
    return float(np.median(ordered[first : first + half])), float(lengths[first])
