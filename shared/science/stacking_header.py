"""What the header of a stack says: that of its first image, with gain, saturation, exposure and time of all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from astropy.io import fits

from ..contracts.params.stack import StackMethod
from .images import EXTRACTED
from .planes import without_structure
from .stacking_combine import median_loss
from .stacking_input import Facts

Log = Callable[..., None]

_STALE: Final = (
    *("GAIN", "EGAIN", "CCD_GAIN", "SATURATE", "DATAMIN", "DATAMAX", EXTRACTED),
    *("EXPTIME", "EXPOSURE", "EXP_TIME", "ITIME", "EXPOSED"),
)
_TIMES: Final = ("DATE-OBS", "DATEOBS", "DATE", "DATE-BEG", "DATE-AVG", "DATE-END", "MJD", "MJD-OBS", "MJD-BEG")
_MORE_TIMES: Final = ("MJD-AVG", "MJD-END", "JD", "TIME-OBS", "TIMEOBS", "TIME-END", "UT", "UTC", "UTSTART", "UTEND")


@dataclass(frozen=True)
class Member:
    """An image that is part of a stack.

    Parameters
    ----------
    scale
        Flux of a star in it over that in the first image.
    noise_adu, level_adu
        Standard deviation and level of its background, on the grid.
    saturation_adu
        On the grid, background included; None when unknown.
    gain
        Electrons per ADU, assumed where the header has none.
    fwhm_pix
        Of stars, on the grid; NaN when unknown.
    """

    name: str
    facts: Facts
    scale: float
    noise_adu: float
    level_adu: float
    saturation_adu: float | None
    gain: float
    fwhm_pix: float


def total_scale(members: Sequence[Member], method: StackMethod) -> float:
    """Give the flux of a star in the stack over that in the first image."""
    scales = [member.scale for member in members]
    return float(np.sum(scales) if method == "sum" else np.mean(scales))


def total_level(members: Sequence[Member], method: StackMethod) -> float:
    """Give the level of the background of the stack, when none was subtracted, ADU."""
    levels = [member.level_adu for member in members]
    return float(np.sum(levels) if method == "sum" else np.mean(levels))


def combined_gain(members: Sequence[Member], method: StackMethod) -> float:
    """Give the gain with which the photon noise of the stack is that of its images, electrons per ADU.

    The flux of an image is s·f with the variance s·f/g. Sum and mean are Σx, the median that of x/s times mean s.
    """
    scales, gains = (np.array([getattr(member, key) for member in members]) for key in ("scale", "gain"))
    count = len(members)
    if method == "median":
        return float(count / (scales.mean() * median_loss(count) * np.mean(1 / (gains * scales))))
    return float((1 if method == "sum" else count) * scales.sum() / np.sum(scales / gains))


def combined_saturation(members: Sequence[Member], method: StackMethod, *, background_kept: bool) -> float | None:
    """Give the lowest level in the stack at which one of its images is saturated, ADU; None when unknown."""
    fluxes = [
        (member.saturation_adu - member.level_adu) / member.scale
        for member in members
        if member.saturation_adu is not None
    ]
    if not fluxes:
        return None
    level = min(fluxes) * total_scale(members, method)
    return level + (total_level(members, method) if background_kept else 0.0)


def stacked_header(
    first: fits.Header, members: Sequence[Member], method: StackMethod, saturation_adu: float | None, log: Log
) -> fits.Header:
    """Write the header of a stack."""
    header = without_structure(first)
    for key in _STALE:
        header.remove(key, ignore_missing=True, remove_all=True)
    header["NCOMBINE"] = (len(members), "images in this stack")
    header["STACKMET"] = (method, "how they were combined")
    gain = combined_gain(members, method)
    header["GAIN"] = (gain, "e-/ADU, of the stack")
    log(f"Gain of the stack {gain:.5g} e-/ADU")
    if saturation_adu is not None:
        header["SATURATE"] = (saturation_adu, "ADU, from here on an image is saturated")
        log(f"Saturation of the stack {saturation_adu:.6g} ADU")
    else:
        log("No saturation level in the headers, none is written")
    _write_exposure(header, members, method, log)
    _write_times(header, members, log)
    header.add_history(f"stdweb: {method} of {len(members)} images")
    for member in members:
        header.add_history(f"stacked {member.name.encode('ascii', 'replace').decode()}")
    return header


def _write_exposure(header: fits.Header, members: Sequence[Member], method: StackMethod, log: Log) -> None:
    known = [member.facts.exposure_s for member in members if member.facts.exposure_s is not None]
    if len(known) < len(members):
        log(f"Warning: {len(members) - len(known)} images tell no exposure time; the stack has none")
        return
    total_s = float(np.sum(known))
    exposure_s = total_s if method == "sum" else total_s / len(known)
    header["EXPTIME"] = (exposure_s, "s, that the counts stand for")
    header["TOTEXP"] = (total_s, "s, of all images")
    log(f"Exposure {exposure_s:g} s, of all images {total_s:g} s")


def _write_times(header: fits.Header, members: Sequence[Member], log: Log) -> None:
    """Write the mean time, weighted by exposures: of the same phase of an exposure as in the images."""
    known = [member for member in members if member.facts.time is not None]
    if not known:
        log("Warning: no image tells its time")
        return
    for key in (*_TIMES, *_MORE_TIMES):
        header.remove(key, ignore_missing=True, remove_all=True)
    times = [datetime.fromisoformat(str(member.facts.time)) for member in known]
    exposures = [member.facts.exposure_s for member in known]
    weights = [1.0 if None in exposures else float(seconds or 0) for seconds in exposures]
    since_s = [(time - times[0]).total_seconds() for time in times]
    mean = times[0] + timedelta(seconds=float(np.average(since_s, weights=weights)))
    ends = [time + timedelta(seconds=seconds or 0) for time, seconds in zip(times, exposures, strict=True)]
    header["DATE-OBS"] = (mean.isoformat(timespec="milliseconds"), "UTC, mean of the images' DATE-OBS")
    header["DATE-BEG"] = (min(times).isoformat(timespec="milliseconds"), "UTC, of the first image")
    header["DATE-END"] = (max(ends).isoformat(timespec="milliseconds"), "UTC, end of the last image")
    log(f"Time {header['DATE-OBS']} UTC, mean of {len(known)} images")
