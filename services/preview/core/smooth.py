"""Gaussian smoothing of images with pixels that have no value."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .area import resample
from .plane import Plane, Values

_LARGE_PIX: Final = 8.0
"""From this sigma on a smaller picture is smoothed: there is nothing in the result that it could lose."""

_SMALL_PIX: Final = 4.0


def smooth(values: Values, sigma_y: float, sigma_x: float) -> Values:
    """Smooth by the weighted mean of the pixels that have a value; those without one keep none.

    Parameters
    ----------
    values
        NaN where there is none.
    sigma_y, sigma_x
        Of the Gaussian, pixels of `values`.
    """
    good = np.isfinite(values)
    if not good.any():
        return values
    # what is far from zero would lose its digits
    level = np.float32(values[good][0])
    light = np.where(good, values - level, 0).astype(np.float32)
    if good.all():
        return _blur(light, sigma_y, sigma_x) + level
    weight = _blur(good.astype(np.float32), sigma_y, sigma_x)
    with np.errstate(all="ignore"):
        return np.where(good, _blur(light, sigma_y, sigma_x) / weight + level, np.nan)


def _blur(values: NDArray[np.float32], sigma_y: float, sigma_x: float) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    small_y, small_x = (_SMALL_PIX if sigma > _LARGE_PIX else sigma for sigma in (sigma_y, sigma_x))
    rows, columns = values.shape
    size = max(1, round(rows * small_y / sigma_y)), max(1, round(columns * small_x / sigma_x))
    if size == values.shape:
        return np.asarray(gaussian_filter(values, (sigma_y, sigma_x), mode="nearest"), np.float32)
    less = resample(Plane(values), *size)
    less = gaussian_filter(less, (sigma_y * size[0] / rows, sigma_x * size[1] / columns), mode="nearest")
    return np.asarray(Image.fromarray(less).resize((columns, rows), Image.Resampling.BICUBIC))
