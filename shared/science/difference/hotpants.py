"""The engine `hotpants`: the HOTPANTS program where it is installed, else our own solver."""

from . import alard, program
from .compose import compose, side_of
from .model import Difference, Log, Options
from .prepare import Frame
from .stars import Stars

_UNUSED = ("kcs", "ssig")


def subtract(
    image: Frame, template: Frame, stars: Stars, fwhm_pix: tuple[float, float], *, options: Options, log: Log
) -> Difference:
    """Subtract.

    Parameters
    ----------
    fwhm_pix
        Of image and template.
    """
    extra = options.hotpants
    if options.program is not None:
        return program.subtract(image, template, stars, fwhm_pix, options=options, program=options.program, log=log)
    log("Subtracting with the Alard-Lupton solver")
    unused = sorted(extra.model_fields_set.intersection(_UNUSED))
    if unused:
        log(f"Without effect here, for the HOTPANTS program only: {' '.join(unused)}")
    side = side_of(*fwhm_pix, extra.c)
    log(f"The {side} is convolved")
    target, source = (image, template) if side == "template" else (template, image)
    widths = fwhm_pix if side == "template" else fwhm_pix[::-1]
    match, solutions = alard.match(
        target,
        source,
        stars,
        alard.gaussian_kernel(widths, extra),
        fwhm_pix=max(widths),
        extra=extra,
        threads=options.threads,
        log=log,
    )
    return compose(target, match, side, alard.measured(solutions, image.shape, side, widths[0]), options)
