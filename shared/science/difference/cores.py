"""Cores of saturated stars, filled so that a convolution spreads about as much of them as there was."""

from dataclasses import replace
from typing import Final

import numpy as np
from scipy import ndimage

from .prepare import Frame

_BRIGHT_SIGMA: Final = 10.0
_MAX_DEPTH: Final = 4.0
"""In units of the core radius of stars; deeper regions are gaps, not stars."""
_ALPHA_PER_FWHM: Final = 0.98
_BETA: Final = 3.0
_AROUND_PIX: Final = 2


def fill_cores(frame: Frame, fwhm_pix: float) -> Frame:
    """Fill bad pixels amid light with a star's profile (Moffat's with the exponent 3) that goes on from the rim.

    The rim of a saturated star says little about the flux of its core, which may be twenty times that of a plain
    filled with the rim. What is masked around it later depends on this.
    """
    labels, count = ndimage.label(frame.bad, np.ones((3, 3), int))
    if not count:
        return frame
    brightest = ndimage.maximum(frame.pixels / frame.sky, labels, np.arange(1, count + 1))
    pixels = frame.pixels.copy()
    alpha = _ALPHA_PER_FWHM * fwhm_pix
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if brightest[number - 1] < _BRIGHT_SIGMA:
            continue
        wider = tuple(slice(max(side.start - _AROUND_PIX, 0), side.stop + _AROUND_PIX) for side in box)
        region = labels[wider] == number
        others = frame.bad[wider] & ~region
        if (region | others).all():
            continue
        depth, (rows, columns) = ndimage.distance_transform_edt(region | others, return_indices=True)
        rim = np.maximum(ndimage.uniform_filter(pixels[wider], 3)[rows, columns], 0)
        deepest = min(float(depth[region].max()), _MAX_DEPTH * alpha)
        inwards = np.maximum(deepest - depth, 0)
        profile = ((1 + (deepest / alpha) ** 2) / (1 + (inwards / alpha) ** 2)) ** _BETA
        pixels[wider][region] = (rim * profile)[region]
    return replace(frame, pixels=pixels)
