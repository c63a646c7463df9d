"""Combining images on one grid, pixel by pixel.

Each image is s·f: f the sky as the first image would see it, s the image's scale of fluxes. The combined f is that of
the images that have a value there, times the sum (or mean) of all scales, so that a star has the same flux wherever it
is in the stack, however many images cover it.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..contracts.params.stack import StackMethod

_CLIP_SIGMA: Final = 4.0
_CLIP_FRACTION: Final = 0.2
"""Of the flux of a pixel, by which images of the same seeing may differ on stars: they are sampled differently."""

_MAX_CLIP_FRACTION: Final = 5.0

_STRIP_PIXELS: Final = 32_000_000
_SUM, _CLIPPED, _MEDIAN = 0, 1, 2
_CODES: Final = {"sum": _SUM, "clipped_mean": _CLIPPED, "median": _MEDIAN}


class Planes:
    """Images on one grid, on disk while more than one are needed at once.

    Parameters
    ----------
    path
        A new file.
    shape
        Of the grid, (rows, columns).
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._path = path
        self._shape = shape
        self.count = 0

    def add(self, plane: NDArray[np.float32]) -> None:
        """Append an image."""
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(plane, np.float32).data)
        self.count += 1

    def strips(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Give some rows of all images at a time: which ones, and an array (image, row, column)."""
        rows, columns = self._shape
        step = max(_STRIP_PIXELS // (columns * max(self.count, 1)), 1)
        with self._path.open("rb") as file:
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                strip = np.empty((self.count, stop - start, columns), np.float32)
                for number in range(self.count):
                    file.seek(4 * columns * (number * rows + start))
                    file.readinto(strip[number].data.cast("B"))
                yield slice(start, stop), strip


def combine(
    strip: NDArray[np.float32],
    method: StackMethod,
    *,
    scales: NDArray[np.float64],
    noise_adu: NDArray[np.float64],
    gains: NDArray[np.float64],
    tolerance: float = _CLIP_FRACTION,
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Combine images, whose background is about zero, to the flux that the first image would see.

    Parameters
    ----------
    strip
        The images, (image, row, column), NaN where one has no value.
    method
        How.
    scales
        Flux of a star in each image over that in the first one.
    noise_adu
        Standard deviation of the background of each image.
    gains
        Of each image, electrons per ADU.
    tolerance
        Share of the flux of a pixel by which images may differ without being clipped, see `clip_tolerance`.

    Returns
    -------
    flux, coverage
        NaN where no image has a value; the number of images that count there.
    """
    flux = np.full(strip.shape[1:], np.nan, np.float32)
    coverage = np.zeros(strip.shape[1:], np.int16)
    _combine(strip, _CODES[method], scales, (noise_adu / scales) ** 2, 1 / (gains * scales), tolerance, flux, coverage)
    return flux, coverage


def clip_tolerance(fwhm_pix: NDArray[np.float64]) -> float:
    """Give the share of the flux of a pixel by which images of several seeings differ, in the wings of stars.

    These go with the fourth power of the FWHM (Moffat profiles of exponent 3); clipping there would change fluxes.

    Parameters
    ----------
    fwhm_pix
        Of the images, on the grid; NaN where unknown.
    """
    known = fwhm_pix[np.isfinite(fwhm_pix)]
    ratio = float(known.max() / known.min()) if known.size else 1.0
    return min(_CLIP_FRACTION + ratio**4 - 1, _MAX_CLIP_FRACTION)


@njit(cache=True)
def _sorted_values(strip, row, column, scales, values, order):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0917  compiled
    """Sort what the images have at a pixel, each by its scale, and tell how many have something."""
    found = 0
    for k in range(len(scales)):
        value = strip[k, row, column] / scales[k]
        if math.isfinite(value):
            j = found - 1
            while j >= 0 and values[j] > value:
                values[j + 1], order[j + 1] = values[j], order[j]
                j -= 1
            values[j + 1], order[j + 1] = value, k
            found += 1
    return found


@njit(cache=True)
def _mean_near(values, order, found, middle, scales, variance, per_gain, tolerance):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0917  compiled
    """Average what is near enough to the middle; a tolerance below zero takes everything."""
    total, weight, used = 0.0, 0.0, 0
    for n in range(found):
        k = order[n]
        # twice the variance: that of the middle itself too
        sigma = math.sqrt(2 * (variance[k] + max(middle, 0.0) * per_gain[k]))
        if tolerance >= 0 and abs(values[n] - middle) > _CLIP_SIGMA * sigma + tolerance * abs(middle):
            continue
        total += scales[k] * values[n]
        weight += scales[k]
        used += 1
    return (total / weight if used else math.nan), used


@njit(cache=True)
def _combine(strip, method, scales, variance, per_gain, tolerance, flux, coverage):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0917  compiled
    count, rows, columns = strip.shape
    values, order = np.empty(count), np.empty(count, np.int64)
    for row in range(rows):
        for column in range(columns):
            found = _sorted_values(strip, row, column, scales, values, order)
            if not found:
                continue
            middle = 0.5 * (values[(found - 1) // 2] + values[found // 2])
            if method == _MEDIAN:
                flux[row, column], coverage[row, column] = middle, found
                continue
            if found == 2:  # noqa: PLR2004  of two the lower one is believed
                middle = values[0]
            limit = tolerance if method == _CLIPPED else -1.0
            flux[row, column], coverage[row, column] = _mean_near(
                values, order, found, middle, scales, variance, per_gain, limit
            )


def median_loss(count: int) -> float:
    """Give the variance of a median over that of a mean, of normal noise.

    Close to the exact values (1.347, 1.193, 1.434, 1.288 for 3, 4, 5, 6), and to π/2 for many.
    """
    if count <= 2:  # noqa: PLR2004  the median is the mean
        return 1.0
    return count * math.pi / (2 * (count + (0.5 if count % 2 else 1.3)))
