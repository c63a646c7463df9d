"""Putting an image on the pixel grid of another, so that the fluxes of stars stay what they are.

Where the pixels of the grid lie in the image is computed on every 16th pixel and interpolated in between. Pixels are
interpolated with a Lanczos kernel of three lobes, and multiplied by the area of a pixel of the grid in pixels of the
image, so that sums over apertures stay (as SWarp does, Bertin et al. 2002, ASPC 281, 228). Where a pixel of the grid
holds several of the image, it is the mean of several samples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from astropy.wcs import WCS, NoConvergence, WcsError
from numba import njit
from numpy.typing import NDArray

from .images import FITS_FAULTS, quiet_fits

Floats = NDArray[np.float64]
Transform = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""From pixels of the grid to pixels of the image, 0-based; NaN where there is none."""

BAD: Final = 1
SATURATED: Final = 2

_STEP_PIX: Final = 16
_WHOLE_PIX: Final = 0.003
_ROUND_TRIP_PIX: Final = 0.5
_LOBES: Final = 3
_PHASES: Final = 2048
_MAX_SAMPLES: Final = 8
_FINE_AREA: Final = 1.25
_BAD_WEIGHT: Final = 0.1
_FAULTS: Final = (*FITS_FAULTS, NoConvergence, WcsError, RuntimeError)


@dataclass(frozen=True)
class Placement:
    """Where the pixels of a grid lie in an image.

    Parameters
    ----------
    x, y
        Pixels of the image at every 16th pixel of the grid, 0-based.
    area
        Of a pixel of the grid there, in pixels of the image.
    shape
        Of the grid, (rows, columns).
    shift
        (rows, columns) to add to a pixel of the grid, where the two differ by whole pixels only.
    """

    x: Floats
    y: Floats
    area: Floats
    shape: tuple[int, int]
    shift: tuple[int, int] | None

    @property
    def mean_area(self) -> float:
        """Of a pixel of the grid, in pixels of the image; NaN when the two have no pixel in common."""
        return float(np.nanmedian(self.area)) if np.isfinite(self.area).any() else math.nan


def wcs_transform(grid: WCS, image: WCS) -> Transform:
    """Go from pixels to pixels by way of the sky."""

    def transform(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        shape = x.shape
        with quiet_fits():
            ra, dec = grid.all_pix2world(x.ravel(), y.ravel(), 0)
            there = _to_pixels(image, ra, dec)
        return there[0].reshape(shape), there[1].reshape(shape)

    return transform


def _to_pixels(wcs: WCS, ra_deg: Floats, dec_deg: Floats) -> Floats:
    """Invert a solution; NaN where it, continued beyond its image, has no inverse."""
    there = np.full((2, len(ra_deg)), np.nan)
    known = np.isfinite(ra_deg) & np.isfinite(dec_deg)
    try:
        found = np.array(wcs.all_world2pix(ra_deg[known], dec_deg[known], 0, quiet=True))
        back_ra, back_dec = wcs.all_pix2world(found[0], found[1], 0)
        again = np.array(wcs.wcs_world2pix(back_ra, back_dec, 0))
        wanted = np.array(wcs.wcs_world2pix(ra_deg[known], dec_deg[known], 0))
    except _FAULTS:
        return there
    found[:, ~(np.hypot(*(again - wanted)) < _ROUND_TRIP_PIX)] = np.nan
    there[:, known] = found
    return there


def place(transform: Transform, shape: tuple[int, int]) -> Placement:
    """Find where the pixels of a grid of some shape lie in an image."""
    rows, columns = shape
    grid_x, grid_y = np.meshgrid(
        np.arange(0, columns + _STEP_PIX, _STEP_PIX, dtype=float),
        np.arange(0, rows + _STEP_PIX, _STEP_PIX, dtype=float),
    )
    x, y = transform(grid_x, grid_y)
    (x_row, x_column), (y_row, y_column) = (np.gradient(one, _STEP_PIX) for one in (x, y))
    area = np.abs(x_column * y_row - x_row * y_column)
    return Placement(x, y, area, shape, _shift_of(x - grid_x, y - grid_y))


def _shift_of(dx: Floats, dy: Floats) -> tuple[int, int] | None:
    if not (np.isfinite(dx).all() and np.isfinite(dy).all()):
        return None
    row, column = round(float(dy.mean())), round(float(dx.mean()))
    largest = max(float(np.abs(dy - row).max()), float(np.abs(dx - column).max()))
    return (row, column) if largest < _WHOLE_PIX else None


def resample(
    image: NDArray[np.float32], flags: NDArray[np.uint8], placement: Placement
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Put an image on a grid.

    Parameters
    ----------
    image
        The image.
    flags
        `BAD` where a pixel has no value, `SATURATED` where it has one that is too low.
    placement
        Where the pixels of the grid lie.

    Returns
    -------
    image, saturated
        On the grid: NaN where there is no value; True where saturated pixels take part.
    """
    out = np.full(placement.shape, np.nan, np.float32)
    saturated = np.zeros(placement.shape, np.bool_)
    if placement.shift is not None:
        here, there = _common(placement.shift, placement.shape, image.shape)
        out[here] = np.where(flags[there] & BAD, np.float32(np.nan), image[there])
        saturated[here] = (flags[there] & SATURATED) > 0
        return out, saturated
    area = placement.mean_area
    side = math.sqrt(area) if math.isfinite(area) else 1.0
    samples = 1 if side <= _FINE_AREA else min(math.ceil(side), _MAX_SAMPLES)
    _sample(image, flags, placement.x, placement.y, placement.area, _kernel(), samples, out, saturated)
    return out, saturated


def _common(
    shift: tuple[int, int], grid: tuple[int, int], image: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    here, there = [], []
    for step, length, other in zip(shift, grid, image, strict=True):
        first, last = max(0, -step), min(length, other - step)
        last = max(first, last)
        here.append(slice(first, last))
        there.append(slice(first + step, last + step))
    return (here[0], here[1]), (there[0], there[1])


def _kernel() -> NDArray[np.float32]:
    """Tabulate the weights of the six pixels around a position, by its place between the middle two."""
    phase = np.arange(_PHASES + 1)[:, None] / _PHASES
    distance = np.arange(1 - _LOBES, _LOBES + 1)[None, :] - phase
    weights = np.sinc(distance) * np.sinc(distance / _LOBES)
    return np.ascontiguousarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


@njit(cache=True)
def _between(nodes, row, column, down, right):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  compiled
    return (1 - down) * ((1 - right) * nodes[row, column] + right * nodes[row, column + 1]) + down * (
        (1 - right) * nodes[row + 1, column] + right * nodes[row + 1, column + 1]
    )


@njit(cache=True)
def _value_at(image, flags, kernel, x, y):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  compiled
    """Interpolate; NaN where too much weight lies on bad pixels or beyond the edge. Second: whether saturated."""
    rows, columns = image.shape
    left, bottom = math.floor(x), math.floor(y)
    across = kernel[round((x - left) * _PHASES)]
    along = kernel[round((y - bottom) * _PHASES)]
    total, weight, bad = 0.0, 0.0, 0.0
    saturated = False
    for j in range(2 * _LOBES):
        row = bottom + j - _LOBES + 1
        for i in range(2 * _LOBES):
            column = left + i - _LOBES + 1
            w = along[j] * across[i]
            if row < 0 or row >= rows or column < 0 or column >= columns or flags[row, column] & BAD:
                bad += abs(w)
                continue
            if flags[row, column] & SATURATED and abs(w) > _BAD_WEIGHT:
                saturated = True
            total += w * image[row, column]
            weight += w
    if bad > _BAD_WEIGHT:
        return math.nan, saturated
    return total / weight, saturated


@njit(cache=True)
def _sample(image, flags, nodes_x, nodes_y, area, kernel, samples, out, saturated):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0917  compiled
    rows, columns = out.shape
    high, wide = image.shape
    for row in range(rows):
        for column in range(columns):
            total = 0.0
            hit = False
            for k in range(samples * samples):
                y = row + ((k // samples) + 0.5) / samples - 0.5
                x = column + ((k % samples) + 0.5) / samples - 0.5
                node_row = max(int(y // _STEP_PIX), 0)
                node_column = max(int(x // _STEP_PIX), 0)
                down, right = y / _STEP_PIX - node_row, x / _STEP_PIX - node_column
                there_x = _between(nodes_x, node_row, node_column, down, right)
                there_y = _between(nodes_y, node_row, node_column, down, right)
                # also false for NaN
                if not (0 <= there_x + 0.5 <= wide and 0 <= there_y + 0.5 <= high):
                    total = math.nan
                    break
                value, saturating = _value_at(image, flags, kernel, there_x, there_y)
                total += value
                hit = hit or saturating
            if math.isnan(total):
                continue
            scale = _between(
                area,
                row // _STEP_PIX,
                column // _STEP_PIX,
                (row % _STEP_PIX) / _STEP_PIX,
                (column % _STEP_PIX) / _STEP_PIX,
            )
            out[row, column] = total / (samples * samples) * scale
            saturated[row, column] = hit
