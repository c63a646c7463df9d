"""From a match to a difference on the zero point of the image."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ...contracts.params.hotpants import HotpantsExtra
from ..detection import background
from .convolve import Match
from .model import Difference, Mask, Options, Pixels
from .prepare import Frame

_WIDER: Final = 1.1
_MAX_CORRELATION: Final = 3.0
_MAX_CROWDING: Final = 0.5
_SOURCE_SIGMA: Final = 2.0
_MODEL_SIGMA: Final = 4.0
_MIN_SKY_PIXELS: Final = 100
_LITTLE: Final = 0.02
_CROWDED: Final = 0.8

Side = Literal["template", "image"]


@dataclass(frozen=True)
class Measured:
    """What an engine learned about the match, on the zero point of the image."""

    scale: float
    scale_error: float
    scale_scatter: float
    fwhm_pix: float
    stars: int


def side_of(fwhm_pix: float, template_fwhm_pix: float, wanted: str | None) -> Side:
    """Choose what is convolved: the sharper one, and the template when both are about equal.

    Parameters
    ----------
    wanted
        `t`, `i`, or `u` and None for no wish.
    """
    if wanted in {"t", "i"}:
        return "template" if wanted == "t" else "image"
    return "image" if template_fwhm_pix > _WIDER * fwhm_pix else "template"


def compose(target: Frame, match: Match, side: Side, measured: Measured, options: Options) -> Difference:
    """Subtract what was matched.

    Parameters
    ----------
    target
        What was not convolved: the image when the template was.
    match
        The source as it looks in the target.
    """
    bad = target.bad | match.bad
    difference = target.pixels - match.model - match.background
    sources = _sources(target, match)
    level = residual_level(difference, sources, bad, options.bg_size_pix)
    difference -= level
    noise = np.sqrt(_variance(difference, target, match, ~(bad | sources)))
    if side == "image":
        # the template minus the image: turned round, and brought back to the zero point of the image
        difference = -difference / match.scale
        noise = noise / match.scale
        convolved = (target.pixels - match.background - level) / match.scale
    else:
        convolved = match.model
    return finish(difference, convolved, noise, bad, side=side, measured=measured, extra=options.hotpants)


def finish(
    difference: Pixels,
    convolved: Pixels,
    noise: Pixels,
    bad: Mask,
    *,
    side: Literal["template", "image", "both"],
    measured: Measured,
    extra: HotpantsExtra,
) -> Difference:
    """Give a difference whose maps are finite and whose bad pixels hold what the options say."""
    bad |= ~np.isfinite(difference) | ~np.isfinite(noise) | (noise <= 0)
    typical = np.float32(np.median(noise[~bad])) if not bad.all() else np.float32(1)
    noise[bad & ~(np.isfinite(noise) & (noise > 0))] = typical
    difference[bad] = 0
    if extra.okn:
        noise *= np.float32(robust_sd(difference[~bad] / noise[~bad]))
    significance = difference / noise
    if extra.fi is not None:
        difference[bad] = extra.fi
    if extra.fin is not None:
        noise[bad] = extra.fin
    np.nan_to_num(convolved, copy=False, nan=0, posinf=0, neginf=0)
    return Difference(
        difference,
        convolved,
        noise,
        significance,
        bad,
        measured.scale,
        measured.scale_error,
        measured.scale_scatter,
        measured.fwhm_pix,
        side,
        measured.stars,
    )


def residual_level(difference: Pixels, sources: Mask, bad: Mask, bg_size_pix: int) -> Pixels | np.float32:
    """Give what is left of the backgrounds: without its sources the sky is seen better than in either image."""
    avoided = bad | sources
    if avoided.sum() > _CROWDED * avoided.size:
        avoided = bad
    if avoided.sum() > _CROWDED * avoided.size:
        return np.float32(np.median(difference[~bad])) if not bad.all() else np.float32(0)
    return background(difference, avoided, bg_size_pix).level


def _sources(target: Frame, match: Match) -> Mask:
    """Tell where the model has sources and not only noise, of which an image has much and most templates little."""
    return np.asarray(match.model > np.maximum(_SOURCE_SIGMA * target.sky, _MODEL_SIGMA * np.sqrt(match.variance)))


def _variance(difference: Pixels, target: Frame, match: Match, sky: Mask) -> Pixels:
    """Add the variances of both, and bring them to what the sky of the difference shows.

    The pixels of a resampled image are correlated, so that convolution averages their noise less than it does that of
    independent pixels: then the variance of the model is raised. Crowded stars make the background look noisier
    than it is: then that of the target is lowered, unless it was given.

    Parameters
    ----------
    sky
        Pixels without sources.
    """
    total = target.variance + match.variance
    if int(sky.sum()) < _MIN_SKY_PIXELS:
        return total
    excess = robust_sd(difference[sky] / np.sqrt(total[sky])) ** 2 - 1
    share = float(np.median(match.variance[sky] / total[sky]))
    if excess > 0 and share > _LITTLE:
        return total + match.variance * np.float32(min(excess / share, _MAX_CORRELATION))
    if target.gain is not None:
        own = excess / (1 - share)
        total += target.sky**2 * np.float32(np.clip(own, -_MAX_CROWDING, _MAX_CROWDING))
    return total


def robust_sd(values: NDArray[np.float32]) -> float:
    """Give half the range of the middle 68.3 %; 1 of nothing, as if the noise were right."""
    if not values.size:
        return 1.0
    low, high = np.percentile(values, (15.865, 84.135))
    return float(high - low) / 2
