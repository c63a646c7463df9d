"""The sky of an observation before its transients, as another night and another camera saw it: deeper and sharper."""

from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits

from .observe import EXPOSURE_S, GAIN, READ_NOISE_E, ROTATION_DEG, SATURATION_ADU, SKY_ADU, Observation, tan_wcs
from .render import draw_galaxies, draw_stars

EXPOSURES: Final = 25
"""Their mean: two magnitudes deeper, and more where the seeing is better."""
TEMPLATE_GAIN: Final = GAIN * EXPOSURES
SCALE: Final = 0.9  # of a pixel of the observation
SEEING: Final = 0.8  # of that of the observation
TURN_DEG: Final = 2.0
TURNED_SIDE: Final = 1.035  # of a square that holds a square turned so
SHIFT_PIX: Final = (3.3, -5.4)
MARGIN_PIX: Final = 15  # of the observation, around it


def simulate_template(path: Path, observation: Observation, *, seed: int = 1) -> None:
    """Write an image of everything in an observation but its transients, on another grid.

    Its WCS is tangential and exact, its noise that of the mean of 25 exposures, its stars are saturated where those of
    one exposure are. The header tells gain and saturation.

    Parameters
    ----------
    path
        FITS file, replaced when it exists.
    observation
        From `simulate`.
    seed
        Of the noise.
    """
    header = fits.getheader(observation.image)
    side, (ra_deg, dec_deg) = int(header["NAXIS1"]), observation.wcs.wcs.crval
    scale_arcsec = SCALE * 3600 * float(np.sqrt(np.abs(np.linalg.det(observation.wcs.wcs.cd))))
    size = round((TURNED_SIDE * side + 2 * MARGIN_PIX) / SCALE)
    wcs = tan_wcs(size, scale_arcsec, ra_deg, dec_deg, rotation_deg=ROTATION_DEG + TURN_DEG, shift_pix=SHIFT_PIX)
    sources = observation.truth[np.asarray(observation.truth["kind"]) != "transient"]
    sources["x"], sources["y"] = wcs.all_world2pix(sources["ra"], sources["dec"], 0)
    fwhm_pix = observation.fwhm_pix * SEEING / SCALE
    light = np.full((size, size), SKY_ADU * SCALE**2)
    stars, galaxies = sources[sources["re"] == 0], sources[sources["re"] > 0]
    draw_stars(light, stars["x"], stars["y"], stars["flux"], fwhm_pix)
    draw_galaxies(light, galaxies, fwhm_pix, scale_arcsec)
    rng = np.random.default_rng([seed, 20266])
    noise_adu = READ_NOISE_E / GAIN / np.sqrt(EXPOSURES)
    image = rng.poisson(light * TEMPLATE_GAIN) / TEMPLATE_GAIN + rng.normal(0, noise_adu, light.shape)
    made = wcs.to_header()
    made["FILTER"] = observation.band
    made["EXPTIME"] = (EXPOSURE_S, "s, of each of the mean's exposures")
    made["GAIN"] = (TEMPLATE_GAIN, "e-/ADU")
    made["SATURATE"] = (0.95 * SATURATION_ADU, "ADU")
    made["INSTRUME"] = "simulated"
    fits.writeto(path, np.clip(image, 0, SATURATION_ADU).astype(np.float32), made, overwrite=True)
