"""Detection limits.

Not STDPipe's `get_detection_limit_sn`, which extrapolates a curve through the signal to noise of the objects and gives
nothing, or anything, where these are few: the noise of an aperture is measured on the image itself.

It is what the flux of empty apertures really scatters by, and more than the equation of the CCD tells from sky and read
noise: undetected sources add to the pixels' noise (5 % in a field of 9,300 stars per square degree to r = 20), and the
local sky has an error of its own. Limits are brighter by as much, some 0.1 mag.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .aperture import FLAG_MASKED_APERTURE, Photometry, Skew, measure

_GRID: Final = 25
"""Places along each axis."""


def aperture_noise(
    image: NDArray[np.float32],
    rms: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    radius_pix: float,
    annulus_pix: tuple[float, float],
    gain: float,
    optimal_fwhm_pix: float | None = None,
    skew: Skew | None = None,
) -> float:
    """Give the median noise of an empty aperture, ADU, over a grid of places; arguments as those of `measure`.

    NaN when there is no place without masked pixels.
    """
    rows, columns = image.shape
    x, y = np.meshgrid((np.arange(_GRID) + 0.5) / _GRID * columns - 0.5, (np.arange(_GRID) + 0.5) / _GRID * rows - 0.5)
    found = measure(
        image,
        rms,
        mask,
        x.ravel(),
        y.ravel(),
        radius_pix=radius_pix,
        annulus_pix=annulus_pix,
        gain=gain,
        optimal_fwhm_pix=optimal_fwhm_pix,
        skew=skew,
    )
    clean = np.isfinite(found.fluxerr) & (found.flags & FLAG_MASKED_APERTURE == 0)
    return float(np.median(empty_noise(found, gain)[clean])) if clean.any() else float("nan")


def empty_noise(found: Photometry, gain: float) -> NDArray[np.float64]:
    """Take the photon noise of the source itself out of quoted errors, ADU."""
    return np.sqrt(np.maximum(found.fluxerr**2 - np.maximum(found.flux, 0.0) / gain, 0.0))


def limiting_flux(noise_adu: float | NDArray[np.float64], gain: float, sn: float) -> float | NDArray[np.float64]:
    """Give the flux, ADU, whose signal to noise is `sn`: F² = sn² (noise² + F/gain)."""
    half = sn * sn / (2 * gain)
    return half + np.sqrt(half * half + (sn * noise_adu) ** 2)


def signal_to_noise(flux_adu: NDArray[np.float64], noise_adu: float, gain: float) -> NDArray[np.float64]:
    """Give the signal to noise of fluxes, ADU, above an empty aperture's noise."""
    return np.asarray(flux_adu / np.sqrt(noise_adu**2 + np.maximum(flux_adu, 0.0) / gain), np.float64)
