"""Aperture and optimal photometry with a local sky annulus.

STDPipe's `measure_objects` does the same object by object through photutils and takes 3 s for 4,000 objects; this is
one compiled loop that takes 0.1 s and agrees with it to a fraction of the quoted error. The local sky is the mode, as
STDPipe's (mean - 3 (mean - median), clipped; Pearson 1895), with two changes. Pixels of detected objects are left out,
and what faint sources add, mean - median, is averaged over the nearest annuli, because in one of them it is nearly all
noise: the variance of a mode of N pixels is 6.1 sigma²/N and that of this sky 1.1 sigma²/N. It shows in the scatter of
faint stars. An annulus' own mean - median tells nothing more, in crowded fields neither: against the true sky of
simulations with 9,300 to 15,000 stars per square degree, half of it makes the sky noisier by 2 %, all of it by 13 %.
The error of the local sky counts in the quoted errors.
"""

import math
from dataclasses import dataclass
from typing import Final

import numba as nb
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

FLAG_MASKED_APERTURE: Final = 0x200
FLAG_NO_LOCAL_SKY: Final = 0x400
FLAG_NOT_MEASURED: Final = 0x800

_MIN_SKY_PIXELS: Final = 10
"""Fewer pixels than this give no usable sky."""
_CLIP_SIGMA: Final = 3.0
_MODE: Final = 3.0
"""The mode lies three times as far below the mean as the median does (Pearson's rule)."""
_NEIGHBOURS: Final = 64
"""Annuli over which mean - median is averaged: few enough to follow the crowding of a field."""
_SKEW_VARIANCE: Final = (_MODE * math.pi / 2) ** 2 * (1 - 2 / math.pi)
"""Variance of 3 (mean - median), the median of n annuli of N Gaussian values, in units of sigma²/(n N)."""
_FWHM_PER_SIGMA: Final = 2.3548200450309493


@dataclass(frozen=True)
class Photometry:
    """Measurements at a list of positions, arrays of one length.

    Parameters
    ----------
    flux
        Sum over the aperture above the local sky, ADU; NaN where nothing could be measured.
    fluxerr
        Its error, ADU, with the noise of the local sky.
    sky
        Local sky above the global background, ADU/pixel.
    npix
        Finite pixels in the aperture, fractional.
    flags
        Bits of this module.
    skew
        What was taken for the skewness of the sky.
    """

    flux: NDArray[np.float64]
    fluxerr: NDArray[np.float64]
    sky: NDArray[np.float64]
    npix: NDArray[np.float64]
    flags: NDArray[np.int32]
    skew: "Skew"


class Skew:
    """How far the mean of sky pixels lies above their median, ADU, by position: undetected sources make it so.

    Parameters
    ----------
    x, y
        Centres of annuli, pixels.
    difference
        Mean - median in each, ADU; NaN where unknown.
    """

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64], difference: NDArray[np.float64]) -> None:
        known = np.isfinite(x) & np.isfinite(y) & np.isfinite(difference)
        self._values = difference[known]
        self._tree = cKDTree(np.stack([x[known], y[known]], axis=-1))
        self.annuli = min(_NEIGHBOURS, self._values.size)

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the median of the nearest annuli, 0 where nothing is known."""
        found = np.zeros(x.size)
        known = np.isfinite(x) & np.isfinite(y)
        if self.annuli and known.any():
            _, nearest = self._tree.query(np.stack([x[known], y[known]], axis=-1), k=range(1, self.annuli + 1))
            found[known] = np.median(self._values[nearest], axis=1)
        return found


@nb.njit(cache=True)
def _corner(a: float, b: float, r: float) -> float:
    """Area of the disc of radius `r` within [0, a] × [0, b], odd in both."""
    sign = 1.0
    if a < 0:
        a, sign = -a, -sign
    if b < 0:
        b, sign = -b, -sign
    if a * a + b * b <= r * r:
        return sign * a * b
    a, b = min(a, r), min(b, r)
    start = min(math.sqrt(r * r - b * b), a)
    upper = 0.5 * (a * math.sqrt(r * r - a * a) + r * r * math.asin(a / r))
    lower = 0.5 * (start * math.sqrt(r * r - start * start) + r * r * math.asin(start / r))
    return sign * (b * start + upper - lower)


@nb.njit(cache=True)
def _covered(dx: float, dy: float, r: float) -> float:
    """Part of the unit pixel centred at (dx, dy) that lies in the disc of radius `r` around the origin."""
    near = max(abs(dx) - 0.5, 0.0) ** 2 + max(abs(dy) - 0.5, 0.0) ** 2
    if near >= r * r:
        return 0.0
    if (abs(dx) + 0.5) ** 2 + (abs(dy) + 0.5) ** 2 <= r * r:
        return 1.0
    x0, x1, y0, y1 = dx - 0.5, dx + 0.5, dy - 0.5, dy + 0.5
    return _corner(x1, y1, r) - _corner(x0, y1, r) - _corner(x1, y0, r) + _corner(x0, y0, r)


@nb.njit(cache=True)
def _sky(  # noqa: C901, PLR0917  compiled: a loop does not call small functions for clarity
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    x: float,
    y: float,
    inner: float,
    outer: float,
    buffer: NDArray[np.float32],
) -> tuple[float, float, float]:
    """Give mean, mean - median, and the error of the mean in an annulus, clipped; NaN with too few pixels."""
    height, width = image.shape
    count = 0
    for j in range(max(0, math.ceil(y - outer)), min(height, math.floor(y + outer) + 1)):
        for i in range(max(0, math.ceil(x - outer)), min(width, math.floor(x + outer) + 1)):
            distance2 = (i - x) ** 2 + (j - y) ** 2
            if inner * inner <= distance2 <= outer * outer and not mask[j, i] and count < buffer.size:
                value = image[j, i]
                if math.isfinite(value):
                    buffer[count] = value
                    count += 1
    if count < _MIN_SKY_PIXELS:
        return math.nan, math.nan, math.nan
    values = np.sort(buffer[:count])
    first, last = 0, count
    total = squares = 0.0
    for k in range(count):
        total += values[k]
        squares += values[k] * values[k]
    while True:
        kept = last - first
        middle = first + kept // 2
        median = values[middle] if kept % 2 else 0.5 * (values[middle - 1] + values[middle])
        mean = total / kept
        scatter = math.sqrt(max(squares / kept - mean * mean, 0.0))
        low, high, before = median - _CLIP_SIGMA * scatter, median + _CLIP_SIGMA * scatter, kept
        while first < last - 1 and values[first] < low:
            total -= values[first]
            squares -= values[first] * values[first]
            first += 1
        while last > first + 1 and values[last - 1] > high:
            last -= 1
            total -= values[last]
            squares -= values[last] * values[last]
        if last - first == before:
            return mean, mean - median, scatter / math.sqrt(kept)


@nb.njit(cache=True)
def _skies(  # noqa: PLR0917  as `_sky`
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    inner: float,
    outer: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Give what `_sky` gives, for a list of positions."""
    means, differences, errors = np.full(xs.size, np.nan), np.full(xs.size, np.nan), np.full(xs.size, np.nan)
    buffer = np.empty(math.ceil(4 * (outer + 1) ** 2), np.float32)
    for k in range(xs.size):
        if math.isfinite(xs[k]) and math.isfinite(ys[k]):
            means[k], differences[k], errors[k] = _sky(image, mask, xs[k], ys[k], inner, outer, buffer)
    return means, differences, errors


@nb.njit(cache=True)
def _measure(  # noqa: C901, PLR0912, PLR0917  as `_sky`
    image: NDArray[np.float32],
    rms: NDArray[np.float32],
    mask: NDArray[np.bool_],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    levels: NDArray[np.float64],
    level_errors: NDArray[np.float64],
    radius: float,
    gain: float,
    sigma: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
    """Loop over positions; `sigma` > 0 weights the aperture with a Gaussian of that width."""
    height, width = image.shape
    n = xs.size
    flux, fluxerr = np.full(n, np.nan), np.full(n, np.nan)
    npix = np.zeros(n)
    flags = np.zeros(n, np.int32)
    for k in range(n):
        x, y = xs[k], ys[k]
        if not (math.isfinite(x) and math.isfinite(y)):
            flags[k] = FLAG_NO_LOCAL_SKY | FLAG_NOT_MEASURED
            continue
        level, sky_variance = levels[k], level_errors[k] * level_errors[k]
        if not math.isfinite(level):
            flags[k] |= FLAG_NO_LOCAL_SKY
            level = sky_variance = 0.0
        total = area = weight = variance = counts = 0.0
        for j in range(max(0, math.floor(y - radius)), min(height, math.ceil(y + radius) + 1)):
            for i in range(max(0, math.floor(x - radius)), min(width, math.ceil(x + radius) + 1)):
                part = _covered(i - x, j - y, radius)
                if part <= 0.0:
                    continue
                if mask[j, i] and (i - x) ** 2 + (j - y) ** 2 <= radius * radius:
                    flags[k] |= FLAG_MASKED_APERTURE
                value = image[j, i]
                if not math.isfinite(value):
                    continue
                area += part
                noise2 = rms[j, i] * rms[j, i]
                if sigma > 0.0:
                    root = sigma * math.sqrt(2.0)
                    p = 0.25 * (math.erf((i - x + 0.5) / root) - math.erf((i - x - 0.5) / root))
                    p *= math.erf((j - y + 0.5) / root) - math.erf((j - y - 0.5) / root)
                    total += part * p * (value - level)
                    counts += part * p
                    weight += part * p * p
                    variance += part * p * p * (noise2 + max(value - level, 0.0) / gain)
                else:
                    total += part * (value - level)
                    variance += part * noise2
        npix[k] = area
        if sigma > 0.0:
            if weight > 0.0:
                flux[k] = total / weight
                fluxerr[k] = math.sqrt(variance + counts * counts * sky_variance) / weight
        elif area > 0.0:
            flux[k] = total
            fluxerr[k] = math.sqrt(variance + max(total, 0.0) / gain + area * area * sky_variance)
        if not math.isfinite(flux[k]):
            flags[k] |= FLAG_NOT_MEASURED
    return flux, fluxerr, npix, flags


def measure(
    image: NDArray[np.float32],
    rms: NDArray[np.float32],
    mask: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    radius_pix: float,
    annulus_pix: tuple[float, float],
    gain: float,
    optimal_fwhm_pix: float | None = None,
    sky_mask: NDArray[np.bool_] | None = None,
    skew: Skew | None = None,
) -> Photometry:
    """Measure fluxes at positions.

    Parameters
    ----------
    image
        Background-subtracted image, ADU; non-finite pixels are left out.
    rms
        Background noise, ADU/pixel, of the image's shape.
    mask
        True where pixels are bad. They are left out of the sky; in the aperture they are counted and flagged, so that
        a saturated star keeps a (flagged) flux.
    x, y
        Positions, 0-based pixels.
    radius_pix
        Radius of the aperture; pixels on its edge count by the exact area inside.
    annulus_pix
        Inner and outer radius of the sky annulus, clipped at 3 sigma.
    gain
        e-/ADU.
    optimal_fwhm_pix
        Weight the pixels of the aperture with a Gaussian of this width (Naylor 1998, MNRAS 296, 339, equation 10 with
        uniform noise) instead of summing them; None for the plain sum.
    sky_mask
        True where pixels are left out of the sky, instead of `mask`: bad pixels and those of known objects.
    skew
        Skewness of the sky from earlier measurements, for positions that are few; None takes these positions' own.
    """
    bad = np.ascontiguousarray(mask, np.bool_)
    avoided = bad if sky_mask is None else np.ascontiguousarray(sky_mask, np.bool_)
    pixels = np.ascontiguousarray(image, np.float32)
    xs, ys = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64)
    means, differences, errors = _skies(pixels, avoided, xs, ys, *map(float, annulus_pix))
    skew = skew or Skew(xs, ys, differences)
    levels = means - _MODE * skew.at(xs, ys)
    errors *= math.sqrt(1 + _SKEW_VARIANCE / max(skew.annuli, 1))
    flux, fluxerr, npix, flags = _measure(
        pixels,
        np.ascontiguousarray(rms, np.float32),
        bad,
        xs,
        ys,
        levels,
        errors,
        float(radius_pix),
        float(gain),
        0.0 if optimal_fwhm_pix is None else optimal_fwhm_pix / _FWHM_PER_SIGMA,
    )
    return Photometry(flux, fluxerr, np.nan_to_num(levels), npix, flags, skew)


def warm() -> None:
    """Compile, or load from the disk cache, the loop of this module."""
    image = np.ones((8, 8), np.float32)
    measure(
        image,
        image,
        np.zeros((8, 8), bool),
        np.array([4.0]),
        np.array([4.0]),
        radius_pix=2,
        annulus_pix=(2, 4),
        gain=1,
    )
