"""Our own Alard-Lupton solver over regions of the frame."""

from itertools import pairwise
from typing import Final

import numpy as np

from ...contracts.params.hotpants import HotpantsExtra
from .basis import matching_basis, piece_radius
from .compose import Measured, Side
from .convolve import Match, apply
from .model import Log
from .pieces import SourceBasis, cut
from .prepare import Frame
from .solver import Orders, Solution, solve
from .stars import Box, Stars, spread

_SCALE_ORDER: Final = 2
"""Of the photometric scale: flat fields differ, and a star more or less is no matter here."""


def gaussian_kernel(fwhm_pix: tuple[float, float], extra: HotpantsExtra) -> tuple[SourceBasis, Orders]:
    """Choose basis and orders of Alard and Lupton's kernel.

    Parameters
    ----------
    fwhm_pix
        Of target and source.
    """
    basis = matching_basis(*fwhm_pix, gaussians=extra.gaussians, radius=extra.r)
    return basis, Orders(max(extra.ko, _SCALE_ORDER), extra.ko, extra.bgo)


def match(
    target: Frame,
    source: Frame,
    stars: Stars,
    kernel: tuple[SourceBasis, Orders],
    *,
    fwhm_pix: float,
    extra: HotpantsExtra,
    threads: int,
    log: Log,
) -> tuple[Match, list[Solution]]:
    """Turn the source into the target.

    Parameters
    ----------
    kernel
        Of what it is made, and how it may vary.
    fwhm_pix
        Of the wider stars.
    extra
        Regions and choice of stars.
    """
    basis, orders = kernel
    half = extra.rss or piece_radius(fwhm_pix)
    smallest = min(target.shape)
    half = min(half, max((smallest - 2 * basis.radius - 2) // 4, 3))
    log(
        f"Kernel: {basis.size} functions, half-width {basis.radius} pixels, pieces of {2 * half + 1} pixels, orders of "
        f"scale, shape and background {orders.scale} {orders.kernel} {orders.background}"
    )
    solutions = []
    for box in regions(target.shape, extra.nry, extra.nrx):
        chosen = spread(stars, box, (extra.nsy, extra.nsx), extra.nss)
        order = np.argsort(-chosen.peak, kind="stable")
        pieces = cut(target, source, chosen.take(order), basis, half)
        solutions.append(solve(pieces, basis, orders, box, reject_sigma=extra.ks, log=log))
    return apply(target.variance, source, solutions, extra.kfm, threads), solutions


def measured(solutions: list[Solution], shape: tuple[int, int], side: Side, fwhm_pix: float) -> Measured:
    """Sum up what the solutions tell, on the zero point of the image.

    Parameters
    ----------
    side
        What was convolved.
    fwhm_pix
        Of stars in the difference.
    """
    rows, columns = shape
    y, x = np.array(rows / 2), np.array(columns / 2)
    middle = min(solutions, key=lambda one: float(np.hypot(*one.at(x, y))))
    scale = float(middle.scale_at(x, y))
    error = middle.scale_error
    if side == "image":
        scale, error = 1 / scale, error / scale**2
    return Measured(scale, error, middle.scatter, fwhm_pix, sum(one.stars for one in solutions))


def regions(shape: tuple[int, int], rows: int, columns: int) -> list[Box]:
    """Cut the frame into regions."""
    y = np.linspace(0, shape[0], rows + 1).astype(int).tolist()
    x = np.linspace(0, shape[1], columns + 1).astype(int).tolist()
    return [Box(top, bottom, left, right) for top, bottom in pairwise(y) for left, right in pairwise(x)]
