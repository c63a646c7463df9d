"""Repairs of the faults that headers of images commonly have. What cannot be understood goes, and is told."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from astropy.io import fits

from .headers import time_in
from .images import FITS_FAULTS, quiet_fits
from .repair_wcs import repair_wcs

Note = Callable[[str], None]

_COMMENTARY: Final = frozenset(("COMMENT", "HISTORY", ""))
_ILLEGAL: Final = re.compile(r"[^A-Z0-9_-]")
_NUMBERS: Final = re.compile(
    r"(CRVAL|CRPIX|CDELT|CROTA)\d[A-Z]?|(CD|PC)\d_\d[A-Z]?|PV\d_\d+[A-Z]?|(A|B|AP|BP)_(ORDER|\d_\d)"
    r"|(LON|LAT)POLE[A-Z]?|EQUINOX[A-Z]?|LTV\d|LTM\d_\d|BSCALE|BZERO|BLANK|GAIN|EGAIN|CCD_GAIN|RDNOISE|READNOIS"
    r"|SATURATE|EXPTIME|EXPOSURE|AIRMASS|MJD(-OBS)?|JD|CCD-TEMP|[XY]PIXSZ|[XY]BINNING|PIXSCALE|SECPIX\d?"
)
_WCS: Final = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)\d[A-Z]?|(CD|PC)\d_\d[A-Z]?|PV\d_\d+[A-Z]?|(A|B|AP|BP)_(ORDER|\d_\d|DMAX)"
)
_NO_NUMBER: Final = re.compile(r"[+-]?(nan|inf|infinity|-nan)", re.IGNORECASE)
_STANDARD_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d*)?)?")
_DATES: Final = ("DATE-OBS", "DATEOBS", "MJD-OBS")
_CLOCKS: Final = ("TIME-OBS", "TIMEOBS", "UT")


def repair_header(header: fits.Header) -> tuple[fits.Header, list[str]]:
    """Repair a header.

    Parameters
    ----------
    header
        As it was read, not repaired yet.

    Returns
    -------
    repaired, notes
        A copy, and what was done to it, a line each; none when nothing was wrong.
    """
    notes: list[str] = []
    with quiet_fits():
        fixed = _readable(header, notes.append)
        _repair_values(fixed, notes.append)
        fixed = _single(fixed, notes.append)
        repair_wcs(fixed, notes.append)
        _repair_date(fixed, notes.append)
    return fixed, notes


def _readable(header: fits.Header, note: Note) -> fits.Header:
    """Copy the cards that can be read, in the form of the standard, and repair the others."""
    fixed = fits.Header()
    for card in header.cards:
        try:
            card.verify("silentfix")
            _append(fixed, card.keyword, card.value, card.comment)
        except FITS_FAULTS:
            text = _text_of(card)
            found = _by_hand(text)
            if found is None:
                note(f"card left out: {text[:40].strip() or 'unreadable'}")
            else:
                _append(fixed, *found)
                note(f"{found[0]}: illegal keyword renamed")
    return fixed


def _append(header: fits.Header, keyword: str, value: Any, comment: str) -> None:
    value = _ascii(value) if isinstance(value, str) else value
    if keyword in _COMMENTARY:
        header.append((keyword, _ascii(str(value))), end=True)
    elif isinstance(value, fits.card.Undefined):
        header.append((keyword, None, _ascii(comment)), end=True)
    else:
        header.append((keyword, value, _ascii(comment)), end=True)


def _text_of(card: fits.Card) -> str:
    try:
        return _ascii(str(card))
    except FITS_FAULTS:
        return ""


def _by_hand(text: str) -> tuple[str, Any, str] | None:
    """Read a card whose keyword is illegal, under a legal one; None where there is nothing to read."""
    keyword, equals, rest = text.partition("=")
    legal = _ILLEGAL.sub("_", keyword.strip().upper())[:8].strip("_")
    if not (equals and legal) or legal == "END":
        return None
    card = fits.Card.fromstring(f"{legal:<8}={rest}"[:80])
    try:
        card.verify("silentfix")
        value = card.value
    except FITS_FAULTS:
        return None
    if isinstance(value, fits.card.Undefined) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return legal, value, card.comment


def _ascii(text: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def _repair_values(header: fits.Header, note: Note) -> None:
    for keyword, index, value in list(_texts(header)):
        text = value.strip()
        if _NUMBERS.fullmatch(keyword) or text.startswith("="):
            number = _number_in(text)
            if number is not None:
                header[keyword, index] = number
                note(f"{keyword}: number written as text")
                continue
        if text.startswith(("'", "=")):
            header[keyword, index] = text.lstrip("='").strip()
            note(f"{keyword}: quotes repaired")
    for keyword in [key for key, _, value in _texts(header) if _NO_NUMBER.fullmatch(value.strip())]:
        header.remove(keyword, ignore_missing=True, remove_all=True)
        note(f"{keyword}: not a finite number, removed")


def _texts(header: fits.Header) -> Iterator[tuple[str, int, str]]:
    seen: Counter[str] = Counter()
    for card in header.cards:
        if isinstance(card.value, str) and card.keyword not in _COMMENTARY:
            yield card.keyword, seen[card.keyword], card.value
        seen[card.keyword] += 1


def _number_in(text: str) -> int | float | None:
    """Read a finite number, also with a decimal comma or an exponent of Fortran."""
    plain = text.lstrip("= ").split("/")[0].strip().replace(",", ".").upper().replace("D", "E")
    for kind in (int, float):
        try:
            number = kind(plain)
        except ValueError:
            continue
        return number if math.isfinite(number) else None
    return None


def _single(header: fits.Header, note: Note) -> fits.Header:
    """Keep one card of each keyword: the first, as readers do; of world coordinates the last, as later solvers add."""
    counts = Counter(card.keyword for card in header.cards)
    repeated = {key for key, count in counts.items() if count > 1 and key not in _COMMENTARY}
    if not repeated:
        return header
    kept = fits.Header()
    seen: Counter[str] = Counter()
    for card in header.cards:
        keyword = card.keyword
        seen[keyword] += 1
        wanted = counts[keyword] if _WCS.fullmatch(keyword) else 1
        if keyword not in repeated or seen[keyword] == wanted:
            kept.append(card, end=True)
    for keyword in sorted(repeated):
        note(f"{keyword}: {counts[keyword]} cards, one kept")
    return kept


def _repair_date(header: fits.Header, note: Note) -> None:
    value = header.get("DATE-OBS")
    if isinstance(value, str) and _STANDARD_DATE.fullmatch(value) and ("T" in value or not _has_clock(header)):
        return
    # the time of the observation only, and not that of the file
    known = fits.Header(
        [(key, header[key]) for key in (*_DATES, *_CLOCKS) if key in header and header[key] is not None]
    )
    if isinstance(known.get("DATE-OBS"), str):
        known["DATE-OBS"] = known["DATE-OBS"].strip().rstrip("Zz")
    moment = time_in(known, lambda *_: None)
    if moment is None or moment == value:
        return
    header["DATE-OBS"] = moment
    note(f"DATE-OBS: {_ascii(repr(value))[:30]} became {moment}" if value is not None else f"DATE-OBS: {moment} added")


def _has_clock(header: fits.Header) -> bool:
    return any(str(header.get(key, "")).strip() for key in _CLOCKS)
