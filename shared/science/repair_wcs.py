"""Repairs of world coordinates: what the standard forbids, and what programs disagree about."""

import math
import re
from collections.abc import Callable
from typing import Final

from astropy.io import fits

from .headers import number_in

Note = Callable[[str], None]

_CELESTIAL: Final = re.compile(r"(RA|DEC|GLON|GLAT|ELON|ELAT)-*([A-Z]{3})(-SIP)?")
_DEGREES: Final = frozenset(("deg", "degs", "degree", "degrees", "d"))
_FORWARD: Final = re.compile(r"[AB]_(ORDER|DMAX|\d_\d)")
_INVERSE: Final = re.compile(r"[AB]P_(ORDER|\d_\d)")
_PV: Final = re.compile(r"PV[12]_\d+")
_CD: Final = re.compile(r"CD[12]_[12]")
_PC: Final = re.compile(r"PC[12]_[12]")
_SCALES: Final = re.compile(r"CDELT[12]|CROTA[12]")
_LINEAR: Final = re.compile(r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|PV[12]_\d+|(A|B|AP|BP)_\w+")
_NUMBERS: Final = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
_OLD_EQUINOXES: Final = (1950.0, 2000.0)


def repair_wcs(header: fits.Header, note: Note) -> None:
    """Repair the world coordinates of a header, in place, so that they say what they meant.

    Parameters
    ----------
    header
        With one card a keyword.
    note
        Takes a line for each repair.
    """
    _repair_frame(header, note)
    kinds = _repair_types(header, note)
    _repair_matrix(header, note)
    if not all(kinds):
        return
    _repair_distortion(header, kinds, note)
    if not _is_usable(header):
        _drop(header, _LINEAR)
        note("world coordinates that give no scale or position removed")


def _drop(header: fits.Header, which: re.Pattern[str]) -> bool:
    found = [key for key in header if which.fullmatch(key)]
    for key in found:
        header.remove(key, ignore_missing=True, remove_all=True)
    return bool(found)


def _repair_frame(header: fits.Header, note: Note) -> None:
    if "RADECSYS" in header:
        if "RADESYS" not in header:
            header["RADESYS"] = header["RADECSYS"]
        header.remove("RADECSYS")
        note("RADECSYS: renamed to RADESYS")
    equinox = header.get("EQUINOX")
    if isinstance(equinox, str):
        try:
            header["EQUINOX"] = float(equinox.strip().lstrip("JB"))
        except ValueError:
            header.remove("EQUINOX")
        note("EQUINOX: text replaced")
    epoch = number_in(header, "EPOCH")
    if "EQUINOX" not in header and epoch in _OLD_EQUINOXES:
        header["EQUINOX"] = epoch
        note("EQUINOX: taken from EPOCH")


def _repair_types(header: fits.Header, note: Note) -> list[str]:
    """Write types and units as the standard does; gives the types, empty ones where they are not celestial."""
    kinds = []
    for axis in (1, 2):
        text = str(header.get(f"CTYPE{axis}", ""))
        match = _CELESTIAL.fullmatch(text.strip().upper().replace(" ", "-"))
        if match is None:
            kinds.append("")
            continue
        kind = f"{match[1]:-<4}-{match[2]}{match[3] or ''}"
        if kind != text:
            header[f"CTYPE{axis}"] = kind
            note(f"CTYPE{axis}: {text!r} became {kind}")
        kinds.append(kind)
        unit = header.get(f"CUNIT{axis}")
        if isinstance(unit, str) and unit != "deg" and unit.strip().lower() in _DEGREES:
            header[f"CUNIT{axis}"] = "deg"
            note(f"CUNIT{axis}: {unit!r} became deg")
    return kinds


def _repair_matrix(header: fits.Header, note: Note) -> None:
    """Keep one description of scale and rotation, that which programs take."""
    has_cd = any(_CD.fullmatch(key) for key in header)
    if has_cd:
        if _drop(header, _PC):
            note("PC matrix beside a CD matrix removed")
        if _drop(header, _SCALES):
            note("CDELT and CROTA beside a CD matrix removed")
    elif any(_PC.fullmatch(key) for key in header) and _drop(header, re.compile(r"CROTA[12]")):
        note("CROTA beside a PC matrix removed")


def _repair_distortion(header: fits.Header, kinds: list[str], note: Note) -> None:
    _complete_orders(header, note)
    has_sip = "A_ORDER" in header and "B_ORDER" in header
    if not has_sip and _drop(header, _FORWARD):
        note("incomplete SIP polynomial removed")
    if ("AP_ORDER" in header) != ("BP_ORDER" in header) or not has_sip:
        _drop(header, _INVERSE)
    if has_sip and _drop(header, _PV):
        note("PV terms beside a SIP polynomial removed")
    for axis, kind in enumerate(kinds, 1):
        right = kind.removesuffix("-SIP") + ("-SIP" if has_sip else "")
        # SCAMP's distortion was written as TAN before it had a name of its own
        if right.endswith("TAN") and any(key.startswith("PV2_") for key in header):
            right = f"{right[:-3]}TPV"
        if right != kind:
            header[f"CTYPE{axis}"] = right
            note(f"CTYPE{axis}: {kind} became {right}, as its distortion needs")


def _complete_orders(header: fits.Header, note: Note) -> None:
    for letter in "AB":
        if f"{letter}_ORDER" in header:
            continue
        terms = [key for key in header if re.fullmatch(rf"{letter}_\d_\d", key)]
        if terms:
            header[f"{letter}_ORDER"] = max(int(key[2]) + int(key[4]) for key in terms)
            note(f"{letter}_ORDER: added")


def _is_usable(header: fits.Header) -> bool:
    if not all(number_in(header, key) is not None for key in _NUMBERS if key in header):
        return False
    if any(_CD.fullmatch(key) for key in header):
        cd = [_value(header, f"CD{i}_{j}", 0.0) for i in (1, 2) for j in (1, 2)]
    else:
        pc = [_value(header, f"PC{i}_{j}", float(i == j)) for i in (1, 2) for j in (1, 2)]
        scales = [_value(header, f"CDELT{axis}", 1.0) for axis in (1, 2)]
        cd = [scales[0] * pc[0], scales[0] * pc[1], scales[1] * pc[2], scales[1] * pc[3]]
    determinant = cd[0] * cd[3] - cd[1] * cd[2]
    return math.isfinite(determinant) and determinant != 0


def _value(header: fits.Header, key: str, absent: float) -> float:
    """Read a number of the matrix; NaN for what is none."""
    if key not in header:
        return absent
    number = number_in(header, key)
    return math.nan if number is None else number
