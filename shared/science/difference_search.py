"""Search for point sources in a difference image, as functions of arrays: no files, no archives.

    found = find_candidates(difference, image, mask, Options(radius_pix=..., annulus_pix=(..., ...)), log)
    found.table                 # the most significant first, without magnitudes and sky positions

Detection is by a matched filter with the noise of each pixel (in ZOGY by its score), brought to the scatter that empty
sky has in it, and to that of the surroundings where they are worse: beside saturated stars residuals are everywhere.
Its threshold is thus the significance of a point source; an aperture, which holds more sky, sees about 0.6 of it. SEP
does the same filtering, but takes the noise of neighbouring pixels for independent.

Places are then judged by `difference_search_shapes`. A classifier that learns from the shapes of the image's objects
(STDPipe's isolation forest) is not used: it lost one in six transients of a simulated field, most of them faint,
because the shape of a faint object is mostly noise. Here what the fit of a star leaves is compared with noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import oaconvolve
from scipy.spatial import cKDTree

from .detection import FLAG_MASKED
from .difference import Difference
from .difference_photometry import Apertures, Pixels, apertures, measure
from .difference_search_shapes import Shape, Verdict, judge, learn, windows
from .shapes import FLAG_ODD_SHAPE

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Log = Callable[..., None]

FLAG_EDGE: Final = 0x8
FLAG_MISMATCH: Final = 0x8000
"""A small shift, scale or blur of the template explains it."""
MOST_PLACES: Final = 10_000
"""More are never looked at: a subtraction that leaves so many failed."""

_SOURCE_SIGMA: Final = 2.0
_FEW_PIXELS: Final = 100
_CLIP_SIGMA: Final = 5.0
_RING_PER_FWHM: Final = (2.0, 5.0)
_MIN_RING_SHARE: Final = 0.1
_USUAL_EXCESS: Final = 1.2
"""Chance, and real sources around, make so much."""
_MAX_MASKED: Final = 0.25
_DEVIATION: Final = 4.0
"""Of chi2 from what noise makes of it."""
_SHAPE_ERROR: Final = 0.05
"""Of the shape of stars over the field, as part of the flux."""
_GOOD_SHARE: Final = 1e-3


@dataclass(frozen=True)
class Options:
    """How to search.

    Parameters
    ----------
    radius_pix
        Of the aperture in the image that the zero point belongs to.
    annulus_pix
        Of the local sky.
    sn
        Least significance of a point source.
    min_area
        Least number of connected pixels at half of it.
    shapes
        Drop what does not look like a star (`filter_prefilter`); it is flagged otherwise.
    adjust
        Drop what a mismatch of the template explains (`filter_adjust`); it is flagged otherwise.
    """

    radius_pix: float
    annulus_pix: tuple[float, float]
    sn: float = 5.0
    min_area: int = 5
    shapes: bool = True
    adjust: bool = True


@dataclass(frozen=True)
class Found:
    """Candidates.

    Parameters
    ----------
    table
        x, y, xerr, yerr (pixels), flux, fluxerr (ADU), bg_local, npix_aper, significance, significance_adjusted, chi2,
        flags; the most significant first.
    footprint
        True where anything is seen.
    """

    table: Table
    footprint: Bools = field(repr=False)


def find_candidates(
    difference: Difference, image: Pixels, mask: Bools, options: Options, log: Log, *, how: Apertures | None = None
) -> Found:
    """Find point sources that are in the image and not in the template.

    Parameters
    ----------
    image, mask
        What the difference was made of, ADU, with its background; True is bad.
    log
        Takes lines for the user.
    how
        What `apertures` gave for this difference and the same radii; None works it out, which takes a good part of
        the time.
    """
    shape = learn(difference)
    score = scores(difference, shape)
    x, y = _places(score, difference.mask, options.sn, difference.fwhm_pix)
    ring = surroundings(score, difference.mask, x, y, difference.fwhm_pix)
    height = score[y, x] / ring
    order = np.argsort(-height, kind="stable")[: int((height >= options.sn).sum())]
    x, y, ring, height = x[order], y[order], ring[order], height[order]
    log(f"{x.size} places with a significance of at least {options.sn:g}")
    if x.size > MOST_PLACES:
        log(f"Note: the {MOST_PLACES} most significant are looked at; so many mean that image and template do not fit")
        x, y, ring, height = x[:MOST_PLACES], y[:MOST_PLACES], ring[:MOST_PLACES], height[:MOST_PLACES]
    labels, _ = ndimage.label(score > 0.5 * options.sn, np.ones((3, 3), int))
    large = np.bincount(labels.ravel())[labels[y, x]] >= options.min_area
    if not large.all():
        log(f"{large.sum()} of them have {options.min_area} connected pixels or more")
        x, y, ring, height = x[large], y[large], ring[large], height[large]
    # the score of ZOGY is divided by the noise of the source itself, which moves its peaks by half a pixel
    surface = score if difference.scores is None else difference.scores.flux
    at_x, at_y = _refined(surface, x, y)
    verdict = judge(difference, shape, at_x, at_y)
    at_x, at_y = at_x + verdict.dx, at_y + verdict.dy
    adjusted = verdict.adjusted / ring
    flags = _flags(verdict, height, adjusted < options.sn) | _at_edge(difference, at_x, at_y)
    keep = verdict.masked <= _MAX_MASKED
    log(f"{keep.sum()} are not on masked pixels")
    for wanted, flag, words in (
        (options.shapes, FLAG_ODD_SHAPE, "have the shape of a star"),
        (options.adjust, FLAG_MISMATCH, "are more than a shift or scale of the template explains"),
    ):
        if wanted:
            keep &= flags & flag == 0
            log(f"{keep.sum()} {words}")
    keep[keep] = _apart(at_x[keep], at_y[keep], difference.fwhm_pix)
    how = how or apertures(difference, image, mask, radius_pix=options.radius_pix, annulus_pix=options.annulus_pix)
    fluxes = measure(difference, at_x[keep], at_y[keep], how)
    table = Table(
        {
            "x": at_x[keep],
            "y": at_y[keep],
            "xerr": verdict.xerr[keep],
            "yerr": verdict.yerr[keep],
            "flux": fluxes.flux,
            "fluxerr": fluxes.fluxerr,
            "bg_local": fluxes.sky,
            "npix_aper": fluxes.npix,
            "significance": height[keep],
            "significance_adjusted": adjusted[keep],
            "chi2": verdict.chi2[keep],
            "flags": flags[keep] | fluxes.flags,
        }
    )
    bright = np.isfinite(fluxes.flux) & (fluxes.flux > 0)
    log(f"{bright.sum()} are apart from each other and have a positive flux")
    return Found(table[bright], labels > 0)


def scores(difference: Difference, shape: Shape) -> Pixels:
    """Give the significance of a point source at each pixel, of unit scatter on empty sky; 0 at masked pixels."""
    if difference.scores is not None:
        score = difference.scores.scorr.astype(np.float32)
    else:
        kernel = shape.profile[::-1, ::-1].astype(np.float32)
        weight = np.where(difference.mask, np.float32(0), difference.noise ** np.float32(-2))
        signal = oaconvolve(weight * difference.difference, kernel, mode="same")
        variance = oaconvolve(weight, kernel**2, mode="same")
        # rounding of the transforms must not matter where everything is masked
        least = np.float32(_GOOD_SHARE * np.max(weight, initial=0) * (kernel**2).sum() + 1e-30)
        score = (signal / np.sqrt(np.maximum(variance, least))).astype(np.float32)
    score[difference.mask] = 0
    empty = ~difference.mask & (difference.convolved < _SOURCE_SIGMA * difference.noise)
    sky = score[empty if empty.sum() >= _FEW_PIXELS else ~difference.mask]
    if sky.size >= _FEW_PIXELS:
        low, high = np.percentile(sky, (15.865, 84.135))
        score /= np.float32(max(0.5 * (high - low), 1e-6))
    return score


def surroundings(
    score: Pixels, mask: Bools, x: NDArray[np.intp], y: NDArray[np.intp], fwhm_pix: float
) -> NDArray[np.float64]:
    """Give the scatter of scores around pixels, beyond a source's own width, where it is more than usual, else 1."""
    inner, outer = (round(factor * fwhm_pix) for factor in _RING_PER_FWHM)
    squares = np.where(mask, np.float32(0), np.clip(score, -_CLIP_SIGMA, _CLIP_SIGMA) ** 2)
    totals, counts = (
        _box(plane, x, y, outer) - _box(plane, x, y, inner) for plane in (_summed(squares), _summed(~mask))
    )
    enough = counts > _MIN_RING_SHARE * ((2 * outer + 1) ** 2 - (2 * inner + 1) ** 2)
    scatter = np.sqrt(np.where(enough, totals / np.maximum(counts, 1), 1))
    return np.asarray(np.where(scatter > _USUAL_EXCESS, scatter, 1))


def _summed(plane: NDArray[Any]) -> Floats:
    """Give the sum of everything below and left of each corner of pixels."""
    total = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1))
    np.cumsum(plane, axis=0, out=total[1:, 1:])
    np.cumsum(total[1:, 1:], axis=1, out=total[1:, 1:])
    return total


def _box(summed: Floats, x: NDArray[np.intp], y: NDArray[np.intp], half: int) -> Floats:
    """Give the sums over squares around pixels, as far as they are on the frame."""
    rows, columns = summed.shape
    bottom, top = np.maximum(y - half, 0), np.minimum(y + half + 1, rows - 1)
    left, right = np.maximum(x - half, 0), np.minimum(x + half + 1, columns - 1)
    return np.asarray(summed[top, right] - summed[bottom, right] - summed[top, left] + summed[bottom, left])


def _places(score: Pixels, mask: Bools, sn: float, fwhm_pix: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the peaks, the highest first."""
    y, x = np.nonzero((score >= sn) & ~mask)
    half = max(round(0.5 * fwhm_pix), 1)
    padded = np.pad(score, half, constant_values=-np.inf)
    offsets = [(row, column) for row in range(2 * half + 1) for column in range(2 * half + 1)]
    # the nearest first: most pixels fall at once
    for row, column in sorted(offsets, key=lambda one: abs(one[0] - half) + abs(one[1] - half)):
        highest = score[y, x] >= padded[y + row, x + column]
        x, y = x[highest], y[highest]
    order = np.argsort(-score[y, x], kind="stable")
    return x[order], y[order]


def _refined(score: Pixels, x: NDArray[np.intp], y: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Find the top of the parabola through the highest pixel at each place and its neighbours, along x and y."""
    rows, columns = score.shape
    around = windows(score, x, y, 1, -np.inf).reshape(x.size, 9)
    highest = np.argmax(around, axis=1)
    x, y = x + highest % 3 - 1, y + highest // 3 - 1
    left, right = np.maximum(x - 1, 0), np.minimum(x + 1, columns - 1)
    below, above = np.maximum(y - 1, 0), np.minimum(y + 1, rows - 1)
    at_x = x + _top(score[y, left], score[y, x], score[y, right])
    at_y = y + _top(score[below, x], score[y, x], score[above, x])
    return np.clip(at_x, 0, columns - 1), np.clip(at_y, 0, rows - 1)


def _top(before: Pixels, middle: Pixels, after: Pixels) -> Floats:
    bend = np.minimum(before.astype(float) - 2 * middle + after, -1e-12)
    return np.asarray(np.clip(0.5 * (before - after) / bend, -0.5, 0.5), float)


def _flags(verdict: Verdict, height: Floats, lost: Bools) -> NDArray[np.int32]:
    # of chi2 per degree of freedom
    noise = np.sqrt(2 / np.maximum(verdict.pixels - 1, 1))
    odd = verdict.chi2 > 1 + _DEVIATION * noise + (_SHAPE_ERROR * height) ** 2
    flags = np.where(odd, FLAG_ODD_SHAPE, 0)
    flags |= np.where(verdict.mismatched | lost, FLAG_MISMATCH, 0)
    flags |= np.where(verdict.masked > 0, FLAG_MASKED, 0)
    return flags.astype(np.int32)


def _at_edge(difference: Difference, x: Floats, y: Floats) -> NDArray[np.int32]:
    rows, columns = difference.mask.shape
    away = np.min([x, columns - 1 - x, y, rows - 1 - y], axis=0)
    return np.where(away < difference.fwhm_pix, FLAG_EDGE, 0).astype(np.int32)


def _apart(x: Floats, y: Floats, fwhm_pix: float) -> Bools:
    """Tell which places have no higher one within the width of a star; they come the highest first."""
    alone = np.ones(x.size, bool)
    if x.size:
        pairs = cKDTree(np.c_[x, y]).query_pairs(fwhm_pix, output_type="ndarray")
        for first, second in pairs[np.argsort(pairs.min(axis=1), kind="stable")]:
            low, high = min(first, second), max(first, second)
            if alone[low]:
                alone[high] = False
    return alone
