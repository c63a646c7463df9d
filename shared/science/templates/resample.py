"""Flux-true resampling of an image and its mask onto another pixel grid.

A target pixel gets the source's surface brightness at its place times its own area in source pixels, so that the flux
of a source of light stays what it was, whatever the two scales, rotations, parities and distortions are. The area is
the determinant of the pixel map's derivatives.

Between pixels the image is interpolated with six points a direction: two Lagrange polynomials of degree four, centred
on the neighbours of the place, blended linearly. Its weights sum to one at every place and move the centroid nowhere,
and its frequency response has zeros of high order where the pixels' own copies of the image are. A star of 2.5 pixels
FWHM keeps its flux to 0.07 % whatever the scale is, where normalized Lanczos-3 errs by 0.5 %. Where target pixels are
wider than source pixels they are filled with the mean over 2 x 2 or 3 x 3 places, which is what a pixel does; where
they are much wider, source pixels are summed in blocks first.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .pixelmap import PAD, PixelMap

REACH_PIX: Final = 3
"""Source pixels on each side of a place that its value depends on."""

_TAPS: Final = 2 * REACH_PIX
_PHASES: Final = 1024
"""Steps of the table of weights: a place is rounded to 0.0005 pixels."""
_POINT_LIMIT: Final = 1.1
"""Up to this scale one place a pixel is enough: a star of 2 pixels FWHM keeps its flux to 0.1 %."""
_BLOCK_SCALE: Final = 1.5
"""The least scale that is left after summing blocks: star images stay well sampled until the last step."""
_KNOWN_WEIGHT: Final = 0.5
"""Share of the weights that must lie on pixels with a value."""
_MIN_ROWS: Final = 64


def empty_frame(shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Make a frame that nothing has been put on: NaN, and masked."""
    return np.full(shape, np.nan, np.float32), np.ones(shape, np.bool_)


def paint(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    source: NDArray[np.float32],
    source_mask: NDArray[np.bool_],
    places: PixelMap,
    *,
    origin: tuple[int, int] = (0, 0),
    threads: int = 1,
) -> None:
    """Put a source onto a frame, where that is still masked.

    A target pixel stays masked when any masked, non-finite or missing source pixel takes part in its value. It has a
    value nevertheless where most of what takes part has one.

    Parameters
    ----------
    image, mask
        The frame, changed in place; NaN where there is nothing.
    source, source_mask
        What is put on it, in flux a pixel, and which of its pixels are bad.
    places
        Where the frame's pixels lie in the whole source.
    origin
        Row and column of the whole source where `source` begins.
    threads
        Cores that may be used.
    """
    scale = places.scale
    if not np.isfinite(scale):
        return
    whole = (source.shape[0] + origin[0], source.shape[1] + origin[1])
    box = places.box(whole)
    if box is None:
        return
    x, y = places.x - origin[1], places.y - origin[0]
    block = max(int(scale / _BLOCK_SCALE), 1)
    if block > 1:
        source, source_mask = _summed(np.ascontiguousarray(source), np.ascontiguousarray(source_mask), block)
        x, y = (x + 0.5) / block - 0.5, (y + 0.5) / block - 0.5
    side = max(int(np.ceil(scale / block / _POINT_LIMIT)), 1)
    source = np.ascontiguousarray(source, dtype=np.float32)
    bad = np.ascontiguousarray(source_mask) | ~np.isfinite(source)
    near = _near(bad)
    rows, columns = box

    def work(start: int, stop: int) -> None:
        _paint(image, mask, source, bad, near, x, y, places.step_pix, start, stop, columns.start, columns.stop,
               side, _TABLE)  # fmt: skip

    parts = max(min(threads, (rows.stop - rows.start) // _MIN_ROWS), 1)
    edges = np.linspace(rows.start, rows.stop, parts + 1).astype(int)
    if parts == 1:
        work(rows.start, rows.stop)
        return
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


def reproject(
    source: NDArray[np.float32], source_mask: NDArray[np.bool_], places: PixelMap, *, threads: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Give a source and its mask on the pixel grid of a frame; parameters as `paint`."""
    image, mask = empty_frame(places.shape)
    paint(image, mask, source, source_mask, places, threads=threads)
    return image, mask


def _weights() -> NDArray[np.float64]:
    """Tabulate the weights of six pixels, the third and fourth around the place, by the place between these two."""
    points = np.arange(_TAPS) - (REACH_PIX - 1)
    fraction = np.arange(_PHASES + 1) / _PHASES
    table = np.zeros((_PHASES + 1, _TAPS))
    for first, share in ((0, 1 - fraction), (1, fraction)):
        chosen = points[first : first + _TAPS - 1]
        for k, point in enumerate(chosen):
            others = chosen[chosen != point]
            table[:, first + k] += share * np.prod((fraction[:, None] - others) / (point - others), axis=1)
    table[np.abs(table) < 1e-12] = 0.0  # noqa: PLR2004  what is left of rounding touches no pixel
    return table


_TABLE: Final = _weights()


@njit(cache=True, nogil=True)
def _near(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell for each pixel whether a bad one is among the six by six around the square above and right of it."""
    rows, columns = bad.shape
    along = np.zeros_like(bad)
    for i in range(rows):
        until = -1
        for j in range(min(3, columns)):
            if bad[i, j]:
                until = j + 2
        for j in range(columns):
            if j + 3 < columns and bad[i, j + 3]:
                until = j + 5
            along[i, j] = j <= until
    near = np.zeros_like(bad)
    for i in range(rows):
        for k in range(max(i - 2, 0), min(i + 4, rows)):
            for j in range(columns):
                near[i, j] |= along[k, j]
    return near


@njit(cache=True, nogil=True)
def _summed(
    source: NDArray[np.float32], bad: NDArray[np.bool_], block: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sum blocks of pixels; one bad pixel makes its block bad, one without a value takes it away."""
    rows, columns = source.shape[0] // block, source.shape[1] // block
    total = np.zeros((rows, columns), np.float32)
    touched = np.zeros((rows, columns), np.bool_)
    for i in range(rows * block):
        for j in range(columns * block):
            total[i // block, j // block] += source[i, j]
            touched[i // block, j // block] |= bad[i, j]
    return total, touched


@njit(cache=True, nogil=True, inline="always")
def _cubic(t: float, value: NDArray[np.float64], slope: NDArray[np.float64]) -> None:
    """Set the weights of four nodes at a place 0 to 1 between the inner two, and their derivatives."""
    value[0] = -t * (t - 1) * (t - 2) / 6
    value[1] = (t + 1) * (t - 1) * (t - 2) / 2
    value[2] = -(t + 1) * t * (t - 2) / 2
    value[3] = (t + 1) * t * (t - 1) / 6
    slope[0] = -(3 * t * t - 6 * t + 2) / 6
    slope[1] = (3 * t * t - 4 * t - 1) / 2
    slope[2] = -(3 * t * t - 2 * t - 2) / 2
    slope[3] = (3 * t * t - 1) / 6


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _at(  # noqa: C901, PLR0917  compiled: a loop does not call small functions for clarity
    source: NDArray[np.float32], bad: NDArray[np.bool_], near: NDArray[np.bool_], px: float, py: float,
    table: NDArray[np.float64],
) -> tuple[float, bool]:  # fmt: skip
    """Interpolate at a place; give the value, NaN without one, and whether bad pixels took part."""
    rows, columns = source.shape
    if not (-0.5 <= px < columns - 0.5 and -0.5 <= py < rows - 0.5):  # noqa: PLR2004  edges of the outer pixels
        return np.nan, True
    j, i = int(np.floor(px)), int(np.floor(py))
    phase_x, phase_y = int(np.rint((px - j) * _PHASES)), int(np.rint((py - i) * _PHASES))
    if 2 <= i < rows - 3 and 2 <= j < columns - 3 and not near[i, j]:  # noqa: PLR2004  six pixels around
        across, down = table[phase_x], table[phase_y]
        left, low = np.uintp(j - 2), np.uintp(i - 2)  # unsigned: no code for negative indices in the inner loop
        total = 0.0
        for k in range(np.uintp(6)):
            line = 0.0
            for m in range(np.uintp(6)):
                line += across[m] * source[low + k, left + m]
            total += down[k] * line
        return total, False
    total, known, touched = 0.0, 0.0, False
    for k in range(6):
        for m in range(6):
            weight = table[phase_y, k] * table[phase_x, m]
            if weight == 0.0:
                continue
            row, column = i - 2 + k, j - 2 + m
            if not (0 <= row < rows and 0 <= column < columns):
                touched = True
                continue
            touched |= bad[row, column]
            if np.isfinite(source[row, column]):
                total += weight * source[row, column]
                known += weight
    if known < _KNOWN_WEIGHT:
        return np.nan, True
    return total / known, touched


@njit(cache=True, nogil=True)
def _paint(  # noqa: C901, PLR0917  as `_at`
    image: NDArray[np.float32], mask: NDArray[np.bool_], source: NDArray[np.float32], bad: NDArray[np.bool_],
    near: NDArray[np.bool_], node_x: NDArray[np.float64], node_y: NDArray[np.float64], step: int, first_row: int,
    stop_row: int, first_column: int, stop_column: int, side: int, table: NDArray[np.float64],
) -> None:  # fmt: skip
    nodes = node_x.shape[1]
    weights, slopes = np.empty(4), np.empty(4)
    line = np.empty((4, nodes))  # the map and its derivative along columns, at this row, at the nodes' columns
    for row in range(first_row, stop_row):
        i = row // step + PAD
        _cubic(row / step - row // step, weights, slopes)
        for j in range(nodes):
            line[0, j] = line[1, j] = line[2, j] = line[3, j] = 0.0
            for k in range(4):
                line[0, j] += weights[k] * node_x[i - 1 + k, j]
                line[1, j] += weights[k] * node_y[i - 1 + k, j]
                line[2, j] += slopes[k] * node_x[i - 1 + k, j] / step
                line[3, j] += slopes[k] * node_y[i - 1 + k, j] / step
        for column in range(first_column, stop_column):
            if not mask[row, column]:
                continue
            j = column // step + PAD
            _cubic(column / step - column // step, weights, slopes)
            px = py = px_row = py_row = px_column = py_column = 0.0
            for k in range(4):
                px += weights[k] * line[0, j - 1 + k]
                py += weights[k] * line[1, j - 1 + k]
                px_row += weights[k] * line[2, j - 1 + k]
                py_row += weights[k] * line[3, j - 1 + k]
                px_column += slopes[k] * line[0, j - 1 + k] / step
                py_column += slopes[k] * line[1, j - 1 + k] / step
            total, touched = 0.0, False
            for k in range(side):
                up = (k + 0.5) / side - 0.5
                for m in range(side):
                    right = (m + 0.5) / side - 0.5
                    value, hit = _at(
                        source,
                        bad,
                        near,
                        px + up * px_row + right * px_column,
                        py + up * py_row + right * py_column,
                        table,
                    )
                    total += value
                    touched |= hit
            if np.isfinite(total):
                value = total / (side * side) * abs(px_column * py_row - px_row * py_column)
                if not touched:
                    image[row, column] = value
                    mask[row, column] = False
                elif not np.isfinite(image[row, column]):
                    image[row, column] = value
