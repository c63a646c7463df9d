"""The picture of an image."""

import numpy as np
from numpy.typing import NDArray

from shared.contracts.preview import MAX_HEIGHT, PreviewOptions

from .area import resample
from .colours import encode, paint, table_of
from .levels import levels
from .plane import Plane
from .smooth import smooth


def height_of(shape: tuple[int, int], width: int) -> int:
    """Give the height of a picture whose pixels are square, within what is allowed."""
    rows, columns = shape
    return min(max(round(rows * width / columns), 1), MAX_HEIGHT)


def draw(plane: Plane, options: PreviewOptions) -> NDArray[np.uint32]:
    """Draw an image; see `render_image`."""
    table_of(options.cmap)  # a wrong name is told before any work
    rows, columns = plane.shape
    height, width = height_of(plane.shape, options.width), options.width
    vmin, vmax = levels(plane, options.qmin, options.qmax, options.r0)
    if options.r0 == 0:
        values = resample(plane, height, width)
    else:
        # an enlarged picture is smoothed before, a smaller one after
        size = min(height, rows), min(width, columns)
        values = smooth(resample(plane, *size), options.r0 * size[0] / rows, options.r0 * size[1] / columns)
        if size != (height, width):
            values = resample(Plane(values), height, width)
    return paint(values, vmin, vmax, options.stretch, options.cmap)


def render_image(plane: Plane, options: PreviewOptions) -> bytes:
    """Make the picture of an image: row 0 at the bottom, exactly as wide as asked.

    The range is that of percentiles of the image's own pixels, stretch and colours are those of `stdpipe.plots.imshow`.
    Pixels without value are transparent, or white.

    Raises
    ------
    UsageError
        When there is no such colour map.
    """
    return encode(draw(plane, options), options.format, options.quality)
