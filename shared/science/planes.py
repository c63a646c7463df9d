"""Files of a single plane, written block by block, with whatever numbers they hold."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from .fits_layout import BLOCK_BYTES
from .headers import number_in
from .images import Plane

_BLOCK_PIXELS: Final = 8_000_000
_BITPIX: Final = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}

# what describes a file of several parts or planes, or pixels as they were stored
_STRUCTURE: Final = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|TFIELDS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM"
    r"|EXTNAME|EXTVER|EXTLEVEL|INHERIT|NEXTEND|END"
)
_HIGHER_AXIS: Final = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CROTA|CUNIT|CNAME|CRDER|CSYER|LTV|LTM|WAXMAP)[3-9]\w*"
    r"|(CD|PC|LTM)([3-9]_\d|\d_[3-9])[A-Z]?|(PV|PS)[3-9]_\d+[A-Z]?"
)
_WCSAXES: Final = re.compile(r"WCSAXES[A-Z]?")
_TABLE: Final = re.compile(r"(CPDIS|CQDIS|CPERR|D2IMDIS|D2IMERR)\d|(DP|DQ|D2IM)\d(\..*)?|D2IMARR|D2IMEXT")


def without_structure(header: fits.Header) -> fits.Header:
    """Copy a header without what describes other parts, planes and axes than the first two."""
    kept = fits.Header()
    for card in header.cards:
        keyword = card.keyword
        if any(one.fullmatch(keyword) for one in (_STRUCTURE, _HIGHER_AXIS, _TABLE)):
            continue
        if _WCSAXES.fullmatch(keyword):
            kept.append((keyword, 2, card.comment), end=True)
        elif keyword in {"COMMENT", "HISTORY", ""}:
            kept.append((keyword, card.value), end=True)
        else:
            kept.append((keyword, card.value, card.comment), end=True)
    return kept


def stored_scaling(plane: Plane, header: fits.Header) -> dict[str, int | float]:
    """Give the cards of a header that turn stored pixels into values: BSCALE, BZERO, BLANK, where they have a use."""
    found: dict[str, int | float] = {}
    for key, nothing in (("BSCALE", 1.0), ("BZERO", 0.0)):
        value = number_in(header, key)
        if value is not None and value != nothing:
            found[key] = int(value) if value.is_integer() else value
    blank = number_in(header, "BLANK")
    if blank is not None and blank.is_integer() and plane.hdu.header.get("BITPIX", -32) > 0:
        found["BLANK"] = int(blank)
    return found


def blocks_of(plane: Plane, y1: int, y2: int, x1: int, x2: int) -> Iterator[NDArray[Any]]:
    """Read a part of a plane, some rows at a time; a compressed plane at once, for its tiles may be as large as it."""
    compressed = isinstance(plane.hdu, fits.CompImageHDU)
    step = y2 - y1 if compressed else max(_BLOCK_PIXELS // plane.shape[1], 1)
    for start in range(y1, y2, step):
        yield plane.rows(start, min(start + step, y2))[:, x1:x2]


def write_plane(
    path: Path,
    header: fits.Header,
    shape: tuple[int, int],
    blocks: Iterable[NDArray[Any]],
    scaling: Mapping[str, int | float] | None = None,
) -> None:
    """Write a file of one plane.

    Parameters
    ----------
    path
        The new file.
    header
        Cards without structure, see `without_structure`.
    shape
        (rows, columns).
    blocks
        The rows, all of one type, at least one block.
    scaling
        As `stored_scaling` gives it.
    """
    written = 0
    with path.open("xb") as file:
        for block in blocks:
            kind = block.dtype.str[1:]
            if not written:
                file.write(_start(header, shape, _BITPIX[kind], scaling or {}))
            written += file.write(np.ascontiguousarray(block, dtype=f">{kind}").data)
        file.write(b"\0" * (-written % BLOCK_BYTES))


def _start(header: fits.Header, shape: tuple[int, int], bitpix: int, scaling: Mapping[str, int | float]) -> bytes:
    whole = fits.Header()
    whole["SIMPLE"] = True
    whole["BITPIX"] = bitpix
    whole["NAXIS"] = 2
    whole["NAXIS1"], whole["NAXIS2"] = shape[1], shape[0]
    for key, value in scaling.items():
        whole[key] = value
    whole.extend(header.cards, strip=False, end=True)
    text: str = whole.tostring(sep="", endcard=True, padding=True)
    return text.encode("ascii", "replace")
