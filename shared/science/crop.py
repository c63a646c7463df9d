"""Cutting a part out of an image: which part, and what its header then has to say."""

import re
from typing import Final

from astropy.io import fits

from ..errors import UsageError
from .headers import number_in
from .images import size_of

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, 0-based and half-open."""

# parts of this image, in its own pixels
_HERE: Final = re.compile(r"((DATA|TRIM|BIAS)SEC\w?|[DTB]SEC\d\d?)")
# parts of the chip or the detector that the image, or its DATASEC, shows
_ELSEWHERE: Final = re.compile(r"((CCD|DET|AMP)SEC\w?|[CA]SEC\d\d?)")
_SECTION: Final = re.compile(r"\s*\[\s*(-?\d+)\s*:\s*(-?\d+)\s*,\s*(-?\d+)\s*:\s*(-?\d+)\s*\]\s*")
_REFERENCE: Final = re.compile(r"CTYPE([12])([A-Z]?)")
# origin of this image in that of the whole chip (MaxIm DL), or of the plate (DSS)
_ORIGINS: Final = (("XORGSUBF", "YORGSUBF"), ("CNPIX1", "CNPIX2"))
_OF_ALL_PIXELS: Final = ("DATAMIN", "DATAMAX", "CHECKSUM", "DATASUM")

_Range = tuple[int, int]
"""First and last pixel, 1-based, as sections are written."""


def box_of(x1: int | None, y1: int | None, x2: int | None, y2: int | None, shape: tuple[int, int]) -> Box:
    """Find the part that is asked for, clipped to the image.

    Parameters
    ----------
    x1, y1, x2, y2
        Pixels, 0-based and half-open; None for the edge, negative ones count from the far edge.
    shape
        (rows, columns).

    Raises
    ------
    UsageError
        When nothing is in it.
    """
    rows, columns = shape
    left, right = _range_of("x", x1, x2, columns, shape)
    bottom, top = _range_of("y", y1, y2, rows, shape)
    return left, bottom, right, top


def _range_of(axis: str, start: int | None, stop: int | None, length: int, shape: tuple[int, int]) -> _Range:
    first, end, _ = slice(start, stop).indices(length)
    if end <= first:
        raise UsageError(
            "empty_crop",
            f"Nothing is left between {axis}1 and {axis}2 of an image of {size_of(shape)} pixels. {axis}2 must be "
            f"above {axis}1, both counted from 0, or from the far edge if negative.",
            parameter=f"{axis}1" if stop is None else f"{axis}2",
        )
    return first, end


def crop_header(header: fits.Header, box: Box, shape: tuple[int, int]) -> fits.Header:
    """Give the header of a part of an image.

    World coordinates of all kinds count from the reference pixel, so that it alone moves, distortions included; so do
    the physical coordinates of IRAF (LTV). Sections are shifted and clipped; those that no longer mean anything go.

    Parameters
    ----------
    header
        Of the image.
    box
        The part.
    shape
        (rows, columns) of the image.
    """
    x1, y1, x2, y2 = box
    cut = header.copy()
    for axis, shift in ((1, x1), (2, y1)):
        _shift_reference(cut, axis, shift)
        ltv = number_in(cut, f"LTV{axis}")
        if shift or ltv is not None:
            cut[f"LTV{axis}"] = ((ltv or 0.0) - shift, "from the original pixel to that of this image")
    for pair in _ORIGINS:
        for key, shift in zip(pair, (x1, y1), strict=True):
            origin = number_in(cut, key)
            if origin is not None:
                cut[key] = origin + shift
    _cut_sections(cut, box, shape)
    for key in _OF_ALL_PIXELS:
        cut.remove(key, ignore_missing=True, remove_all=True)
    cut.add_history(f"stdweb: cropped to columns {x1} to {x2 - 1} and rows {y1} to {y2 - 1}, from 0")
    return cut


def _shift_reference(header: fits.Header, axis: int, shift: int) -> None:
    versions = {match[2] for key in header if (match := _REFERENCE.fullmatch(key)) and int(match[1]) == axis}
    versions |= {key[6:] for key in header if re.fullmatch(rf"CRPIX{axis}[A-Z]?", key)}
    for version in versions:
        key = f"CRPIX{axis}{version}"
        if key in header and number_in(header, key) is None:
            continue  # no coordinates without a number
        before = number_in(header, key) or 0.0  # what the standard takes without the card
        for index in range(header.count(key) if key in header else 1):
            header[(key, index) if key in header else key] = before - shift


def _cut_sections(header: fits.Header, box: Box, shape: tuple[int, int]) -> None:
    # the biggest part of the image that shows the sky; without a card the whole
    data = _section_in(header, "DATASEC") or ((1, shape[1]), (1, shape[0]))
    for key in list(header):
        if not (_HERE.fullmatch(key) or _ELSEWHERE.fullmatch(key)):
            continue
        section = _section_in(header, key)
        new: str | None = None
        if section is not None:
            cut = [
                _here(part, low, high) if _HERE.fullmatch(key) else _elsewhere(part, shown, low, high)
                for part, shown, (low, high) in zip(section, data, ((box[0], box[2]), (box[1], box[3])), strict=True)
            ]
            new = None if None in cut else "[" + ",".join(f"{part[0]}:{part[1]}" for part in cut if part) + "]"
        if new is None:
            header.remove(key, remove_all=True, ignore_missing=True)
        else:
            header[key] = new


def _section_in(header: fits.Header, key: str) -> tuple[_Range, _Range] | None:
    match = _SECTION.fullmatch(str(header.get(key, "")))
    if match is None:
        return None
    a, b, c, d = (int(number) for number in match.groups())
    return (a, b), (c, d)


def _here(part: _Range, low: int, high: int) -> _Range | None:
    """Cut a range of this image; None when nothing is left."""
    backwards = part[0] > part[1]
    first, last = max(min(part), low + 1) - low, min(max(part), high) - low
    if first > last:
        return None
    return (last, first) if backwards else (first, last)


def _elsewhere(part: _Range, shown: _Range, low: int, high: int) -> _Range | None:
    """Cut the range elsewhere that a range of this image shows; None where the one is no multiple of the other."""
    count, pixels = abs(part[1] - part[0]) + 1, abs(shown[1] - shown[0]) + 1
    kept = _here((min(shown), max(shown)), low, high)
    if kept is None or count % pixels:
        return None
    binning = count // pixels
    skipped = kept[0] + low - min(shown)
    sign = 1 if (part[1] >= part[0]) == (shown[1] >= shown[0]) else -1
    origin = part[0] if shown[1] >= shown[0] else part[1]
    first = origin + sign * binning * skipped
    last = first + sign * (binning * (kept[1] - kept[0] + 1) - 1)
    return (first, last) if shown[1] >= shown[0] else (last, first)
