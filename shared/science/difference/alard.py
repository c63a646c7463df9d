"""The engine `hotpants` without the HOTPANTS program: our own Alard-Lupton solver over regions of the frame."""

from itertools import pairwise
from typing import Final

import numpy as np

from ...contracts.params.hotpants import HotpantsExtra
from .basis import matching_basis, piece_radius
from .convolve import Match, apply
from .model import Log
from .pieces import cut
from .prepare import Frame
from .solver import Orders, Solution, solve
from .stars import Box, Stars, spread

_SCALE_ORDER: Final = 2
"""Of the photometric scale: flat fields differ, and a star more or less is no matter here."""


def match(
    target: Frame,
    source: Frame,
    stars: Stars,
    fwhm_pix: tuple[float, float],
    *,
    extra: HotpantsExtra,
    threads: int,
    log: Log,
) -> tuple[Match, list[Solution]]:
    """Turn the source into the target.

    Parameters
    ----------
    fwhm_pix
        Of target and source.
    """
    basis = matching_basis(*fwhm_pix, gaussians=extra.gaussians, radius=extra.r)
    half = extra.rss or piece_radius(max(fwhm_pix))
    smallest = min(target.shape)
    half = min(half, max((smallest - 2 * basis.radius - 2) // 4, 3))
    orders = Orders(max(extra.ko, _SCALE_ORDER), extra.ko, extra.bgo)
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


def regions(shape: tuple[int, int], rows: int, columns: int) -> list[Box]:
    """Cut the frame into regions."""
    y = np.linspace(0, shape[0], rows + 1).astype(int).tolist()
    x = np.linspace(0, shape[1], columns + 1).astype(int).tolist()
    return [Box(top, bottom, left, right) for top, bottom in pairwise(y) for left, right in pairwise(x)]
