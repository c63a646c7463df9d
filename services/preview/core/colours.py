"""From values to colours, and from colours to the bytes of a picture."""

import io
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import UsageError

from .plane import Values

_ROWS: Final = 256  # coloured at a time, so that little memory is needed beside the picture
_PNG_LEVEL: Final = 1  # photographs of noise do not get smaller by trying harder
_CLEAR: Final = (255, 255, 255, 0)
"""White in a JPEG, transparent in a PNG."""

# as in astropy.visualization: LogStretch(1000), AsinhStretch(0.1), SqrtStretch
_LOG_A: Final = 1000.0
_ASINH_A: Final = 0.1
_LOG_SCALE: Final = 1 / math.log(_LOG_A + 1)
_ASINH_SCALE: Final = 1 / math.asinh(1 / _ASINH_A)

STRETCHES: Final[dict[str, Callable[[Values], Values]]] = {
    "log": lambda x: np.log(_LOG_A * x + 1) * _LOG_SCALE,
    "sqrt": np.sqrt,
    "asinh": lambda x: np.log(x * (1 / _ASINH_A) + np.sqrt((x * (1 / _ASINH_A)) ** 2 + 1)) * _ASINH_SCALE,
}


@lru_cache(maxsize=64)
def table_of(cmap: str) -> NDArray[np.uint32]:
    """Give the colours of a map, each four bytes of red, green, blue, alpha; behind the last one that of no value.

    Raises
    ------
    UsageError
        When matplotlib has no such map.
    """
    import matplotlib as mpl

    if cmap not in mpl.colormaps:
        raise UsageError(
            "unknown_cmap",
            f"There is no colour map {cmap!r}. Every name of matplotlib is allowed, such as Blues_r, gray or viridis.",
            parameter="cmap",
        )
    found = mpl.colormaps[cmap]
    colours = np.asarray(found(np.arange(found.N), bytes=True), np.uint8)
    return np.concatenate([colours, np.array([_CLEAR], np.uint8)]).view(np.uint32).ravel()


def paint(values: Values, vmin: float, vmax: float, stretch: str, cmap: str) -> NDArray[np.uint32]:
    """Colour values.

    Parameters
    ----------
    values
        NaN where there is none.
    vmin, vmax
        What gets the first and the last colour.
    stretch
        Name of the function in between.
    cmap
        Name of the colour map.

    Returns
    -------
    pixels
        Red, green, blue, alpha; the last row of `values` first.
    """
    table = table_of(cmap)
    last = len(table) - 2
    curve = STRETCHES.get(stretch)  # none for the linear one
    pixels = np.empty(values.shape, np.uint32)
    for start in range(0, len(values), _ROWS):
        part = values[start : start + _ROWS][::-1]
        scaled = part - vmin
        scaled *= 1 / (vmax - vmin)
        np.clip(scaled, 0, 1, out=scaled)
        if curve is not None:
            scaled = curve(scaled)
        scaled *= last + 1
        np.minimum(scaled, last, out=scaled)
        bad = np.isnan(scaled)
        if bad.any():
            scaled[bad] = last + 1
        index = scaled.astype(np.intp)
        np.take(table, index, out=pixels[len(values) - start - len(part) : len(values) - start], mode="clip")
    return pixels


def encode(pixels: NDArray[np.uint32], format: str, quality: int) -> bytes:
    """Write a picture as JPEG or PNG.

    Parameters
    ----------
    pixels
        What `paint` gives; for a JPEG without transparency.
    format
        `jpeg` or `png`.
    quality
        Of a JPEG, 1 to 100.
    """
    rows, columns = pixels.shape
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} if format == "jpeg" else {"compress_level": _PNG_LEVEL}
    mode = "RGBX" if format == "jpeg" else "RGBA"
    Image.frombuffer(mode, (columns, rows), pixels, "raw", mode, 0, 1).save(file, format.upper(), **options)
    return file.getvalue()
