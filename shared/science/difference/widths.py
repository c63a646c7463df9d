"""Widths of stars in image and template, for a caller who subtracts part by part."""

from typing import Final

from .model import Pair
from .prepare import prepare
from .stars import find_enough, measure_fwhm

_THRESHOLD: Final = 20.0
_FACTOR: Final = 0.5
_ENOUGH: Final = 10


def star_widths(pair: Pair, bg_size_pix: int = 128) -> tuple[float, float]:
    """Measure both in one way, as `subtract` does, so that all parts are matched alike.

    Returns
    -------
    image, template
        FWHM, pixels.

    Raises
    ------
    DataError
        When no clean star is seen in both.
    """
    image, template = prepare(pair, bg_size_pix)
    stars = find_enough(image, template, _THRESHOLD, _FACTOR, _ENOUGH)
    return measure_fwhm(image, stars), measure_fwhm(template, stars)
