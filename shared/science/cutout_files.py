"""Writing cutouts as STDPipe's `load_cutout` and the preview read them: an image of one name a plane, facts in front.

Not STDPipe's `write_cutout` and `get_cutout`: with a distorted WCS they take 0.06 s a cutout, most of it for making and
verifying the same header cards again; a hundred candidates have one header, but for its reference pixel.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from .wcs import wcs_header

_BLOCK: Final = 2880
_BITPIX: Final = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}
_STRUCTURE: Final = ("NAXIS", "NAXIS1", "NAXIS2")
_REFERENCE: Final = ("CRPIX1", "CRPIX2")


def corner_of(x: float, y: float, half_size_pix: int) -> tuple[int, int]:
    """Give the first column and row of a cutout around a position, 0-based pixels."""
    return round(x) - half_size_pix, round(y) - half_size_pix


def crop(plane: NDArray[Any], corner: tuple[int, int], size: int) -> NDArray[Any]:
    """Cut a square out of a plane; what lies beyond its edge is NaN, or 0 in integers and False in masks."""
    part = np.full((size, size), np.nan if plane.dtype.kind == "f" else 0, plane.dtype)
    left, bottom = corner
    first_x, last_x = max(left, 0), min(left + size, plane.shape[1])
    first_y, last_y = max(bottom, 0), min(bottom + size, plane.shape[0])
    if first_x < last_x and first_y < last_y:
        part[first_y - bottom : last_y - bottom, first_x - left : last_x - left] = plane[first_y:last_y, first_x:last_x]
    return part


class CutoutWriter:
    """Writes cutouts of one image.

    Parameters
    ----------
    wcs
        Of the image.
    """

    def __init__(self, wcs: WCS) -> None:
        header = wcs_header(wcs)
        for key in _STRUCTURE:
            header.remove(key, ignore_missing=True)
        self._cards = [card.image for card in header.cards]
        self._reference = {key: (header.index(key), float(header[key])) for key in _REFERENCE if key in header}

    def write(
        self, path: Path, planes: Mapping[str, NDArray[Any]], facts: Mapping[str, object], corner: tuple[int, int]
    ) -> None:
        """Write a file.

        Parameters
        ----------
        planes
            Squares of one size, by their names.
        facts
            Text and numbers about the object; what cannot be a number in FITS is written as text.
        corner
            First column and row of the squares in the image, 0-based pixels.
        """
        place = self._placed(corner, next(iter(planes.values())).shape)
        with path.open("wb") as file:
            file.write(_primary(facts))
            for name, plane in planes.items():
                file.write(_plane(name, plane, place))

    def _placed(self, corner: tuple[int, int], shape: tuple[int, ...]) -> str:
        cards = list(self._cards)
        for (key, (index, value)), start in zip(self._reference.items(), corner, strict=False):
            cards[index] = fits.Card(key, value - start).image
        for axis, start, length in zip("XY", corner, shape[::-1], strict=True):
            cards.append(fits.Card(f"CROP_{axis}1", start).image)
            cards.append(fits.Card(f"CROP_{axis}2", start + length).image)
        return "".join(cards)


def _primary(facts: Mapping[str, object]) -> bytes:
    header = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)])
    for key, value in facts.items():
        header[f"HIERARCH {key}" if len(key) > 8 else key] = _plain(value)  # noqa: PLR2004  longest plain keyword
    return _padded(header.tostring(padding=False), ended=True)


def _plane(name: str, plane: NDArray[Any], place: str) -> bytes:
    data = plane.astype(np.uint8) if plane.dtype == np.bool_ else plane
    structure: dict[str, int | str] = {
        "XTENSION": "IMAGE   ",
        "BITPIX": _BITPIX[data.dtype.str[1:]],
        "NAXIS": 2,
        "NAXIS1": data.shape[1],
        "NAXIS2": data.shape[0],
        "PCOUNT": 0,
        "GCOUNT": 1,
        "EXTNAME": name.upper(),
    }
    cards = "".join(f"{key:8}= {_shown(value)}".ljust(80) for key, value in structure.items())
    content = data.astype(data.dtype.newbyteorder(">")).tobytes()
    return _padded(cards + place) + content + bytes(-len(content) % _BLOCK)


def _shown(value: int | str) -> str:
    return f"{value:20d}" if isinstance(value, int) else f"'{value:8}'"


def _padded(cards: str, *, ended: bool = False) -> bytes:
    text = cards if ended else cards + "END".ljust(80)
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK).encode("ascii")


def _plain(value: object) -> object:
    """Give a value as a header holds it: printable ASCII, finite numbers; others as STDPipe's reader expects them."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Inf"
    if isinstance(value, str):
        return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in value)
    return value
