"""Fluxes in a difference image, in the system of the image's own zero point.

    how = apertures(difference, image, mask, radius_pix=rel_aper * fwhm_pix, annulus_pix=(rel_bg1 * ..., rel_bg2 * ...))
    found = measure(difference, x, y, how)
    mag_calib = -2.5 * np.log10(found.flux) + zero_point.evaluate(x, y, ...)

A zero point belongs to the flux within an aperture of the image. Where the template was convolved, stars in the
difference are as wide as in the image and the same aperture gives that flux. Where the image was convolved, stars are
wider: the aperture grows with them, and stars in both tell what is lost. ZOGY gives the whole flux by the shape of
stars; the curve of growth of the image tells which part of it is in the aperture.

Errors come from the noise of the difference's pixels, which are correlated where something was convolved: they are
brought to what empty places of the difference show.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from . import aperture
from .detection import background
from .difference import Difference
from .difference.prepare import Frame
from .difference.stars import Stars, find_stars, psf, width

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

_STAR_SIGMA: Final = 30.0
_MOST_STARS: Final = 200
_FEWEST_STARS: Final = 5
_SHAPE_RADIUS_PER_FWHM: Final = 5.0
_MIN_SHAPE_RADIUS_PIX: Final = 10
_MAX_SHAPE_RADIUS_PIX: Final = 30
_BG_SIZE_PIX: Final = 128
_EMPTY_PLACES: Final = 10_000
_PIXELS_PER_PLACE: Final = 25
"""More places in a small frame tell nothing new."""
_FEWEST_PLACES: Final = 100
_SOURCE_SIGMA: Final = 2.0
_FACTORS: Final = (0.7, 20.0)
"""Beyond this the places were not empty: a kernel of sigma s pixels makes the noise of a sum up to 3.5 s larger."""
_CLIP_SIGMA: Final = 3.0
_NODES: Final = range(-3, 5)
"""Pixels between which a flux by shape is interpolated: with four of them the tops of sharp stars lost a per cent."""
_FLAT: Final = aperture.Skew(np.arange(64.0), np.zeros(64), np.zeros(64))
"""Faint sources are in image and template both: the sky of a difference is not skewed."""


@dataclass(frozen=True)
class Apertures:
    """How fluxes are measured in one difference.

    Parameters
    ----------
    radius_pix
        Of the aperture in the difference.
    annulus_pix
        Of the local sky.
    correction
        Flux in the image's aperture over what is measured in the difference.
    noise_factor
        By how much what is measured scatters more than independent pixels would.
    by_shape
        Whether fluxes are those of the shape of stars (ZOGY) and no sums.
    """

    radius_pix: float
    annulus_pix: tuple[float, float]
    correction: float
    noise_factor: float
    by_shape: bool


@dataclass(frozen=True)
class Fluxes:
    """Measurements, arrays of one length.

    Parameters
    ----------
    flux, fluxerr
        ADU, as in the aperture of the image; NaN where nothing could be measured.
    sky
        Local sky that was taken off, ADU/pixel.
    npix
        Pixels in the aperture.
    flags
        Bits of `shared.science.aperture`.
    """

    flux: Floats
    fluxerr: Floats
    sky: Floats
    npix: Floats
    flags: NDArray[np.int32]


def apertures(
    difference: Difference, image: Pixels, mask: Mask, *, radius_pix: float, annulus_pix: tuple[float, float]
) -> Apertures:
    """Choose the aperture, and learn from stars and from empty places what it measures.

    Parameters
    ----------
    image, mask
        What the difference was made of, ADU, with its background; True is bad.
    radius_pix
        Of the aperture in the image to which the zero point belongs.
    annulus_pix
        Of the local sky.
    """
    if difference.convolved_side == "template":
        how = Apertures(radius_pix, annulus_pix, 1.0, 1.0, by_shape=False)
    elif difference.convolved_side == "image":
        how = _wider(difference, image, mask, radius_pix, annulus_pix)
    else:
        shape = _star_shape(difference, image, mask, radius_pix)
        how = Apertures(radius_pix, annulus_pix, _enclosed(shape, radius_pix), 1.0, by_shape=True)
    return Apertures(how.radius_pix, annulus_pix, how.correction, _noise_factor(difference, how), how.by_shape)


def measure(difference: Difference, x: Floats, y: Floats, how: Apertures) -> Fluxes:
    """Measure at positions; those that are not on the frame are flagged.

    Parameters
    ----------
    x, y
        0-based pixels.
    """
    found = aperture.measure(
        difference.difference,
        difference.noise,
        difference.mask,
        x,
        y,
        radius_pix=how.radius_pix,
        annulus_pix=how.annulus_pix,
        gain=math.inf,  # the noise of sources is in that of the pixels
        skew=_FLAT,
    )
    flux, fluxerr = found.flux, found.fluxerr
    if how.by_shape and difference.scores is not None:
        measured = np.isfinite(flux)
        at = np.where(measured, y, 0), np.where(measured, x, 0)
        flux = np.where(measured, _between(difference.scores.flux, *at), np.nan)
        fluxerr = np.where(measured, _between(difference.scores.flux_error, *at), np.nan)
    factor = how.correction * how.noise_factor
    return Fluxes(flux * how.correction, fluxerr * factor, found.sky, found.npix, found.flags)


def star_frame(pixels: Pixels, mask: Mask, noise: Pixels) -> Frame:
    """Give an image without background as what stars are found in."""
    return Frame(np.where(mask, np.float32(0), pixels), mask, noise, noise**2, None)


def shape_radius(fwhm_pix: float, side_pix: int) -> int:
    """Choose the half-width of a star's shape, pixels."""
    wanted = np.clip(_SHAPE_RADIUS_PER_FWHM * fwhm_pix, _MIN_SHAPE_RADIUS_PIX, _MAX_SHAPE_RADIUS_PIX)
    return int(min(wanted, side_pix // 5))


def _own_frame(image: Pixels, mask: Mask) -> Frame:
    bad = mask | ~np.isfinite(image)
    levels = background(image, bad, _BG_SIZE_PIX)
    return star_frame(image - levels.level, bad, levels.rms)


def _star_shape(difference: Difference, image: Pixels, mask: Mask, radius_pix: float) -> Floats:
    """Give the shape that fluxes by shape belong to: another one would shift them by a per cent."""
    if difference.scores is not None and difference.scores.shape is not None:
        return difference.scores.shape
    own = _own_frame(image, mask)
    stars = find_stars(own, own, _STAR_SIGMA)
    return psf(own, own, stars, max(shape_radius(radius_pix, min(image.shape)), math.ceil(radius_pix) + 1))


def _enclosed(star: Floats, radius_pix: float) -> float:
    """Give the part of a star's flux that is within a radius."""
    shape = np.pad(star, math.ceil(radius_pix)).astype(np.float32)
    middle = np.array([shape.shape[0] // 2], float)
    flat = np.ones_like(shape)
    inside = aperture.measure(
        shape,
        flat,
        np.zeros(shape.shape, bool),
        middle,
        middle,
        radius_pix=radius_pix,
        annulus_pix=(2 * shape.shape[0], 2 * shape.shape[0] + 1),  # none: the shape has no sky
        gain=math.inf,
        skew=_FLAT,
    )
    return float(inside.flux[0])


def _wider(
    difference: Difference, image: Pixels, mask: Mask, radius_pix: float, annulus_pix: tuple[float, float]
) -> Apertures:
    """Choose the aperture where the image was convolved, and compare stars in the image with the same ones after."""
    matched = star_frame(difference.convolved + difference.difference, difference.mask, difference.noise)
    own = _own_frame(image, mask)
    stars = find_stars(own, matched, _STAR_SIGMA)
    stars = stars.take(np.arange(min(len(stars), _MOST_STARS)))
    if not len(stars):
        raise DataError(
            "no_kernel_stars",
            "No star in image and template is bright enough to compare apertures. Check the template and the masks.",
        )
    wide = radius_pix * _width(matched, stars) / _width(own, stars)
    fluxes = []
    for frame, radius in ((own, radius_pix), (matched, wide)):
        seen = aperture.measure(
            frame.pixels,
            frame.sky,
            frame.bad,
            stars.x.astype(float),
            stars.y.astype(float),
            radius_pix=radius,
            annulus_pix=annulus_pix,
            gain=math.inf,
            skew=_FLAT,
        )
        fluxes.append(np.where(seen.flags == 0, seen.flux, np.nan))
    ratio = fluxes[0] / fluxes[1]
    known = ratio[np.isfinite(ratio) & (fluxes[1] > 0)]
    correction = float(np.median(known)) if known.size else 1.0
    return Apertures(wide, annulus_pix, correction, 1.0, by_shape=False)


def _width(frame: Frame, stars: Stars) -> float:
    return width(psf(frame, frame, stars, min(_MIN_SHAPE_RADIUS_PIX, min(frame.shape) // 4)))


def _noise_factor(difference: Difference, how: Apertures) -> float:
    """Compare the scatter over empty places with what is quoted."""
    rows, columns = difference.mask.shape
    rng = np.random.default_rng(0)
    count = max(min(_EMPTY_PLACES, rows * columns // _PIXELS_PER_PLACE), _FEWEST_PLACES)
    x, y = rng.uniform(0, columns - 1, count), rng.uniform(0, rows - 1, count)
    empty = difference.convolved[np.rint(y).astype(int), np.rint(x).astype(int)]
    empty = empty < _SOURCE_SIGMA * difference.noise[np.rint(y).astype(int), np.rint(x).astype(int)]
    for chosen in (empty, np.ones_like(empty)):
        found = measure(difference, x[chosen], y[chosen], how)
        good = np.isfinite(found.flux) & (found.fluxerr > 0) & (found.flags & ~aperture.FLAG_NO_LOCAL_SKY == 0)
        if good.sum() >= _FEWEST_PLACES:
            return float(np.clip(_scatter(found.flux[good] / found.fluxerr[good]), *_FACTORS))
    return 1.0


def _scatter(values: Floats) -> float:
    """Give half the range of the middle 68.3 %, without what is far out: new sources are everywhere in some frames."""
    while True:
        low, middle, high = np.percentile(values, (15.865, 50, 84.135))
        kept = np.abs(values - middle) <= _CLIP_SIGMA * (high - low) / 2
        if kept.all() or high == low:
            return float(high - low) / 2
        values = values[kept]


def _between(plane: Pixels, y: Floats, x: Floats) -> Floats:
    """Interpolate at positions by the polynomials through the nearest pixels; beyond the edge the edge holds."""
    rows, columns = plane.shape
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    along_x = list(zip(_NODES, _weights(x - left), strict=True))
    found = np.zeros(y.size)
    for row, down in zip(_NODES, _weights(y - top), strict=True):
        j = np.clip(top + row, 0, rows - 1)
        for column, right in along_x:
            found += down * right * plane[j, np.clip(left + column, 0, columns - 1)]
    return found


def _weights(part: Floats) -> list[Floats]:
    """Give the weights of the values at the nodes, for places between the nodes 0 and 1 (Lagrange)."""
    return [
        np.asarray(np.prod([(part - other) / (node - other) for other in _NODES if other != node], axis=0))
        for node in _NODES
    ]
