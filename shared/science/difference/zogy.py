"""The engine `zogy` (Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27), by STDPipe, tile by tile.

Star shapes, photometric scale and a common shift are measured here: STDPipe wants PSFEx for the first, and fits the
others by repeated transforms of the whole frame. Tiles are square, of even sides and with margins that are thrown away:
STDPipe's flux assumes squares, its place of the shape even sides, and its own overlaps keep the wrapped edges.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from stdpipe import subtraction as stdpipe_subtraction

from ...errors import DataError
from .compose import Measured, finish, residual_level, robust_sd
from .convolve import cut_padded, split
from .model import Difference, Log, Mask, Options, Pixels, Scores, quiet
from .pieces import windows
from .prepare import Frame
from .stars import Box, Stars, psf, shortest_half, width

_TILE_PIX: Final = 640
_MARGIN_PIX: Final = 64
_RADIUS_PER_FWHM: Final = 5.0
_MIN_RADIUS_PIX: Final = 10
_MAX_RADIUS_PIX: Final = 30
_SCALE_STARS: Final = 200
_MIN_STARS: Final = 3
_ASTROMETRY_PIX: Final = 0.1
"""Scatter of the positions of stars between image and template that the score allows for."""
_SOURCE_SIGMA: Final = 2.0
_SMOOTH_PIX: Final = 1.0
_SMOOTH_SIGMA: Final = 2.0
"""Seven times the noise that is left after smoothing."""
_CROWDED: Final = 0.8
_BAD_SHARE: Final = 0.1
"""Of the variance, that comes from bad pixels."""
_TINY: Final = 1e-30
_DOUBT_SIGMA: Final = 1.0
_FILL_ERROR: Final = 0.5
"""Of what is filled into saturated stars, a fraction."""
_LITTLE_SHIFT_PIX: Final = 0.03
_CENTRE_RADIUS_PIX: Final = 4
_SIGMAS_OF_HALF: Final = 0.7413
"""One over the length of the middle half of a normal distribution."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Setup:
    """What holds for all tiles: shapes of stars, noise of the skies, flux in the template over that in the image."""

    psf: Values
    template_psf: Values
    sky: float
    template_sky: float
    ratio: float
    threads: int


def subtract(
    image: Frame, template: Frame, stars: Stars, fwhm_pix: tuple[float, float], *, options: Options, log: Log
) -> Difference:
    """Subtract.

    Raises
    ------
    DataError
        When too few stars are clean enough to measure shapes and scale.
    """
    radius = int(
        np.clip(_RADIUS_PER_FWHM * max(fwhm_pix), _MIN_RADIUS_PIX, min(_MAX_RADIUS_PIX, min(image.shape) // 5))
    )
    own, other = psf(image, image, stars, radius), psf(template, image, stars, radius)
    shift = _centre(other) - _centre(own)
    if np.abs(shift).max() > _LITTLE_SHIFT_PIX:
        log(f"The template is shifted by {-shift[1]:+.2f}, {-shift[0]:+.2f} pixels in x, y")
        template = _shifted(template, -shift)
        other = psf(template, image, stars, radius)
    scale, error, scatter, count = _scale(image, template, stars, own, other)
    log(f"Subtracting with ZOGY, scale {scale:.6g} by {count} stars, shapes of {2 * radius + 1} pixels")
    setup = _Setup(
        own,
        other,
        float(np.median(image.sky)),
        float(np.median(template.sky)),
        1 / scale,
        options.threads,
    )
    made = {
        name: np.zeros(image.shape, np.float32)
        for name in ("difference", "scorr", "flux", "error", "noise", "convolved")
    }
    either = image.bad | template.bad
    bad = either.copy()
    rim = int(np.ceil(max(fwhm_pix)))  # what lies beyond the frame is not in the convolved template
    bad[:rim], bad[-rim:], bad[:, :rim], bad[:, -rim:] = True, True, True, True
    shape = np.zeros(0)
    rows, columns = image.shape
    for tile in split(Box(0, rows, 0, columns), _TILE_PIX):
        if not either[tile.slices].all():
            shape = _tile(image, template, tile, setup, made=made, either=either, bad=bad)
    sources = _sources(image) | _sources(template)
    made["difference"] -= residual_level(made["difference"], sources, bad, options.bg_size_pix)
    if image.gain is not None:
        # crowded stars make the background look noisier than it is; the difference has none
        sky = ~(bad | sources)
        made["noise"] *= np.float32(min(robust_sd(made["difference"][sky] / made["noise"][sky]), 1))
    measured = Measured(scale, error, scatter, width(shape), count)
    done = finish(
        made["difference"],
        made["convolved"],
        made["noise"],
        bad,
        side="both",
        measured=measured,
        extra=options.hotpants,
    )
    for name in ("scorr", "flux", "error"):
        np.nan_to_num(made[name], copy=False, nan=0, posinf=0, neginf=0)
        if name != "error":
            made[name] -= residual_level(made[name], sources, done.mask, options.bg_size_pix)
    made["scorr"][done.mask] = 0
    scores = Scores(made["scorr"], made["flux"], made["error"], own)
    return Difference(**{**done.__dict__, "scores": scores})


def _sources(frame: Frame) -> Mask:
    """Tell where light is; of single pixels the noisy ones would be chosen, too."""
    return np.asarray(ndimage.gaussian_filter(frame.pixels, _SMOOTH_PIX) > _SMOOTH_SIGMA * frame.sky)


def _centre(shape: Values) -> Values:
    """Give the centre of a star's core, rows and columns."""
    half, core = shape.shape[0] // 2, _CENTRE_RADIUS_PIX
    part = shape[half - core : half + core + 1, half - core : half + core + 1]
    return np.array(ndimage.center_of_mass(part))


def _shifted(frame: Frame, shift: Values) -> Frame:
    """Move a frame: stars in the difference are where the template has them."""
    bad = ndimage.shift(frame.bad.astype(np.float32), shift, order=1, mode="nearest") > 0
    pixels = ndimage.shift(frame.pixels, shift, order=3, mode="nearest")
    variance = ndimage.shift(frame.variance, shift, order=1, mode="nearest")
    return replace(frame, pixels=pixels, bad=bad, variance=variance)


def _scale(image: Frame, template: Frame, stars: Stars, own: Values, other: Values) -> tuple[float, float, float, int]:
    """Measure flux in image over flux in template by stars that are convolved with each other's shape.

    Returns
    -------
    scale, error, scatter, stars
        Scatter as a fraction.
    """
    half = own.shape[0] // 2
    rows, columns = image.shape
    inside = (stars.x > half) & (stars.y > half) & (stars.x < columns - half - 1) & (stars.y < rows - half - 1)
    some = stars.take(np.flatnonzero(inside)[:_SCALE_STARS])
    clean = ~(windows(image.bad, some, half) | windows(template.bad, some, half)).any(axis=(1, 2))
    some = some.take(clean)
    if len(some) < _MIN_STARS:
        raise DataError(
            "no_kernel_stars",
            f"Only {len(some)} clean stars are seen in image and template both, {_MIN_STARS} are needed. Check that "
            "the template covers the field, the astrometry of both, the saturation levels, and the masks.",
        )
    size = [fft.next_fast_len(4 * half + 1)] * 2

    def convolved(frame: Frame, shape: Values) -> Values:
        pieces = fft.rfft2(windows(frame.pixels, some, half).astype(float), size)
        return np.asarray(
            fft.irfft2(pieces * fft.rfft2(shape, size), size)[:, half : 3 * half + 1, half : 3 * half + 1]
        )

    seen, expected = convolved(image, other), convolved(template, own)
    core = slice(half // 2, -(half // 2)), slice(half // 2, -(half // 2))
    seen, expected = seen[:, *core], expected[:, *core]
    seen = seen - np.median(seen, axis=(1, 2), keepdims=True)
    expected = expected - np.median(expected, axis=(1, 2), keepdims=True)
    ratios = (seen * expected).sum(axis=(1, 2)) / (expected**2).sum(axis=(1, 2))
    scale, length = shortest_half(ratios)
    scatter = _SIGMAS_OF_HALF * length / abs(scale)
    if not scale > 0:
        raise DataError(
            "no_kernel_stars",
            "The stars of the image are not in the template. Check the astrometry of both.",
        )
    return scale, 1.2533 * scatter * scale / float(np.sqrt(len(some))), scatter, len(some)


def _tile(
    image: Frame, template: Frame, box: Box, setup: _Setup, *, made: dict[str, Pixels], either: Mask, bad: Mask
) -> Values:
    """Subtract one tile and give the shape of stars in its difference."""
    side = _fast_side(max(box.bottom - box.top, box.right - box.left))
    square = Box(box.top, box.top + side, box.left, box.left + side)

    def cut(plane: NDArray[Any], fill: float) -> Values:
        return cut_padded(plane, square, _MARGIN_PIX, fill).astype(float)

    noise, template_noise = (
        np.sqrt(cut(frame.variance, sky**2)) for frame, sky in ((image, setup.sky), (template, setup.template_sky))
    )
    pixels, template_pixels = cut(image.pixels, 0), cut(template.pixels, 0)
    unusable = cut(either, 1) > 0
    sources = unusable | (template_pixels > _SOURCE_SIGMA * setup.template_sky) | (pixels > _SOURCE_SIGMA * setup.sky)
    if sources.mean() > _CROWDED:
        sources = np.zeros_like(sources)  # the noise is better known with some sources than from a few pixels
    difference, scorr, shape, flux, error = stdpipe_subtraction.run_zogy(
        pixels,
        template_pixels,
        mask=sources,
        template_mask=sources,
        err=noise.copy(),
        template_err=template_noise.copy(),
        image_psf=_as_stdpipe(setup.psf),
        template_psf=_as_stdpipe(setup.template_psf),
        scale=setup.ratio,
        dx=_ASTROMETRY_PIX,
        dy=_ASTROMETRY_PIX,
        fit_scale=False,
        fit_shift=False,
        get_psf=True,
        get_Fpsf=True,
        nthreads=setup.threads,
        verbose=quiet,
    )
    kernels = _kernels(setup, pixels.shape, float(np.median(noise)), float(np.median(template_noise)))
    parts = {
        "difference": difference,
        "scorr": scorr,
        "flux": flux,
        "error": error,
        "noise": np.sqrt(_variance(kernels, noise, template_noise)),
        "convolved": _circular(template_pixels, kernels[1]),
    }
    inner = (
        slice(_MARGIN_PIX, _MARGIN_PIX + box.bottom - box.top),
        slice(_MARGIN_PIX, _MARGIN_PIX + box.right - box.left),
    )
    for name, part in parts.items():
        made[name][box.slices] = part[inner]
    if unusable.any():
        share = _variance(kernels, noise * unusable, template_noise * unusable) / parts["noise"] ** 2
        # what was filled into a saturated star may be wrong by as much as it is
        doubt = np.abs(_circular(np.where(unusable, pixels, 0), kernels[0]))
        doubt += np.abs(_circular(np.where(unusable, template_pixels, 0), kernels[1]))
        doubt *= _FILL_ERROR
        bad[box.slices] |= ((share > _BAD_SHARE) | (doubt > _DOUBT_SIGMA * parts["noise"]))[inner]
    return np.asarray(shape)


def _fast_side(least_pix: int) -> int:
    """Give an even side that with its margins has small factors: a transform of primes takes twice as long."""
    size = fft.next_fast_len(least_pix + 2 * _MARGIN_PIX)
    while size % 2:
        size = fft.next_fast_len(size + 1)
    return int(size) - 2 * _MARGIN_PIX


def _variance(kernels: tuple[Values, Values], noise: Values, template_noise: Values) -> Values:
    """Give the variance of the difference."""
    total = _circular(noise**2, kernels[0] ** 2) + _circular(template_noise**2, kernels[1] ** 2)
    return np.maximum(total, _TINY)


def _kernels(setup: _Setup, size: tuple[int, ...], sky: float, template_sky: float) -> tuple[Values, Values]:
    """Give what image and template are convolved with in the difference (equations 13, 15), centred on pixel 0, 0."""
    own, other = (fft.rfft2(_centred(shape, size)) for shape in (setup.psf, setup.template_psf))
    ratio = setup.ratio
    norm = np.sqrt((sky * ratio * np.abs(other)) ** 2 + (template_sky * np.abs(own)) ** 2)
    zero_point = ratio / np.hypot(sky * ratio, template_sky)
    return (
        np.asarray(fft.irfft2(ratio * other / norm / zero_point, size)),
        np.asarray(fft.irfft2(own / norm / zero_point, size)),
    )


def _centred(shape: Values, size: tuple[int, ...]) -> Values:
    plane = np.zeros(size)
    plane[: shape.shape[0], : shape.shape[1]] = shape
    return np.roll(plane, (-(shape.shape[0] // 2), -(shape.shape[1] // 2)), (0, 1))


def _circular(plane: Values, kernel: Values) -> Values:
    return np.asarray(fft.irfft2(fft.rfft2(plane) * fft.rfft2(kernel), plane.shape))


def _as_stdpipe(shape: Values) -> dict[str, Any]:
    """Give a shape that is the same everywhere, as STDPipe's functions want it."""
    return {
        "width": shape.shape[1],
        "height": shape.shape[0],
        "fwhm": width(shape),
        "sampling": 1.0,
        "ncoeffs": 1,
        "degree": 0,
        "x0": 0.0,
        "y0": 0.0,
        "sx": 1.0,
        "sy": 1.0,
        "data": shape[None],
    }
