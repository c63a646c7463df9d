"""The engine `sfft`: a kernel of free pixels (Hu et al. 2022, ApJ 936, 157), by STDPipe.

STDPipe's solver does not remove backgrounds of its own: on raw images the difference sits many sigma high.
"""

from typing import Final

import numpy as np
from astropy.table import Table
from stdpipe import sfft as stdpipe_sfft
from stdpipe import subtraction as stdpipe_subtraction

from ...errors import DataError, UsageError
from .basis import piece_radius
from .compose import Measured, compose, side_of
from .convolve import Match
from .model import Difference, Log, Options
from .prepare import Frame
from .stars import Stars

_MIN_SIDE_PIX: Final = 9
_MAX_SIDE_PIX: Final = 15
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
        When good pixels are too few.
    """
    orders = _orders(options)
    side = side_of(*fwhm_pix, None)
    kernel = kernel_side(fwhm_pix)
    log(f"Subtracting with SFFT, kernel of {kernel} x {kernel} pixels; the {side} is convolved")
    target, source = (image, template) if side == "template" else (template, image)
    noise = np.sqrt(target.variance)
    try:
        difference, convolved, total, found = stdpipe_subtraction.run_sfft(
            target.pixels,
            source.pixels,
            mask=target.bad,
            template_mask=source.bad,
            err=noise,
            template_err=np.sqrt(source.variance),
            kernel_shape=(kernel, kernel),
            kernel_poly_order=orders[0],
            bg_poly_order=orders[1],
            flux_poly_order=orders[2],
            # the noise of a source's empty sky would make the kernel's sum too small
            obj=Table({"x": stars.x, "y": stars.y, "flux": stars.peak}),
            obj_size=piece_radius(max(fwhm_pix)),
            get_convolved=True,
            get_noise=True,
            get_kernel=True,
            verbose=log,
        )
    except (RuntimeError, np.linalg.LinAlgError) as error:
        raise DataError(
            "sfft_failed",
            "This image and its template cannot be matched by SFFT: too few good pixels. Check the masks and that the "
            "template covers the field, or lower the sfft orders.",
            reason=str(error),
        ) from error
    rows, columns = image.shape
    y, x = np.arange(rows), np.arange(columns)
    scale_map = np.empty(image.shape, np.float32)
    for row in y:
        scale_map[row] = stdpipe_sfft.evaluate_flux_scale(found, x, np.full(columns, row), image.shape)
    scale = float(stdpipe_sfft.evaluate_flux_scale(found, columns / 2, rows / 2, image.shape))
    if not scale > 0 or scale_map.min() <= 0:
        raise DataError(
            "sfft_failed",
            "SFFT finds no stars in common in this image and its template. Check the astrometry of both, or lower the "
            "sfft orders.",
        )
    match = Match(
        convolved.astype(np.float32),
        (target.pixels - convolved - difference).astype(np.float32),
        np.maximum(total**2 - noise**2, 0).astype(np.float32),
        scale_map,
        source.bad | found.dmask,
    )
    del difference, convolved, total
    nothing = float("nan")
    measured = Measured(scale if side == "template" else 1 / scale, nothing, nothing, max(fwhm_pix), 0)
    if side == "template":
        measured = Measured(scale, nothing, nothing, fwhm_pix[0], 0)
    return compose(target, match, side, measured, options)


def _orders(options: Options) -> tuple[int, int, int]:
    orders = (options.sfft_kernel_poly_order, options.sfft_bg_poly_order, options.sfft_flux_poly_order)
    if any(order not in range(_MAX_ORDER + 1) for order in orders):
        raise UsageError("sfft_orders", f"The sfft orders must be whole numbers from 0 to {_MAX_ORDER}.")
    if orders[2] > orders[0]:
        raise UsageError(
            "sfft_orders",
            f"sfft_flux_poly_order ({orders[2]}) must not be above sfft_kernel_poly_order ({orders[0]}): the scale is "
            "the sum of the kernel.",
        )
    return orders
