"""Where the parts of a FITS file lie, read without a FITS library.

astropy believes the sizes that headers declare: it allocates them, and a negative one makes it loop for ever. So they
are looked at first.
"""

import gzip
from dataclasses import dataclass
from typing import BinaryIO, Final

from ..errors import DataError

BLOCK_BYTES: Final = 2880
_CARD_BYTES: Final = 80
_MAX_HEADER_BLOCKS: Final = 500
"""18,000 cards, of which astropy reads some thousand a second; headers that people write have fewer than 5000."""

_MAX_PARTS: Final = 1000
_MAX_DATA_BYTES: Final = 2**43  # more is no place in a file on most volumes
_CHUNK_BYTES: Final = 1 << 20
_BITPIX: Final = frozenset((8, 16, 32, 64, -32, -64))
_PLANE_AXES: Final = 2
_MOST: Final = 999
"""Axes of an image, or columns of a table, that the standard allows."""

_KEYS: Final = frozenset(("BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "ZIMAGE", "ZNAXIS", "TFIELDS", "XTENSION"))


@dataclass(frozen=True)
class _Part:
    data_bytes: int
    has_plane: bool


def bytes_to_image(file: BinaryIO | gzip.GzipFile, limit_bytes: int, ext: int | None = None) -> int:
    """Walk to the end of the image that will be read, and tell how many bytes of the file there are up to it.

    Parameters
    ----------
    file
        The unpacked content, at its start.
    limit_bytes
        Most that is read.
    ext
        Number of the part to walk to; None for the first with an image plane.

    Raises
    ------
    DataError
        When a header declares impossible sizes or has no end, or the limit is passed.
    """
    for number in range(_MAX_PARTS):
        part = _next_part(file)
        if part is None:
            break
        rest = -(-part.data_bytes // BLOCK_BYTES) * BLOCK_BYTES
        if not isinstance(file, gzip.GzipFile):
            file.seek(rest, 1)  # reading would cost as much as the image itself
            rest = 0
        while rest > 0 and (chunk := file.read(min(rest, _CHUNK_BYTES))):
            rest -= len(chunk)
            if file.tell() > limit_bytes:
                raise DataError("too_large", "The file holds more than can be processed. Crop the image.")
        if rest > 0 or (part.has_plane if ext is None else number >= ext):
            break
    else:
        raise _bad(f"has more than {_MAX_PARTS} parts and no image among them")
    return file.tell()


def _next_part(file: BinaryIO | gzip.GzipFile) -> _Part | None:
    """Read a header; None at the end of the file, or at what is no header."""
    cards: dict[str, str] = {}
    for _ in range(_MAX_HEADER_BLOCKS):
        block = file.read(BLOCK_BYTES)
        for start in range(0, len(block) - _CARD_BYTES + 1, _CARD_BYTES):
            card = block[start : start + _CARD_BYTES].decode("latin-1")
            keyword = card[:8].rstrip()
            if keyword == "END":
                return _part_of(cards)
            if card[8:10] == "= " and (keyword in _KEYS or keyword.startswith("NAXIS")):
                value = card[10:].split("/")[0].strip()
                if cards.setdefault(keyword, value) != value:  # which of them astropy would believe is its own affair
                    raise _bad(f"has a header with two different {keyword}")
        if len(block) < BLOCK_BYTES:
            return None
    raise _bad(f"has a header of more than {_MAX_HEADER_BLOCKS * BLOCK_BYTES:,} bytes")


def _bad(what: str) -> DataError:
    return DataError("bad_fits", f"The image is not valid FITS: it {what}. Try to repair it, or upload it again.")


def _part_of(cards: dict[str, str]) -> _Part:
    try:
        bitpix, axes = int(cards["BITPIX"]), int(cards["NAXIS"])
        counts = [axes, *(int(cards.get(key) or "0") for key in ("ZNAXIS", "TFIELDS"))]
        if min(counts) < 0 or max(counts) > _MOST:
            raise _bad(f"declares more than {_MOST} axes or columns")
        lengths = [int(cards[f"NAXIS{axis + 1}"]) for axis in range(axes)]
        extra, groups = int(cards.get("PCOUNT") or "0"), int(cards.get("GCOUNT") or "1")
    except (KeyError, ValueError):  # astropy would make what it does not find, two thousand million axes even
        raise _bad("has a header that does not say its size") from None
    elements = 1 if lengths else 0
    for length in lengths:
        elements *= length
    data_bytes = abs(bitpix) // 8 * groups * (extra + elements)
    if bitpix not in _BITPIX or min([*lengths, extra, groups]) < 0 or data_bytes > _MAX_DATA_BYTES:
        raise _bad("declares an impossible size or type in its header")
    image = cards.get("XTENSION", "'IMAGE").startswith("'IMAGE") and len(lengths) >= _PLANE_AXES and elements > 0
    return _Part(data_bytes, image or cards.get("ZIMAGE") == "T")
