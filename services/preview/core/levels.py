"""Which values get the first and the last colour."""

from typing import Final

import numpy as np

from .plane import Plane, Values
from .smooth import smooth

SAMPLE: Final = 50_000
"""Pixels whose percentiles are taken; the fraction below a percentile of 0.5 is then uncertain by 0.03 %."""

_PATCH_PIX: Final = 64
_PATCHES_PIX: Final = 2_000_000
_MIN_PATCHES: Final = 3
_FLAT: Final = 0.1  # what stdpipe and matplotlib make of a constant image


def levels(plane: Plane, qmin: float, qmax: float, r0_pix: float) -> tuple[float, float]:
    """Take two percentiles of the pixels of an image, after smoothing if there is any.

    Parameters
    ----------
    qmin, qmax
        Percentiles. 0 and 100 are those of all pixels, others of a sample.
    r0_pix
        Sigma of the smoothing, pixels.

    Returns
    -------
    vmin, vmax
        Never the same.
    """
    sample = _sample(plane) if r0_pix == 0 else _smoothed_sample(plane, r0_pix)
    finite = np.isfinite(sample)
    good = sample if finite.all() else sample[finite]
    if good.size == 0:
        return 0.0, 1.0
    vmin, vmax = (float(value) for value in np.percentile(good, [qmin, qmax], overwrite_input=True))
    if r0_pix == 0 and good.size < plane.stored.size:
        least, most = (np.fmin, np.fmax) if plane.bscale > 0 else (np.fmax, np.fmin)
        if qmin == 0:
            vmin = _extreme(plane, least)
        if qmax == 100:  # noqa: PLR2004
            vmax = _extreme(plane, most)
    if not vmax > vmin:
        # a step that single precision can still tell from the value itself
        step = max(_FLAT, abs(vmin) * 1e-6)
        return vmin - step, vmax + step
    return vmin, vmax


def _sample(plane: Plane) -> Values:
    rows, columns = plane.shape
    step = max(1, int(np.ceil(np.sqrt(rows * columns / SAMPLE))))
    # an odd step meets even and odd rows and columns alike
    step += step % 2 == 0
    return plane.take(slice(None, None, min(step, rows)), slice(None, None, min(step, columns))).ravel()


def _extreme(plane: Plane, ufunc: np.ufunc) -> float:
    found = np.nan
    for start, band, hidden in plane.bands():
        del start
        band[~np.isfinite(band)] = np.nan
        if hidden is not None:
            band[hidden] = np.nan
        found = float(ufunc(found, ufunc.reduce(band, axis=None)))
    return float(plane.physical(np.array([found]))[0])


def _smoothed_sample(plane: Plane, r0_pix: float) -> Values:
    """Smooth patches of the image, with what is around them, and take them together."""
    rows, columns = plane.shape
    margin = int(np.ceil(3 * r0_pix))
    side = _PATCH_PIX + 2 * margin
    if rows * columns <= _PATCHES_PIX:
        return smooth(plane.take(slice(None), slice(None)), r0_pix, r0_pix).ravel()
    along = max(_MIN_PATCHES, int(np.sqrt(_PATCHES_PIX / side**2)))
    found = []
    for y in _starts(rows, along):
        for x in _starts(columns, along):
            top, left = max(y - margin, 0), max(x - margin, 0)
            patch = plane.take(slice(top, y + _PATCH_PIX + margin), slice(left, x + _PATCH_PIX + margin))
            inner = smooth(patch, r0_pix, r0_pix)[y - top : y - top + _PATCH_PIX, x - left : x - left + _PATCH_PIX]
            found.append(inner.ravel())
    return np.concatenate(found)


def _starts(length: int, count: int) -> list[int]:
    return [int(start) for start in np.unique(np.linspace(0, max(length - _PATCH_PIX, 0), count))]
