"""Area resampling: every pixel of the result is the mean over the part of the image that it covers."""

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .plane import Plane, Values

_BLOCK: Final = 64
_HALF: Final = 0.5


def resample(plane: Plane, rows: int, columns: int) -> Values:
    """Bring a plane to another size, smaller or larger in either direction.

    What is hidden or not finite takes no part in the mean; where it is more than half of the area there is no value.

    Returns
    -------
    values
        Physical values, (rows, columns), NaN where there is none; in the plane's `precision`.
    """
    total = np.zeros((rows, plane.shape[1]), plane.precision)
    missing: Values | None = None
    with np.errstate(all="ignore"):  # overflows end as pixels without value
        for start, band, hidden in plane.bands():
            first, weights = _weights(start, len(band), plane.shape[0], rows, plane.precision)
            part = weights @ band
            if hidden is not None or not np.isfinite(part).all():
                bad = ~np.isfinite(band)
                if hidden is not None:
                    bad |= hidden
                band[bad] = 0
                part = weights @ band
                if missing is None:
                    missing = np.zeros_like(total)
                missing[first : first + len(part)] += weights @ bad.astype(plane.precision)
            total[first : first + len(part)] += part
        values = _across(total, columns)
        if missing is not None:
            there = 1 - _across(missing, columns)
            values = np.where(there >= _HALF, values / there, np.nan)
    return plane.physical(values)


def _across(total: Values, columns: int) -> Values:
    """Do along the rows what `resample` does along the columns."""
    width = total.shape[1]
    if width == columns:
        return total
    result = np.zeros((len(total), columns), total.dtype)
    for start in range(0, width, _BLOCK):
        first, weights = _weights(start, min(_BLOCK, width - start), width, columns, total.dtype)
        result[:, first : first + len(weights)] += total[:, start : start + _BLOCK] @ weights.T
    return result


def _weights(start: int, count: int, before: int, after: int, dtype: np.dtype[Any]) -> tuple[int, NDArray[Any]]:
    """Give the weights of some old pixels in the new ones that they touch.

    Parameters
    ----------
    start, count
        Which old pixels.
    before, after
        How many old and new pixels there are.

    Returns
    -------
    first, weights
        Number of the first new pixel; its weights and those of the following ones, (new, old).
    """
    if after > before:
        return _weights_of(start, count, before, after, dtype)
    return _small_weights_of(start, count, before, after, dtype)


def _weights_of(start: int, count: int, before: int, after: int, dtype: np.dtype[Any]) -> tuple[int, NDArray[Any]]:
    first = start * after // before
    last = -(-(start + count) * after // before)
    # in units of 1/(before × after) of the whole all edges are whole numbers
    old = np.arange(start, start + count + 1) * after
    new = np.arange(first, last + 1) * before
    overlap = np.minimum(old[None, 1:], new[1:, None]) - np.maximum(old[None, :-1], new[:-1, None])
    return first, (np.maximum(overlap, 0) / before).astype(dtype)


# images of one camera have one size, and most pictures one width; those of enlarged pictures would fill the memory
_small_weights_of = lru_cache(maxsize=1024)(_weights_of)
