"""What is seen at a place of a difference: a point source, or what is left of a star where the template does not fit.

Around each place three models are compared by least squares, with the noise of the pixels:

- a point source: the shape of stars, as the convolved template shows it;
- a mismatch: the convolved template there, wrongly scaled, shifted by a fraction of a pixel, and blurred or stretched
  (its first and second derivatives), each by no more than is usual in this field. How much that is, the bright stars of
  the same difference tell: theirs is nothing but mismatch;
- both. The significance of the point source in this fit is what cannot be blamed on the template. On a bright star
  little is left of a residual, and of a transient on a smooth galaxy or beside a star nearly all. A star that became
  brighter by half survives: a scale wrong by half is not usual.

STDPipe adjusts the template star by star by a numerical search for the best shift, and drops whatever becomes fainter.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import DataError
from .difference import Difference
from .difference.stars import Stars, find_stars, psf
from .difference_photometry import star_frame

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

_STAR_SIGMA: Final = 30.0
_BRIGHT_SIGMA: Final = 100.0
_MOST_STARS: Final = 300
_FEWEST_STARS: Final = 15
_HALF_PER_FWHM: Final = 2.0
_HALF_PIX: Final = (5, 15)
_CORE_PER_FWHM: Final = 1.2
_NEAR_PER_FWHM: Final = 0.7
_FWHM_PER_SIGMA: Final = 2.3548
_TERMS: Final = 6
_LEAST: Final = np.array([0.005, 0.01, 0.01, 0.01, 0.01, 0.01])
_USUAL: Final = np.array([0.03, 0.05, 0.05, 0.05, 0.05, 0.05])
_MOST: Final = np.array([0.1, 0.3, 0.3, 0.3, 0.3, 0.3])
_TAILS: Final = 1.5
"""Colours and positions of stars scatter with longer tails than a Gaussian."""
_CHUNK: Final = 1000
_MOST_OFF_PIX: Final = 0.5
_TINY: Final = 1e-30


@dataclass(frozen=True)
class Shape:
    """What stars look like in a difference, and how well the template usually fits them.

    Parameters
    ----------
    profile
        Of the sum 1, centred on its middle pixel.
    mismatch
        Usual relative error of the scale, shift along x and y (pixels), and coefficients of the second derivatives
        along x, y and both (square pixels).
    half
        Half-width of what is looked at around a place, pixels.
    fwhm_pix
        Width of stars.
    """

    profile: Floats
    mismatch: Floats
    half: int
    fwhm_pix: float

    @property
    def core_pix(self) -> float:
        """Radius within which a point source must look like one."""
        return _CORE_PER_FWHM * self.fwhm_pix


@dataclass(frozen=True)
class Verdict:
    """What the fits tell, arrays of one length.

    Parameters
    ----------
    significance
        Of a point source alone.
    adjusted
        Of the point source beside a mismatch.
    mismatched
        Whether a mismatch alone explains the pixels at least as well as a point source alone.
    chi2
        Per degree of freedom, in the core, of what the fit of both leaves.
    pixels
        Good ones in the core.
    dx, dy
        What the fit adds to the place, pixels.
    xerr, yerr
        Errors of the position, pixels.
    masked
        Part of the light that falls on bad pixels.
    """

    significance: Floats
    adjusted: Floats
    mismatched: NDArray[np.bool_]
    chi2: Floats
    pixels: NDArray[np.intp]
    dx: Floats
    dy: Floats
    xerr: Floats
    yerr: Floats
    masked: Floats


def learn(difference: Difference) -> Shape:
    """Learn from the stars of the convolved template; without any, shapes are Gaussian and mismatches usual."""
    half = int(np.clip(math.ceil(_HALF_PER_FWHM * difference.fwhm_pix), *_HALF_PIX))
    half = min(half, (min(difference.mask.shape) - 1) // 4)
    template = star_frame(difference.convolved, difference.mask, difference.noise)
    matched = star_frame(difference.convolved + difference.difference, difference.mask, difference.noise)
    stars = find_stars(matched, template, _STAR_SIGMA)
    try:
        profile = psf(template, template, stars, half + 2)
    except DataError:
        profile = gaussian(difference.fwhm_pix, half + 2)
    return Shape(profile, _mismatch(difference, stars, half), half, difference.fwhm_pix)


def gaussian(fwhm_pix: float, half: int) -> Floats:
    """Give a round Gaussian of the sum 1."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    profile = np.exp(-0.5 * (x**2 + y**2) * (_FWHM_PER_SIGMA / fwhm_pix) ** 2)
    return np.asarray(profile / profile.sum())


def judge(difference: Difference, shape: Shape, x: Floats, y: Floats) -> Verdict:
    """Compare the models at places on the frame.

    Parameters
    ----------
    x, y
        0-based pixels.
    """
    parts = [
        _judge(difference, shape, x[start : start + _CHUNK], y[start : start + _CHUNK])
        for start in range(0, max(x.size, 1), _CHUNK)
    ]
    return Verdict(*(np.concatenate([getattr(part, name) for part in parts]) for name in Verdict.__dataclass_fields__))


def windows(plane: NDArray[Any], x: Places, y: Places, half: int, fill: float) -> NDArray[Any]:
    """Cut squares around pixels; beyond the edge they hold `fill`."""
    padded = np.pad(plane, half, constant_values=fill)
    side = 2 * half + 1
    return np.lib.stride_tricks.sliding_window_view(padded, (side, side))[y, x]


def _judge(difference: Difference, shape: Shape, x: Floats, y: Floats) -> Verdict:
    column, row = np.rint(x).astype(np.intp), np.rint(y).astype(np.intp)
    half = shape.half
    source, along_x, along_y = _sources(shape, x - column, y - row)
    values, weight = _pixels(difference, column, row, half)
    terms = _mismatches(difference, column, row, half)
    near = np.exp(-0.5 * (_distance(half) / (_NEAR_PER_FWHM * shape.fwhm_pix)) ** 2)
    # a neighbour may be wrong in another way
    models = np.concatenate([source[:, None], near * terms, (1 - near) * terms], axis=1)
    models = models.reshape(x.size, 2 * _TERMS + 1, near.size)
    flat, weighted = values.reshape(x.size, near.size), models * weight.reshape(x.size, 1, near.size)
    normal = weighted @ models.transpose(0, 2, 1)
    right = (weighted @ flat[..., None])[..., 0]
    usual = np.diag(np.concatenate([[0.0], shape.mismatch**-2.0, shape.mismatch**-2.0]))
    empty = normal[:, 0, 0] <= 0
    normal[empty, 0, 0] = 1  # nothing is seen there; its right side is 0 as well
    both = normal + usual
    fitted, inverse = np.linalg.solve(both, right[..., None])[..., 0], np.linalg.inv(both)
    alone = np.linalg.solve(both[:, 1:, 1:], right[:, 1:, None])[..., 0]
    gain_source = right[:, 0] ** 2 / normal[:, 0, 0]
    gain_mismatch = (alone * right[:, 1:]).sum(axis=1)
    rest = values - (fitted[:, None] @ models).reshape(values.shape)
    amplitude = np.maximum(fitted[:, 0], 0)
    dx, xerr = _offset(rest, along_x, amplitude, weight)
    dy, yerr = _offset(rest, along_y, amplitude, weight)
    core = _distance(half) <= shape.core_pix
    pixels = ((weight > 0) & core).sum(axis=(1, 2))
    light = np.maximum(source, 0) * core
    return Verdict(
        right[:, 0] / np.sqrt(normal[:, 0, 0]),
        fitted[:, 0] / np.sqrt(inverse[:, 0, 0]),
        gain_mismatch >= gain_source,
        (rest**2 * weight * core).sum(axis=(1, 2)) / np.maximum(pixels - 1, 1),
        pixels,
        dx,
        dy,
        xerr,
        yerr,
        1 - (light * (weight > 0)).sum(axis=(1, 2)) / light.sum(axis=(1, 2)),
    )


def _offset(rest: Floats, slope: Floats, amplitude: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Give how far a source lies off its place along an axis, from what the fit leaves, and the error."""
    known = amplitude * (slope**2 * weight).sum(axis=(1, 2)) + _TINY
    offset = np.clip(-(rest * slope * weight).sum(axis=(1, 2)) / known, -_MOST_OFF_PIX, _MOST_OFF_PIX)
    return offset, 1 / np.sqrt(amplitude * known + _TINY)


def _sources(shape: Shape, dx: Floats, dy: Floats) -> tuple[Floats, Floats, Floats]:
    """Give the shape of stars off the middle by parts of a pixel, and its slopes along x and y."""
    middle, offsets = shape.profile.shape[0] // 2, np.arange(-shape.half, shape.half + 1)
    rows = np.broadcast_to((middle + offsets)[None, :, None] - dy[:, None, None], (dx.size, offsets.size, offsets.size))
    columns = np.broadcast_to((middle + offsets)[None, None, :] - dx[:, None, None], rows.shape)
    source = ndimage.map_coordinates(shape.profile, [rows, columns], order=3, mode="constant")
    along_y, along_x = np.gradient(source, axis=(1, 2))
    return source, along_x, along_y


def _pixels(difference: Difference, x: Places, y: Places, half: int) -> tuple[Floats, Floats]:
    values = windows(difference.difference, x, y, half, 0).astype(float)
    noise = windows(difference.noise, x, y, half, 1).astype(float)
    good = ~windows(difference.mask, x, y, half, fill=True)
    return np.where(good, values, 0), np.where(good, noise**-2.0, 0)


def _mismatches(difference: Difference, x: Places, y: Places, half: int) -> Floats:
    """Give the convolved template and its derivatives: along x, y, twice along x, y, and along both."""
    plane = windows(difference.convolved, x, y, half + 2, 0).astype(float)
    along_y, along_x = np.gradient(plane, axis=(1, 2))
    twice_x, twice_y = np.gradient(along_x, axis=2), np.gradient(along_y, axis=1)
    terms = (plane, along_x, along_y, twice_x, twice_y, np.gradient(along_x, axis=1))
    return np.stack([term[:, 2:-2, 2:-2] for term in terms], axis=1)


def _mismatch(difference: Difference, stars: Stars, half: int) -> Floats:
    """Measure how well the template fits bright stars, less what noise makes of it."""
    bright = stars.take(np.flatnonzero(stars.peak > _BRIGHT_SIGMA))
    chosen = bright if len(bright) >= _FEWEST_STARS else stars
    chosen = chosen.take(np.arange(min(len(chosen), _MOST_STARS)))
    if len(chosen) < _FEWEST_STARS:
        return _USUAL
    values, weight = _pixels(difference, chosen.x, chosen.y, half)
    models = _mismatches(difference, chosen.x, chosen.y, half).reshape(len(chosen), _TERMS, -1)
    weighted = models * weight.reshape(len(chosen), 1, -1)
    # the weakest of priors keeps it solvable
    normal = weighted @ models.transpose(0, 2, 1) + np.diag(_MOST**-2.0)
    fitted = np.linalg.solve(normal, (weighted @ values.reshape(len(chosen), -1, 1)))[..., 0]
    error = np.sqrt(np.median(np.diagonal(np.linalg.inv(normal), axis1=1, axis2=2), axis=0))
    low, high = np.percentile(fitted, (15.865, 84.135), axis=0)
    # a scale that is wrong for all stars counts, too
    spread = np.hypot(0.5 * (high - low), np.median(fitted, axis=0))
    return np.asarray(np.clip(_TAILS * np.sqrt(np.maximum(spread**2 - error**2, 0)), _LEAST, _MOST))


def _distance(half: int) -> Floats:
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return np.asarray(np.hypot(x, y), float)
