"""Drawing of stars and galaxies into an image."""

import math
from typing import Final

import numba
import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BETA: Final = 3.0
FAINTEST_LEVEL_ADU: Final = 0.2  # a profile is drawn to where it falls below this
LARGEST_RADIUS_PIX: Final = 300.0
SCALE_RADIUS_PER_HALF_LIGHT: Final = 1 / 1.6783  # of an exponential disc
GOLDEN_ANGLE_RAD: Final = math.pi * (3 - math.sqrt(5))


def moffat_alpha_pix(fwhm_pix: float) -> float:
    """Give the core radius of a Moffat profile of exponent 3."""
    return fwhm_pix / (2 * math.sqrt(2 ** (1 / BETA) - 1))


def aperture_fraction(radius_pix: float, fwhm_pix: float) -> float:
    """Tell which part of a star's flux an aperture sum over pixels finds within a radius.

    The integral of the Moffat profile, less what pixels of unit width spread outwards: they blur once when the light
    is collected and once when a pixel at the rim is shared, each time by a variance of 1/12 along both axes.
    """
    alpha = moffat_alpha_pix(fwhm_pix)
    shape = 1 + (radius_pix / alpha) ** 2
    slope = -2 * BETA * (BETA - 1) / math.pi * radius_pix / alpha**4 * shape ** (-BETA - 1)
    return float(1 - shape ** (1 - BETA) + 2 / 24 * 2 * math.pi * radius_pix * slope)


@numba.njit(cache=True)
def _draw(image: Floats, stars: Floats, alpha: float, level: float) -> None:
    # 4-point Gauss-Legendre nodes and weights on a pixel of unit width
    nodes = np.array([-0.43056815579702629, -0.16999052179242813, 0.16999052179242813, 0.43056815579702629])
    weights = np.array([0.17392742256872693, 0.32607257743127307, 0.32607257743127307, 0.17392742256872693])
    height, width = image.shape
    peak_per_flux = 2.0 / (math.pi * alpha * alpha)  # (beta - 1) / (pi alpha^2)
    core2 = (3 * alpha) ** 2
    for star in range(stars.shape[1]):
        x0, y0, peak = stars[0, star], stars[1, star], stars[2, star] * peak_per_flux
        reach = alpha * math.sqrt(max((max(peak / level, 1.0)) ** (1 / 3.0) - 1, 9.0))
        reach = min(reach, LARGEST_RADIUS_PIX)
        first_x, last_x = max(0, math.ceil(x0 - reach)), min(width - 1, math.floor(x0 + reach))
        first_y, last_y = max(0, math.ceil(y0 - reach)), min(height - 1, math.floor(y0 + reach))
        for row in range(first_y, last_y + 1):
            for column in range(first_x, last_x + 1):
                dx, dy = column - x0, row - y0
                r2 = dx * dx + dy * dy
                if r2 > reach * reach:
                    continue
                if r2 < core2:
                    mean = 0.0
                    for j in range(4):
                        for i in range(4):
                            u, v = dx + nodes[i], dy + nodes[j]
                            shape = 1 + (u * u + v * v) / (alpha * alpha)
                            mean += weights[i] * weights[j] / (shape * shape * shape)
                else:  # far out the curvature over a pixel is enough: mean = f + (f_xx + f_yy) / 24
                    shape = 1 + r2 / (alpha * alpha)
                    value = 1 / (shape * shape * shape)
                    curvature = (48 * r2 / (alpha * alpha) / shape - 12) * value / (shape * alpha * alpha)
                    mean = value + curvature / 24
                image[row, column] += peak * mean


def draw_stars(image: Floats, xs: Floats, ys: Floats, fluxes: Floats, fwhm_pix: float) -> None:
    """Add Moffat profiles, integrated over pixels, to an image in ADU; positions are 0-based pixels."""
    stars = np.array([xs, ys, fluxes], dtype=np.float64)
    _draw(image, stars, moffat_alpha_pix(fwhm_pix), FAINTEST_LEVEL_ADU)


def draw_galaxies(image: Floats, galaxies: Table, fwhm_pix: float, pixel_scale_arcsec: float) -> None:
    """Add exponential discs, each as a spiral of points blurred by the point spread function.

    Parameters
    ----------
    image
        Taken and changed, ADU.
    galaxies
        Centres `x y` in 0-based pixels, `flux` in ADU, half-light radius `re` in arcsec, axis ratio `q`, position angle
        `pa` from the x axis in radians.
    fwhm_pix
        Of the point spread function.
    pixel_scale_arcsec
        Scale of the image.
    """
    for row in galaxies.iterrows("x", "y", "flux", "re", "q", "pa"):
        x, y, flux, re_arcsec, ratio, angle = map(float, row)
        re_pix = re_arcsec / pixel_scale_arcsec
        count = int(np.clip(30 * (re_pix / fwhm_pix) ** 2 + 40, 40, 1500))
        radii, turns = _disc(count, re_pix)
        u, v = radii * np.cos(turns), radii * np.sin(turns) * ratio
        points_x = x + u * math.cos(angle) - v * math.sin(angle)
        points_y = y + u * math.sin(angle) + v * math.cos(angle)
        draw_stars(image, points_x, points_y, np.full(count, flux / count), fwhm_pix)


def _disc(count: int, re_pix: float) -> tuple[Floats, Floats]:
    radius = np.linspace(0, 8, 400)
    enclosed = 1 - (1 + radius) * np.exp(-radius)  # light within r scale lengths
    ranks = (np.arange(count) + 0.5) / count * enclosed[-1]
    radii: Floats = np.interp(ranks, enclosed, radius) * re_pix * SCALE_RADIUS_PER_HALF_LIGHT
    return radii, np.arange(count, dtype=np.float64) * GOLDEN_ANGLE_RAD
