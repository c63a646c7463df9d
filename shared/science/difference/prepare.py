"""Image and template made ready for any engine: checked, without background, with noise and masks."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...errors import DataError, UsageError
from ..detection import background
from .model import Mask, Pair, Pixels

_MIN_SIDE_PIX: Final = 32
_MIN_GOOD: Final = 0.02
_MIN_GOOD_PIXELS: Final = 400
_BRIGHT_SIGMA: Final = 5.0
_REPAIR_SIDE_PIX: Final = 5


@dataclass(frozen=True)
class Frame:
    """One of the two images.

    Parameters
    ----------
    pixels
        Without background, finite: bad pixels hold what is around them, or 0.
    bad
        True where a pixel has no use.
    sky
        Noise of the background.
    variance
        Of each pixel, sources included.
    gain
        e- per unit of `pixels`; None when the noise was given.
    """

    pixels: Pixels
    bad: Mask
    sky: Pixels
    variance: Pixels
    gain: float | None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.pixels.shape
        return rows, columns


def prepare(pair: Pair, bg_size_pix: int) -> tuple[Frame, Frame]:
    """Check image and template and take off their backgrounds.

    Raises
    ------
    UsageError
        When gain, widths or mesh make no sense.
    DataError
        When the arrays cannot be used: shapes, or too few good pixels.
    """
    _check_shapes(pair)
    numbers = {
        "gain": pair.gain,
        "template gain": pair.template_gain,
        "FWHM": pair.fwhm_pix,
        "FWHM of the template": pair.template_fwhm_pix,
        "size of the background mesh": float(bg_size_pix),
    }
    for name, value in numbers.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise UsageError("bad_number", f"The {name} must be a positive number, not {value:g}.")
    image_bad, template_bad = _bad(pair.image, pair.mask), _bad(pair.template, pair.template_mask)
    _check_good(image_bad, template_bad)
    return (
        _frame(pair.image, image_bad, pair.noise, gain=pair.gain, bg_size_pix=bg_size_pix, name="image"),
        _frame(
            pair.template,
            template_bad,
            pair.template_noise,
            gain=pair.template_gain,
            bg_size_pix=bg_size_pix,
            name="template",
        ),
    )


def _check_shapes(pair: Pair) -> None:
    shape = pair.image.shape
    if len(shape) != 2 or min(shape) < _MIN_SIDE_PIX:  # noqa: PLR2004  rows and columns
        raise DataError(
            "difference_shape",
            f"An image of {' x '.join(map(str, shape))} pixels cannot be subtracted: at least {_MIN_SIDE_PIX} on each "
            "side are needed.",
        )
    others = {
        "template": pair.template,
        "mask of the image": pair.mask,
        "mask of the template": pair.template_mask,
        "noise of the image": pair.noise,
        "noise of the template": pair.template_noise,
    }
    for name, other in others.items():
        if other is not None and other.shape != shape:
            raise DataError(
                "difference_shape",
                f"The {name} has {' x '.join(map(str, other.shape))} pixels and the image {shape[0]} x {shape[1]}: "
                "both must be on one grid. Reproject the template first.",
            )


def _bad(pixels: Pixels, mask: Mask | None) -> Mask:
    bad = ~np.isfinite(pixels)
    return bad if mask is None else bad | mask


def _check_good(image_bad: Mask, template_bad: Mask) -> None:
    for name, bad in (("image", image_bad), ("template", template_bad), ("overlap", image_bad | template_bad)):
        good = bad.size - int(bad.sum())
        if good < max(_MIN_GOOD * bad.size, _MIN_GOOD_PIXELS):
            what = "the common area of image and template" if name == "overlap" else f"the {name}"
            raise DataError(
                "no_overlap" if name == "overlap" else "masked",
                f"Only {100 * good / bad.size:.1f} % of the pixels of {what} can be used. Check that the template "
                "covers the field, the saturation levels, and the masks.",
            )


def _frame(pixels: Pixels, bad: Mask, noise: Pixels | None, *, gain: float, bg_size_pix: int, name: str) -> Frame:
    plane = np.ascontiguousarray(pixels, np.float32)
    plane = plane - background(plane, bad, bg_size_pix).level
    # a gradient within a mesh would count as noise
    levels = background(plane, bad, bg_size_pix)
    plane -= levels.level
    plane[bad] = 0
    spread = float(np.median(levels.rms[~bad]))
    if spread <= 0:
        raise DataError(
            "no_noise",
            f"The background of the {name} has no noise: the pixels are constant. Use an image of the sky as it was "
            "taken.",
        )
    # a mesh that lies on constant pixels has none
    sky = np.maximum(levels.rms, np.float32(0.1 * spread))
    if noise is None:
        variance = sky**2 + _sources(plane, sky) / np.float32(gain)
    else:
        worst = np.float32(np.nanmax(np.where(bad, np.nan, noise)))
        variance = np.where(np.isfinite(noise) & (noise > 0), noise, worst).astype(np.float32) ** 2
    return Frame(_repaired(plane, bad), bad, sky, variance, gain if noise is None else None)


def _sources(plane: Pixels, sky: Pixels) -> Pixels:
    """Give the flux of sources at each pixel, smoothed where it is faint, lest the noise decides about the noise."""
    smooth: Pixels = ndimage.gaussian_filter(plane, 1.0)
    np.maximum(smooth, 0, out=smooth)
    bright = plane > _BRIGHT_SIGMA * sky
    np.maximum(smooth, plane, out=smooth, where=bright)
    return smooth


def _repaired(plane: Pixels, bad: Mask) -> Pixels:
    """Fill bad pixels with the mean of the good ones around, so that little of them spreads in a convolution."""
    rows, columns = np.nonzero(bad)
    if rows.size == 0 or rows.size > plane.size // 2:
        return plane
    half = _REPAIR_SIDE_PIX // 2
    padded = np.pad(plane, half)
    weight = np.pad((~bad).astype(np.float32), half)
    total: NDArray[np.float32] = np.zeros(rows.size, np.float32)
    count: NDArray[np.float32] = np.zeros(rows.size, np.float32)
    for dy in range(_REPAIR_SIDE_PIX):
        for dx in range(_REPAIR_SIDE_PIX):
            near = weight[rows + dy, columns + dx]
            total += near * padded[rows + dy, columns + dx]
            count += near
    plane[rows, columns] = np.where(count > 0, total / np.maximum(count, 1), 0)
    return plane
