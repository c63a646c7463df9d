"""What an image's header tells about it: gain, saturation, filter, time, target. No card is trusted."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from astropy.io import fits
from astropy.time import Time
from stdpipe.utils import get_obs_time

from ..contracts.bands import band_of
from .images import FITS_FAULTS, quiet_fits

Log = Callable[..., None]

DEFAULT_BAND: Final = "R"
UNKNOWN_BAND: Final = "r"
DEFAULT_GAIN: Final = 1.0

_GAIN_KEYS: Final = ("GAIN", "EGAIN", "CCD_GAIN")
_FILTER_KEYS: Final = ("FILTER", "FILTERS", "CAMFILT")
_TARGET_KEYS: Final = ("TARGET", "OBJECT")
_DATE_KEYS: Final = ("DATE-OBS", "DATEOBS", "MJD", "MJD-OBS", "JD", "DATE")
_CLOCK_KEYS: Final = ("TIME-OBS", "TIMEOBS", "UT")
_MAX_GAIN: Final = 1e6
_NO_TARGETS: Final = frozenset(("", "none", "null", "unknown", "n/a", "na", "undefined", "light", "test", "object"))

# before the year 2000 the standard had two digits of the year only, always of the 20th century
_OLD_DATE: Final = re.compile(r"(\d\d)/(\d\d)/(\d\d)")
_OLD_DATE_LONG: Final = re.compile(r"(\d\d)/(\d\d)/(\d{4})")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_CLOCK: Final = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d*)?)?")
_FIRST_YEAR: Final = 1840  # the first astronomical photograph


def number_in(header: fits.Header, key: str) -> float | None:
    """Read a card as a finite number, also where it was written as a string; None otherwise."""
    value = header.get(key)
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def gain_in(header: fits.Header, log: Log) -> float | None:
    """Read the gain, electrons per ADU; None without a usable card."""
    for key in _GAIN_KEYS:
        if key not in header:
            continue
        gain = number_in(header, key)
        if gain is None or gain < 0 or gain > _MAX_GAIN:
            log(f"Warning: {key} = {header[key]!r} is no usable gain, ignored")
            continue
        if gain == 0:
            log(f"Warning: {key} is zero, {DEFAULT_GAIN:g} is used")
            return DEFAULT_GAIN
        return gain
    return None


def saturation_in(header: fits.Header, median_adu: float, log: Log) -> float | None:
    """Read the saturation level, ADU; None without a card, or when it is not above the median of the image."""
    if "SATURATE" not in header:
        return None
    level = number_in(header, "SATURATE")
    if level is None or level <= median_adu:
        log(f"Warning: SATURATE = {header['SATURATE']!r} is no level above the median, ignored")
        return None
    return level


def band_in(header: fits.Header, log: Log) -> str:
    """Read the filter as the code of a band: `R` without one, `r` for an unknown one."""
    for key in _FILTER_KEYS:
        spelling = str(header.get(key, "")).strip()
        if not spelling:
            continue
        band = band_of(spelling)
        if band is None:
            log(f"Warning: unknown filter {spelling!r} in {key}, {UNKNOWN_BAND} is assumed; set filter if it is wrong")
            return UNKNOWN_BAND
        return band
    log(f"Warning: no filter in the header, {DEFAULT_BAND} is assumed; set filter if it is wrong")
    return DEFAULT_BAND


def target_in(header: fits.Header) -> str | None:
    """Read the name of the target; None when the header has none, or only a filler."""
    for key in _TARGET_KEYS:
        name = header.get(key)
        if isinstance(name, str) and name.strip().lower() not in _NO_TARGETS:
            return " ".join(name.split())
    return None


def time_in(header: fits.Header, log: Log) -> str | None:
    """Read the time of observation as ISO 8601, UTC; None without a credible one.

    STDPipe's search, on a header with the old notation of dates translated, and with a clock's reading added to a mere
    date: the search itself takes '29/11/51' for 2051, and a clock without date for today.
    """
    for key in _DATE_KEYS:
        if key not in header:
            continue
        value = _with_clock(_modern(header[key]), header)
        with quiet_fits():
            try:
                moment = get_obs_time(header=fits.Header({key if key in _SEARCHED else "MJD": value}), verbose=False)
                text = None if moment is None else _iso(moment)
            except (*FITS_FAULTS, RuntimeError):
                text = None
        if text is None:
            log(f"Warning: {key} = {header[key]!r} is no usable time, ignored")
            continue
        if key == "DATE":
            log("Warning: the time is that of the file's creation (DATE), the header has no other")
        return text
    return None


_SEARCHED: Final = ("DATE-OBS", "DATEOBS", "DATE", "MJD", "JD")


def _modern(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return value
    value = value.strip()
    if old := _OLD_DATE.fullmatch(value):
        return f"19{old[3]}-{old[2]}-{old[1]}"
    if old := _OLD_DATE_LONG.fullmatch(value):
        return f"{old[3]}-{old[2]}-{old[1]}"
    try:
        return float(value)
    except ValueError:
        return value


def _with_clock(value: Any, header: fits.Header) -> Any:
    if not (isinstance(value, str) and _DAY.fullmatch(value)):
        return value
    for key in _CLOCK_KEYS:
        clock = str(header.get(key, "")).strip()
        if _CLOCK.fullmatch(clock):
            return f"{value}T{clock.zfill(len(clock) + (clock.index(':') == 1))}"
    return value


def _iso(moment: Time) -> str | None:
    """Write a time as options take it; None for one that cannot be that of an observation."""
    when: datetime = moment.utc.to_datetime()
    latest = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=2)
    return when.isoformat() if when.year >= _FIRST_YEAR and when <= latest else None
