"""What can be said of an image before anything is measured: arrays and headers in, facts out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from shared.contracts.bands import suggested_catalogs
from shared.contracts.params import InspectParams
from shared.errors import DataError
from shared.science import headers
from shared.science.images import size_of
from shared.science.templates import suggested_template
from shared.science.wcs import field_moc, field_of, moc_string, pixel_scale_deg

Log = Callable[..., None]

MIN_SIDE_PIX: Final = 16
"""Smallest side of an image in which a star and its background can be told apart."""

CUTOUT_HALF_PIX: Final = 100
SUGGESTED_CAT_LIMIT: Final = 20

_DEFAULT_MESH_PIX: Final = 256
_MIN_MESH_PIX: Final = 16
_MESHES_PER_SIDE: Final = 4
_SAMPLE_PIXELS: Final = 4_000_000
_RESCALED_RANGE_ADU: Final = 100.0
_FULL_WELL_ELECTRONS: Final = 50_000.0


@dataclass(frozen=True)
class Statistics:
    """Of the finite pixels, ADU."""

    minimum: float
    median: float
    maximum: float
    rms: float


def statistics_of(image: NDArray[np.float32]) -> Statistics:
    """Measure an image.

    The median and the RMS of large images come from every n-th pixel, and the RMS is the robust one, that of the
    background and not of the stars.

    Raises
    ------
    DataError
        When nothing can be measured on the image.
    """
    if min(image.shape) < MIN_SIDE_PIX:
        raise DataError(
            "too_small",
            f"The image has {size_of(image.shape)} pixels; at least {MIN_SIDE_PIX} are needed in each direction.",
        )
    finite = np.isfinite(image)
    if not finite.any():
        raise DataError("no_finite", "The image has no finite pixel: all are NaN or infinite. Upload another image.")
    values = image[finite] if not finite.all() else image.ravel()
    sample = values[:: max(values.size // _SAMPLE_PIXELS, 1)]
    median = float(np.median(sample))
    minimum, maximum = float(values.min()), float(values.max())
    if minimum == maximum:
        raise DataError("constant", f"The image is constant: each pixel is {minimum:g}. Upload another image.")
    return Statistics(minimum, median, maximum, 1.4826 * float(np.median(np.abs(sample - median))))


def gain_of(
    params: InspectParams, header: fits.Header, image: NDArray[np.float32], stats: Statistics, log: Log
) -> float:
    """Give the gain, electrons per ADU: as asked, from the header, guessed where the image was rescaled, else 1."""
    if params.gain is not None:
        gain = params.gain or headers.DEFAULT_GAIN
        log(f"Gain {gain:g} e-/ADU, as asked" + ("" if params.gain else " (zero counts as 1)"))
        return gain
    if _is_rescaled(header, image, stats):
        gain = _guessed_gain(stats)
        log(f"Warning: the pixel values seem to be rescaled, a gain of {gain:.3g} e-/ADU is guessed; set it if known")
        return gain
    gain_or_none = headers.gain_in(header, log)
    if gain_or_none is None:
        log(f"Warning: no gain in the header, {headers.DEFAULT_GAIN:g} e-/ADU is assumed")
        return headers.DEFAULT_GAIN
    log(f"Gain {gain_or_none:g} e-/ADU")
    return gain_or_none


def _is_rescaled(header: fits.Header, image: NDArray[np.float32], stats: Statistics) -> bool:
    """Tell whether pixels are no counts: fractions within a range too small for a detector's."""
    if any("asinh scaling" in str(line) for line in header.get("HISTORY", [])):
        return True
    if stats.maximum - stats.median >= _RESCALED_RANGE_ADU:
        return False
    sample = image.ravel()[:: max(image.size // 10_000, 1)]
    sample = sample[np.isfinite(sample)]
    return bool((sample != np.round(sample)).mean() > 0.5)  # noqa: PLR2004  most pixels


def _guessed_gain(stats: Statistics) -> float:
    """Guess the gain that makes the noise that of photons; from a usual full well if the sky is subtracted."""
    if stats.rms > 0 and stats.median > 3 * stats.rms:
        return float(np.clip(stats.median / stats.rms**2, 1e-3, 1e9))
    return float(np.clip(_FULL_WELL_ELECTRONS / (stats.maximum - stats.median), 1e-3, 1e9))


def saturation_of(params: InspectParams, header: fits.Header, stats: Statistics, log: Log) -> float:
    """Give the saturation level, ADU: as asked, from the header, else median + 0.95 (maximum - median)."""
    if params.saturation is not None:
        log(f"Saturation {params.saturation:g} ADU, as asked")
        return params.saturation
    level = headers.saturation_in(header, stats.median, log)
    if level is not None:
        log(f"Saturation {level:g} ADU")
        return level
    level = stats.median + 0.95 * (stats.maximum - stats.median)
    log(f"Saturation {level:g} ADU, estimated from the brightest pixel")
    return level


def mesh_of(params: InspectParams, shape: tuple[int, int], log: Log) -> int:
    """Give the side of the background mesh, pixels: 256, or a quarter of the smaller side."""
    if params.bg_size is not None:
        return params.bg_size
    mesh = max(min(_DEFAULT_MESH_PIX, min(shape) // _MESHES_PER_SIDE), _MIN_MESH_PIX)
    log(f"Background mesh of {mesh} pixels")
    return mesh


def suggestions(params: InspectParams, band: str, place_deg: tuple[float, float] | None, log: Log) -> dict[str, Any]:
    """Suggest catalogue, its limit, and template; where the image lies (RA and Dec, ICRS) is None when unknown."""
    found: dict[str, Any] = {"cat_limit": SUGGESTED_CAT_LIMIT}
    if params.cat_name is None:
        found["cat_name"] = suggested_catalogs(band, 0.0 if place_deg is None else place_deg[1])[0]
        found["cat_suggested"] = True
        log(f"Suggested catalogue {found['cat_name']}, down to magnitude {SUGGESTED_CAT_LIMIT}")
    if place_deg is not None:
        found["template"] = suggested_template(*place_deg)
        log(f"Suggested template {found['template']}")
    return found


def field_facts(wcs: WCS, shape: tuple[int, int], log: Log) -> dict[str, Any]:
    """Tell where the frame lies, as computed config keys."""
    ra_deg, dec_deg, radius_deg = field_of(wcs, shape)
    scale_deg = pixel_scale_deg(wcs)
    log(f"Field {ra_deg:.5f} {dec_deg:+.5f}, radius {radius_deg:.3f} deg, {3600 * scale_deg:.3f} arcsec a pixel")
    return {
        "field_ra": ra_deg,
        "field_dec": dec_deg,
        "field_sr": radius_deg,
        "field_moc": moc_string(field_moc(wcs, shape)),
        "pixscale": scale_deg,
    }


def cutout(
    image: NDArray[np.float32], header: fits.Header, x: float, y: float
) -> tuple[NDArray[np.float32], fits.Header] | None:
    """Cut out the surroundings of a position, pixels, 0-based; None when it is outside of the image."""
    rows, columns = image.shape
    if not (math.isfinite(x) and math.isfinite(y) and 0 <= x + 0.5 < columns and 0 <= y + 0.5 < rows):
        return None
    left, bottom = max(round(x) - CUTOUT_HALF_PIX, 0), max(round(y) - CUTOUT_HALF_PIX, 0)
    part = image[bottom : round(y) + CUTOUT_HALF_PIX + 1, left : round(x) + CUTOUT_HALF_PIX + 1]
    shifted = header.copy()
    for key, shift in (("CRPIX1", left), ("CRPIX2", bottom)):
        if key in shifted:
            shifted[key] -= shift
    return np.ascontiguousarray(part), shifted
