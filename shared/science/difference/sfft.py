"""The engine `sfft`: a kernel of free pixels (Hu et al. 2022, ApJ 936, 157).

Own code where STDPipe has the same: it sums over every pixel of the frame, zero weights included, which takes ten times
as long; and the noise of a shallow template shrinks its kernel, by 5 % when template and image are equally deep. Here
it is the kernel of our Alard-Lupton solver with other functions.
"""

from typing import Final

import numpy as np

from ...contracts.params.hotpants import HotpantsExtra
from ...errors import UsageError
from . import alard
from .basis import Basis, matching_basis
from .compose import compose, side_of
from .free import FreePixels
from .model import Difference, Log, Options
from .prepare import Frame
from .solver import Orders
from .stars import Stars

_MIN_SIDE_PIX: Final = 9
_MAX_SIDE_PIX: Final = 11
_SIGMAS: Final = 2.5
_FWHM_PER_SIGMA: Final = 2.3548
_MAX_ORDER: Final = 4


def kernel_side(fwhm_pix: tuple[float, float]) -> int:
    """Choose the side of the kernel, pixels, by the widths of stars in image and template."""
    sigma = np.sqrt(abs(fwhm_pix[0] ** 2 - fwhm_pix[1] ** 2)) / _FWHM_PER_SIGMA
    return int(np.clip(2 * np.ceil(_SIGMAS * sigma) + 1, _MIN_SIDE_PIX, _MAX_SIDE_PIX))


def subtract(
    image: Frame, template: Frame, stars: Stars, fwhm_pix: tuple[float, float], *, options: Options, log: Log
) -> Difference:
    """Subtract.

    Raises
    ------
    UsageError
        When the orders do not go together.
    DataError
        When too few stars match.
    """
    orders = _orders(options)
    side = side_of(*fwhm_pix, None)
    kernel = kernel_side(fwhm_pix)
    log(f"Subtracting with a kernel of {kernel} x {kernel} free pixels (SFFT); the {side} is convolved")
    whole = matching_basis(*fwhm_pix)
    wings = Basis(whole.gaussians[1:], whole.radius)
    target, source = (image, template) if side == "template" else (template, image)
    match, solutions = alard.match(
        target,
        source,
        stars,
        (FreePixels(kernel // 2, wings), orders),
        fwhm_pix=max(fwhm_pix),
        extra=HotpantsExtra(),
        threads=options.threads,
        log=log,
    )
    width = fwhm_pix[0] if side == "template" else fwhm_pix[1]
    return compose(target, match, side, alard.measured(solutions, image.shape, side, width), options)


def _orders(options: Options) -> Orders:
    orders = (options.sfft_kernel_poly_order, options.sfft_bg_poly_order, options.sfft_flux_poly_order)
    if any(order not in range(_MAX_ORDER + 1) for order in orders):
        raise UsageError("sfft_orders", f"The sfft orders must be whole numbers from 0 to {_MAX_ORDER}.")
    if orders[2] > orders[0]:
        raise UsageError(
            "sfft_orders",
            f"sfft_flux_poly_order ({orders[2]}) must not be above sfft_kernel_poly_order ({orders[0]}): the scale is "
            "the sum of the kernel.",
        )
    return Orders(scale=orders[2], kernel=orders[0], background=orders[1])
