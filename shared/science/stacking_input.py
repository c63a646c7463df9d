"""One image of a stack, made ready: its pixels above the background, and what its header says of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from ..errors import DataError
from . import headers
from .cosmics import cosmic_rays
from .images import read_image, size_of
from .masks import background_maps
from .stacking_grid import BAD, SATURATED

Log = Callable[..., None]

_MIN_SIDE_PIX: Final = 16
_MAX_BAD_FRACTION: Final = 0.99
_EXPOSURE_KEYS: Final = ("EXPTIME", "EXPOSURE", "EXP_TIME", "ITIME", "EXPOSED")
_MAX_EXPOSURE_S: Final = 1e7


@dataclass(frozen=True)
class Facts:
    """What the header of an image says; None where it says nothing.

    Parameters
    ----------
    gain
        Electrons per ADU.
    saturation_adu
        Of the image as it was read, background included.
    time
        ISO 8601, UTC.
    """

    gain: float | None
    saturation_adu: float | None
    exposure_s: float | None
    time: str | None
    band: str


@dataclass(frozen=True)
class Prepared:
    """An image of a stack.

    Parameters
    ----------
    image
        Above the background, ADU; zero where there is no value.
    flags
        `BAD` and `SATURATED` pixels.
    background
        What was subtracted, ADU.
    level_adu
        Median of that.
    noise_adu
        Standard deviation of the background.
    """

    name: str
    image: NDArray[np.float32]
    flags: NDArray[np.uint8]
    header: fits.Header
    background: NDArray[np.float32]
    level_adu: float
    noise_adu: float
    facts: Facts


def prepare_input(name: str, path: Path, *, ext: int | None = None, mask_cosmics: bool, log: Log) -> Prepared | None:
    """Read an image, mask it and subtract its background.

    Parameters
    ----------
    name
        As the user gave it.
    path
        The file.
    ext
        Number of the extension to take; None for the first usable one.
    mask_cosmics
        Whether to look for cosmic rays.
    log
        Takes lines for the user.

    Returns
    -------
    Prepared or None
        None, after a note in the log, when it has no pixels to speak of.

    Raises
    ------
    DataError
        When it is no FITS image.
    """
    try:
        image, header = read_image(path, ext)
    except DataError as error:
        text = error.user_message.replace("The file", "It").replace("The image", "It")
        raise DataError(error.code, f"{name} cannot be stacked. {text}", **error.details) from error
    finite = np.isfinite(image)
    if min(image.shape) < _MIN_SIDE_PIX or finite.mean() <= 1 - _MAX_BAD_FRACTION:
        log(f"Warning: {name} is left out: of its {size_of(image.shape)} pixels {int(finite.sum())} are finite")
        return None
    flags = np.where(finite, np.uint8(0), np.uint8(BAD))
    facts = facts_of(header, float(np.median(image[finite][:: max(image.size // 1_000_000, 1)])), name, log)
    if facts.saturation_adu is not None:
        flags[finite & (image >= facts.saturation_adu)] |= SATURATED
    image[~finite] = 0
    del finite
    background, noise = background_maps(image, flags > 0)
    noise_adu, level_adu = float(np.median(noise)), float(np.median(background))
    if mask_cosmics and noise_adu > 0:
        hits = cosmic_rays(image, flags > 0, background, noise, facts.gain or headers.DEFAULT_GAIN)
        flags[hits] |= BAD
        log(f"{name}: {int(hits.sum())} pixels hit by cosmic rays")
    image -= background
    image[(flags & BAD) > 0] = 0
    return Prepared(name, image, flags, header, background, level_adu, noise_adu, facts)


def facts_of(header: fits.Header, median_adu: float, name: str, log: Log) -> Facts:
    """Read what matters for a stack."""

    def note(text: str) -> None:
        log(f"{name}: {text}")

    return Facts(
        gain=headers.gain_in(header, note),
        saturation_adu=headers.saturation_in(header, median_adu, note),
        exposure_s=exposure_in(header),
        time=headers.time_in(header, note),
        band=headers.band_in(header, note),
    )


def exposure_in(header: fits.Header) -> float | None:
    """Read the exposure time, seconds; None without a usable card."""
    for key in _EXPOSURE_KEYS:
        seconds = headers.number_in(header, key)
        if seconds is not None and 0 < seconds < _MAX_EXPOSURE_S:
            return seconds
    return None
