"""Laying one image of a stack over the first one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from astropy.wcs import WCS

from shared.science.stacking_grid import Placement, Transform, place, wcs_transform
from shared.science.stacking_input import Prepared
from shared.science.stacking_stars import (
    Stars,
    bright,
    expected_pairs,
    find_stars,
    flux_scale,
    match_stars,
    pairs_of,
)
from shared.science.wcs import usable_wcs

Log = Callable[..., None]

_PAIR_RADIUS_PIX: Final = 1.5
_EXPECTED_STARS: Final = 8
_AGREEING_SHARE: Final = 0.4
_SCALE_SIGMA: Final = 3.0
_SAME_SCALE: Final = 0.01


class LeftOut(Exception):
    """An image cannot be part of the stack; the text says why."""


@dataclass(frozen=True)
class First:
    """The image that gives the grid."""

    name: str
    shape: tuple[int, int]
    wcs: WCS | None
    stars: Stars
    exposure_s: float | None

    @classmethod
    def of(cls, one: Prepared, log: Log) -> "First":
        """Look at the first image of a stack."""
        wcs = usable_wcs(one.header)
        stars = find_stars(one.image, one.flags > 0, one.noise_adu)
        place = "with" if wcs is not None else "without usable"
        log(f"{one.name} gives the grid, {place} world coordinates, with {len(stars)} clean stars")
        return cls(one.name, (one.image.shape[0], one.image.shape[1]), wcs, stars, one.facts.exposure_s)


@dataclass(frozen=True)
class Laid:
    """Where an image lies on the grid.

    Parameters
    ----------
    scale
        Flux of a star over that in the first image.
    fwhm_pix
        Of its stars, on the grid; NaN when unknown.
    """

    placement: Placement
    scale: float
    fwhm_pix: float


def lay_over(first: First, one: Prepared, log: Log) -> Laid:
    """Find where an image lies, and its scale of fluxes.

    Raises
    ------
    LeftOut
        When it cannot be found, or has nothing in common with the first image.
    """
    shape = (one.image.shape[0], one.image.shape[1])
    wcs = usable_wcs(one.header)
    stars = find_stars(one.image, one.flags > 0, one.noise_adu)
    if first.wcs is not None and wcs is not None:
        transform = _checked(first, stars, wcs_transform(first.wcs, wcs), shape, name=one.name, log=log)
    else:
        found = match_stars(first.stars, stars)
        if found is None:
            raise LeftOut(
                f"{one.name} cannot be aligned: without world coordinates it needs stars in common with "
                f"{first.name}, and none of its {len(stars)} were found there"
            )
        transform = found[0]
        log(f"{one.name}: aligned by {found[1]} stars")
    placement = place(transform, first.shape)
    if not _overlaps(placement, shape):
        raise LeftOut(f"{one.name} shows another part of the sky than {first.name}")
    scale = _scale_of(first, one, stars, transform, log)
    return Laid(placement, scale, stars.fwhm_pix / math.sqrt(placement.mean_area))


def _overlaps(placement: Placement, shape: tuple[int, int]) -> bool:
    x, y = placement.x + 0.5, placement.y + 0.5
    return bool(((x > 0) & (x < shape[1]) & (y > 0) & (y < shape[0])).any())  # NaN is nowhere


def _checked(
    first: First, stars: Stars, transform: Transform, shape: tuple[int, int], *, name: str, log: Log
) -> Transform:
    """Take the way by the sky, unless the stars tell that one of the two solutions is wrong, and find a better one."""
    expected = expected_pairs(first.stars, transform, shape)
    here, there = pairs_of(bright(first.stars), stars, transform, _PAIR_RADIUS_PIX)
    if expected < _EXPECTED_STARS or len(here) >= _AGREEING_SHARE * expected:
        if len(here):
            x, y = transform(first.stars.x[here], first.stars.y[here])
            off = np.median(np.hypot(stars.x[there] - x, stars.y[there] - y))
            log(f"{name}: aligned by world coordinates, {len(here)} stars within {off:.2f} pixels")
        else:
            log(f"{name}: aligned by world coordinates")
        return transform
    found = match_stars(first.stars, stars)
    if found is None:
        log(f"Warning: {name}: few stars agree with its world coordinates, which are used all the same")
        return transform
    log(f"Warning: {name}: its world coordinates disagree with {first.name}; aligned by {found[1]} stars instead")
    return found[0]


def _scale_of(first: First, one: Prepared, stars: Stars, transform: Transform, log: Log) -> float:
    expected = one.facts.exposure_s / first.exposure_s if one.facts.exposure_s and first.exposure_s else 1.0
    measured = flux_scale(first.stars, stars, pairs_of(first.stars, stars, transform, _PAIR_RADIUS_PIX))
    if measured is None:
        log(f"Warning: {one.name}: too few stars to measure its scale of fluxes, {expected:.4g} is taken")
        return expected
    scale, error = measured
    if abs(scale - expected) <= max(_SCALE_SIGMA * error, _SAME_SCALE * expected):
        return expected
    log(f"{one.name}: stars are {scale:.4f} times as bright as in {first.name}")
    return scale
