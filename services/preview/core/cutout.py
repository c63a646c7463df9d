"""The picture of a cutout of STDPipe: its planes side by side."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shared.contracts.preview import CutoutOptions, PreviewOptions
from shared.errors import DataError

from .colours import encode
from .fits import Part, check_size
from .picture import draw
from .plane import Plane

_ORDER: Final = ("image", "template", "convolved", "diff", "adjusted", "mask")
_ASINH: Final = frozenset(("image", "template", "convolved"))
_MAX_PLANES: Final = 16
_GAP_PIX: Final = 4
_TITLE_PIX: Final = 18
_MIN_TITLED_PIX: Final = 64
_TEXT_PIX: Final = 12
_WHITE: Final = 0x00FFFFFF  # and transparent
_BLACK: Final = 0xFF000000


def planes_of(parts: list[Part], size_bytes: int) -> list[Part]:
    """Choose what to show of a cutout, in order.

    Raises
    ------
    DataError
        When it is no cutout.
    """
    named = {part.name: part for part in reversed(parts) if part.is_image and part.name and part.number > 0}
    if "image" not in named:
        raise DataError(
            "no_cutout",
            "The file is no cutout: it has no extension with the name IMAGE. Other images have a preview.",
            parameter="path",
        )
    names: list[str] = [name for name in _ORDER if name in named]
    names += [part.name for part in parts if named.get(part.name) is part and part.name not in _ORDER]
    chosen = [named[name] for name in names[:_MAX_PLANES]]
    for part in chosen:
        check_size(part, size_bytes)
        if part.tile is not None:
            raise DataError("no_cutout", "The planes of a cutout may not be compressed.", parameter="path")
    return chosen


def render_cutout(content: memoryview, parts: list[Part], options: CutoutOptions) -> bytes:
    """Make the picture of a cutout, exactly as wide as asked.

    Parameters
    ----------
    content
        The file.
    parts
        What `walk` found in it.
    options
        What was asked.

    Raises
    ------
    DataError
        When it is no cutout.
    """
    chosen = planes_of(parts, len(content))
    count, width = len(chosen), options.width
    if width < count:
        chosen, count = chosen[:width], width
    gap = _GAP_PIX if width >= count * _MIN_TITLED_PIX else 0
    title = _TITLE_PIX if gap else 0
    edges = [round(place * (width + gap) / count) for place in range(count + 1)]
    panels = []
    for number, part in enumerate(chosen):
        # narrower than a picture may be on its own
        asked = PreviewOptions.model_construct(
            width=edges[number + 1] - edges[number] - gap, stretch="asinh" if part.name in _ASINH else "linear"
        )
        panels.append(draw(Plane.of(content, part), asked))
    picture = np.full((title + max(len(panel) for panel in panels), width), _WHITE, np.uint32)
    for panel, left in zip(panels, edges, strict=False):
        picture[title : title + len(panel), left : left + panel.shape[1]] = panel
    if title:
        for part, left, right in zip(chosen, edges, edges[1:], strict=False):
            _write(picture[:title, left : right - gap], part.name.upper())
    return encode(picture, options.format, options.quality)


def _write(strip: NDArray[np.uint32], text: str) -> None:
    image = Image.new("L", (strip.shape[1], strip.shape[0]), 0)
    place = strip.shape[1] / 2, strip.shape[0] / 2
    ImageDraw.Draw(image).text(place, text, fill=255, anchor="mm", font=ImageFont.load_default(_TEXT_PIX))
    ink = np.asarray(image) > 127  # noqa: PLR2004
    strip[ink] = _BLACK
