"""Difference images: one interface to three engines.

    pair = Pair(image, template, mask=mask, template_mask=template_mask, gain=1.6, template_gain=20.0)
    options = Options(hotpants=hotpants_options(extra), threads=2, program=hotpants_program(), work=folder)
    found = subtract("hotpants", pair, options, log)

The template must lie on the pixels of the image already, in any unit of flux; pixels without data are NaN. Backgrounds
are taken off here. `found.difference` is in the unit and on the zero point of the image whichever side was convolved:
the sharper of both is brought to the width of the other, so that stars in the difference are `found.fwhm_pix` wide; an
aperture is to be chosen by that and not by the image's own width. `found.mask` says where the difference means nothing.
`found.scale` is the measured photometric scale: flux in the image over flux in the template of the same star.

Frames are worked on whole, up to 4096 x 4096 pixels and more; the caller need not cut them.

=========  ======================================================================================================
hotpants   the HOTPANTS program when `Options.program` names it, else our own Alard-Lupton solver (`solver`), under
           the same options, `hotpants_options`. In our solver `kcs` and `ssig` have no effect, and the photometric
           scale varies over a region by a polynomial of at least second order whatever `ko` is
zogy       proper subtraction; `found.scores` has its score and PSF fluxes, by which to search and measure: the noise of
           its difference is white, and stars in it have a shape of their own
sfft       a kernel of free pixels with smooth wings, by the same solver
=========  ======================================================================================================

Errors are `UsageError` (options) and `DataError` (images that cannot be matched), and of the HOTPANTS program
`InternalError` and `TransientError`.
"""

from importlib import import_module
from typing import Final

from ...errors import UsageError
from .cores import fill_cores
from .model import ENGINES, Difference, Engine, Log, Options, Pair, Scores, hotpants_options, quiet
from .prepare import prepare
from .program import hotpants_program
from .stars import find_enough, measure_fwhm

__all__ = [
    "ENGINES",
    "Difference",
    "Engine",
    "Options",
    "Pair",
    "Scores",
    "hotpants_options",
    "hotpants_program",
    "subtract",
]

_ENOUGH_STARS: Final = 10


def subtract(engine: str, pair: Pair, options: Options | None = None, log: Log = quiet) -> Difference:
    """Subtract a template from an image.

    Parameters
    ----------
    engine
        One of `ENGINES`.
    log
        Takes lines for the user.

    Raises
    ------
    UsageError
        When an option is out of range.
    DataError
        When image and template cannot be matched.
    """
    if engine not in ENGINES:
        raise UsageError("subtraction_method", f"There is no engine {engine!r}. Allowed are {', '.join(ENGINES)}.")
    options = options or Options()
    image, template = prepare(pair, options.bg_size_pix)
    extra = options.hotpants
    least = max(_ENOUGH_STARS, int(extra.nft * extra.nsx * extra.nsy))
    stars = find_enough(image, template, extra.ft, extra.sft, least)
    widths = (
        pair.fwhm_pix or measure_fwhm(image, stars),
        pair.template_fwhm_pix or measure_fwhm(template, stars),
    )
    log(f"{len(stars)} stars in image and template, FWHM {widths[0]:.2f} and {widths[1]:.2f} pixels")
    image, template = fill_cores(image, widths[0]), fill_cores(template, widths[1])
    # those of STDPipe take seconds to import
    run = import_module(f".{engine}", __name__)
    found: Difference = run.subtract(image, template, stars, widths, options=options, log=log)
    log(f"Difference: scale {found.scale:.6g}, {100 * found.mask.mean():.2f} % of the pixels masked")
    return found
