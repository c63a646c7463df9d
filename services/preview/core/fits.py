"""Where the images of a FITS file lie, read without a FITS library.

A library would believe the sizes that headers declare, and takes longer to open a file than a picture takes to draw.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from shared.errors import DataError, UsageError

BLOCK_BYTES: Final = 2880
MAX_PIXELS: Final = 450_000_000
"""Largest plane that is shown; a little above 20,000 × 20,000."""

MIN_AXES: Final = 2
_CARD_BYTES: Final = 80
_MAX_HEADER_BLOCKS: Final = 2000
_MAX_PARTS: Final = 1000
_MAX_AXES: Final = 999
_MAX_COLUMNS: Final = 999
_BITPIX: Final = frozenset((8, 16, 32, 64, -32, -64))
_TEXT: Final = frozenset(("XTENSION", "EXTNAME"))
_NUMBERS: Final = ("NAXIS", "ZNAXIS", "ZTILE")
_KEYS: Final = frozenset(
    "SIMPLE XTENSION EXTNAME BITPIX PCOUNT GCOUNT GROUPS TFIELDS BSCALE BZERO BLANK ZIMAGE ZBITPIX ZBLANK".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Part:
    """A header with its data.

    Parameters
    ----------
    number
        From 0, as `ext` counts.
    name
        Name of the extension, lower case; empty without one.
    offset, size
        Where the data begin, and how many bytes they are.
    bitpix, lengths
        Type, and lengths of the axes, the width first, of the image that it shows; those of a tile-compressed image
        are those before compression. No lengths when it holds no image.
    tile
        Lengths of the tiles; None when it is not tile-compressed.
    bscale, bzero, blank
        From stored to physical values; the stored value of pixels without one.
    holds
        What there is instead of an image, for people.
    """

    number: int
    name: str
    offset: int
    size: int
    bitpix: int
    lengths: tuple[int, ...]
    tile: tuple[int, ...] | None = None
    bscale: float = 1.0
    bzero: float = 0.0
    blank: int | None = None
    holds: str = field(default="no data")

    @property
    def is_image(self) -> bool:
        """Whether there is a plane to show."""
        return bool(self.lengths)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        kind = "f" if self.bitpix < 0 else "u" if self.bitpix == 8 else "i"  # noqa: PLR2004
        return np.dtype(f">{kind}{abs(self.bitpix) // 8}")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the first plane."""
        return self.lengths[1], self.lengths[0]


def walk(content: memoryview) -> list[Part]:
    """List the parts of a file. What follows a damaged header is left out.

    Raises
    ------
    DataError
        When it is no FITS file, or its first header cannot be used.
    """
    if bytes(content[:6]) != b"SIMPLE":
        what = "is empty" if not len(content) else "is not a FITS file"
        raise DataError("not_fits", f"The file {what}; only FITS images have previews.", parameter="path")
    found: list[Part] = []
    position = 0
    while len(found) < _MAX_PARTS and position < len(content):
        cards, offset = _header(content, position)
        part = None if cards is None else _part_of(len(found), cards, offset)
        if part is None:
            break
        found.append(part)
        position = offset + -(-part.size // BLOCK_BYTES) * BLOCK_BYTES
    if not found:
        raise DataError(
            "bad_fits", "The header of the file is damaged. Try to repair it, or upload it again.", parameter="path"
        )
    return found


def choose(parts: list[Part], ext: int, size_bytes: int) -> Part:
    """Choose the image to show.

    Parameters
    ----------
    parts
        What `walk` found.
    ext
        Number of the part; -1 for the last with an image.
    size_bytes
        Of the whole file.

    Raises
    ------
    UsageError
        When there is no such part.
    DataError
        When it is no image, cut off or too large.
    """
    if ext >= len(parts):
        raise UsageError(
            "no_extension",
            f"There is no extension {ext}: the file has the extensions 0 to {len(parts) - 1}.",
            parameter="ext",
        )
    images = [part for part in parts if part.is_image]
    if ext == -1 and not images:
        holds = ", ".join(dict.fromkeys(part.holds for part in parts))
        raise DataError("no_plane", f"The file has no two-dimensional image: it holds {holds}.", parameter="path")
    part = images[-1] if ext == -1 else parts[ext]
    if not part.is_image:
        raise DataError(
            "no_plane",
            f"Extension {ext} is no two-dimensional image: it holds {part.holds}."
            f" Extensions with an image: {', '.join(str(one.number) for one in images) or 'none'}.",
            parameter="ext",
        )
    check_size(part, size_bytes)
    return part


def check_size(part: Part, size_bytes: int) -> None:
    """Refuse an image that is too large or cut off.

    Raises
    ------
    DataError
        Saying which.
    """
    rows, columns = part.shape
    if rows * columns > MAX_PIXELS or _product(part.tile or ()) > MAX_PIXELS:
        raise DataError(
            "too_large",
            f"The image has {columns}×{rows} pixels, more than the {MAX_PIXELS // 1_000_000} million that can be "
            "shown, or its header is wrong. Crop the image.",
            parameter="path",
        )
    wanted = part.size if part.tile else rows * columns * abs(part.bitpix) // 8
    there = max(size_bytes - part.offset, 0)
    if wanted > there:
        raise DataError(
            "truncated",
            f"The image is truncated: its header declares {wanted:,} bytes of pixels, the file holds {there:,}."
            " Upload it again.",
            parameter="path",
        )


def _header(content: memoryview, position: int) -> tuple[dict[str, str] | None, int]:
    """Read the cards that matter, and where the data begin; None at what is no header."""
    cards: dict[str, str] = {}
    for block in range(_MAX_HEADER_BLOCKS):
        start = position + block * BLOCK_BYTES
        text = bytes(content[start : start + BLOCK_BYTES]).decode("latin-1")
        if block == 0 and not text.startswith(("SIMPLE  =", "XTENSION=")):
            break
        for place in range(0, len(text) - _CARD_BYTES + 1, _CARD_BYTES):
            keyword = text[place : place + 8].rstrip()
            if keyword == "END":
                return cards, start + BLOCK_BYTES
            if text[place + 8 : place + 10] == "= " and (keyword in _KEYS or keyword.rstrip("0123456789") in _NUMBERS):
                cards.setdefault(keyword, text[place + 10 : place + _CARD_BYTES])
        if len(text) < BLOCK_BYTES:
            break
    return None, position


def _part_of(number: int, cards: Mapping[str, str], offset: int) -> Part | None:
    try:
        values = {key: _text(card) if key in _TEXT else card.split("/")[0].strip() for key, card in cards.items()}
        lengths = tuple(_lengths("NAXIS", values))
        bitpix = int(values["BITPIX"])
        extra, groups = int(values.get("PCOUNT", "0")), int(values.get("GCOUNT", "1"))
        # of a table with two thousand million columns a library would make a list
        if (
            bitpix not in _BITPIX
            or min((*lengths, extra, groups)) < 0
            or int(values.get("TFIELDS", "0")) > _MAX_COLUMNS
        ):
            return None
        size = abs(bitpix) // 8 * groups * (extra + (_product(lengths) if lengths else 0))
        kind = values.get("XTENSION", "IMAGE").upper()
        tile = None
        if values.get("ZIMAGE") == "T" and kind == "BINTABLE":
            bitpix, lengths, tile = _compressed(values)
            kind = "IMAGE"
    except (KeyError, ValueError):
        return None
    holds = _what(kind, lengths)
    if kind != "IMAGE" or len(lengths) < MIN_AXES or min(lengths) < 1 or bitpix not in _BITPIX:
        lengths = ()
    blank = _number(values.get("ZBLANK" if tile and "ZBLANK" in values else "BLANK"), 0.5)
    return Part(
        number=number,
        name=values.get("EXTNAME", "").lower(),
        offset=offset,
        size=size,
        bitpix=bitpix,
        lengths=lengths,
        tile=tile if lengths else None,
        bscale=_number(values.get("BSCALE"), 1.0) or 1.0,
        bzero=_number(values.get("BZERO"), 0.0),
        blank=int(blank) if bitpix > 0 and blank.is_integer() else None,
        holds=holds,
    )


def _compressed(values: Mapping[str, str]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    lengths = tuple(_lengths("ZNAXIS", values))
    # without tiles a row is one
    tile = tuple(
        int(values.get(f"ZTILE{axis + 1}", str(length) if axis == 0 else "1")) for axis, length in enumerate(lengths)
    )
    if min((*lengths, *tile, 0)) < 0:
        raise ValueError(tile)
    return int(values["ZBITPIX"]), lengths, tile


def _lengths(stem: str, values: Mapping[str, str]) -> Iterator[int]:
    axes = int(values[stem])
    if not 0 <= axes <= _MAX_AXES:
        raise ValueError(axes)
    for axis in range(axes):
        yield int(values[f"{stem}{axis + 1}"])


def _what(kind: str, lengths: tuple[int, ...]) -> str:
    if "TABLE" in kind:
        return "a table"
    if len(lengths) == 1 and lengths[0] > 0:
        return f"a row of {lengths[0]} values"
    return "no data"


def _product(lengths: tuple[int, ...]) -> int:
    product = 1
    for length in lengths:
        product *= length
    return product


def _text(card: str) -> str:
    start = card.find("'")
    end = card.find("'", start + 1)
    return card[start + 1 : end].strip() if start >= 0 < end else card.partition("/")[0].strip()


def _number(text: str | None, default: float) -> float:
    try:
        value = float((text or "").upper().replace("D", "E"))
    except ValueError:
        return default
    return value if abs(value) < float("inf") else default  # false for NaN too
