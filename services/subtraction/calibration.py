"""The zero point of photometry, brought to the aperture that is used here."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from shared.science import aperture
from shared.science.solution import Inputs

_STAR_SN: Final = 50.0
_MOST_STARS: Final = 300
_FEWEST_STARS: Final = 5
_LEAST: Final = 0.01
"""Smaller differences are those of the local sky."""


def calibrated(
    inputs: Inputs, radius_pix: float, annulus_pix: tuple[float, float], log: Callable[..., None]
) -> dict[str, Any]:
    """Give the solution with the zero point of fluxes within a radius.

    Photometry may have summed another aperture (`rel_aper` was changed since), or weighted its pixels
    (`optimal_extraction`): then its fluxes of stars differ from the sums by a common factor.
    """
    solution = dict(inputs.solution)
    objects = inputs.objects
    flux, error = np.asarray(objects["flux"], float), np.asarray(objects["fluxerr"], float)
    good = np.flatnonzero((flux > _STAR_SN * error) & (np.asarray(objects["flags"]) == 0))
    good = good[np.argsort(-flux[good])][:_MOST_STARS]
    if good.size < _FEWEST_STARS:
        return solution
    image = np.where(inputs.mask, np.float32(np.nan), inputs.image)
    seen = aperture.measure(
        image,
        np.ones_like(image),
        inputs.mask,
        np.asarray(objects["x"], float)[good],
        np.asarray(objects["y"], float)[good],
        radius_pix=radius_pix,
        annulus_pix=annulus_pix,
        gain=1.0,
    )
    ratios = (seen.flux / flux[good])[(seen.flags == 0) & (seen.flux > 0)]
    if ratios.size < _FEWEST_STARS:
        return solution
    ratio = float(np.median(ratios))
    if abs(ratio - 1) < _LEAST:
        return solution
    shift_mag = 2.5 * np.log10(ratio)
    log(
        f"Photometry measured other apertures than {radius_pix:.2f} pixels: the zero point is shifted by "
        f"{shift_mag:+.3f} mag, by {ratios.size} stars"
    )
    first, *others = solution["coefficients"]  # of the constant term
    solution["coefficients"] = [first + shift_mag, *others]
    return solution
