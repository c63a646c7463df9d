"""What goes into a subtraction and what comes out of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ...contracts.params.hotpants import HotpantsExtra
from ...errors import UsageError

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]
Log = Callable[..., None]
Engine = Literal["hotpants", "zogy", "sfft"]

ENGINES: tuple[Engine, ...] = get_args(Engine)


def quiet(*_parts: object) -> None:
    """Take a line of the log and drop it."""


@dataclass(frozen=True)
class Pair:
    """An image, and a template on the image's grid.

    Parameters
    ----------
    image
        ADU, with its background; non-finite pixels count as masked.
    template
        On the pixels of the image, in the template's own unit, with its background. NaN where it has no data.
    mask, template_mask
        True where pixels are bad: saturated, cosmic rays, no data. None for nothing but non-finite pixels.
    gain, template_gain
        e- per unit of image and template, of the noise of sources.
    noise, template_noise
        Noise of each pixel, sources included, in the unit of its image. None builds it from the noise of the
        background and the gain.
    fwhm_pix, template_fwhm_pix
        Width of stars; None measures it. Both must be measured in the same way.
    """

    image: Pixels
    template: Pixels
    mask: Mask | None = None
    template_mask: Mask | None = None
    gain: float = 1.0
    template_gain: float = 10000.0
    noise: Pixels | None = None
    template_noise: Pixels | None = None
    fwhm_pix: float | None = None
    template_fwhm_pix: float | None = None


@dataclass(frozen=True)
class Options:
    """How to subtract.

    Parameters
    ----------
    hotpants
        Of the engine `hotpants`, see `hotpants_options`.
    sfft_kernel_poly_order, sfft_bg_poly_order, sfft_flux_poly_order
        Orders of SFFT's kernel, background and photometric scale over the frame.
    bg_size_pix
        Mesh of the backgrounds; smaller on small images.
    threads
        Cores to use.
    program
        HOTPANTS, as `hotpants_program` finds it; None uses our own solver.
    work
        Folder for the files of the HOTPANTS program.
    """

    hotpants: HotpantsExtra = field(default_factory=HotpantsExtra)
    sfft_kernel_poly_order: int = 0
    sfft_bg_poly_order: int = 0
    sfft_flux_poly_order: int = 0
    bg_size_pix: int = 128
    threads: int = 1
    program: str | None = None
    work: Path | None = None


@dataclass(frozen=True)
class Scores:
    """What ZOGY gives beside a difference (Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27).

    Parameters
    ----------
    scorr
        Significance of a point source at each pixel, with source and astrometric noise (equation 25).
    flux, flux_error
        PSF flux of a point source at each pixel and its error, in the unit of the image (equations 41 to 43).
    shape
        Shape of a star in the image, of the sum 1, to which these fluxes belong: the part of it within an aperture
        turns them into fluxes of that aperture. None when it was not kept.
    """

    scorr: Pixels
    flux: Pixels
    flux_error: Pixels
    shape: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Difference:
    """Image minus template, in the unit and on the zero point of the image.

    All maps are finite everywhere.

    Parameters
    ----------
    difference
        0 at masked pixels, unless an option says otherwise.
    convolved
        What was subtracted, without background: the template as it would look in the matched image.
    noise
        Standard deviation of each pixel of the difference.
    significance
        Difference over noise; 0 at masked pixels.
    mask
        True where the difference means nothing: bad in image or template, or too much of the kernel on bad pixels.
    scale
        Flux in the image over flux in the template of the same star, at the centre of the frame.
    scale_error
        Its standard error; NaN where the engine has none.
    scale_scatter
        Scatter of the scale from star to star beyond noise, as a fraction (colours, variables); NaN as above.
    fwhm_pix
        Width of a star in the difference.
    convolved_side
        What was brought to the width of the other; `both` in ZOGY. The wider star shape is that of `difference`.
    stars
        How many stars the match was fitted to; 0 where the engine does not fit stars.
    scores
        Of ZOGY alone.
    """

    difference: Pixels
    convolved: Pixels
    noise: Pixels
    significance: Pixels
    mask: Mask
    scale: float
    scale_error: float
    scale_scatter: float
    fwhm_pix: float
    convolved_side: Literal["template", "image", "both"]
    stars: int
    scores: Scores | None = None


def hotpants_options(extra: Mapping[str, Any]) -> HotpantsExtra:
    """Check a user's `hotpants_extra` against the closed list.

    Raises
    ------
    UsageError
        When a key is not in the list or a value is out of range.
    """
    try:
        return HotpantsExtra.model_validate(dict(extra))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "hotpants_extra"
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(HotpantsExtra.model_fields)
            text = f"hotpants_extra has no option {key!r}. Allowed are {allowed}."
        else:
            reason = first["msg"].removeprefix("Value error, ")
            text = f"The option {key} of hotpants_extra cannot be used: {reason[:1].lower()}{reason[1:]}."
        raise UsageError("hotpants_extra", text) from error
