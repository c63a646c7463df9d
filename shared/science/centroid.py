"""Centroids in a Gaussian window, as SExtractor's XWIN_IMAGE and YWIN_IMAGE."""

import math
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

_MAX_ITERATIONS: Final = 12
_TOLERANCE_PIX: Final = 2e-4
_WINDOW_SIGMAS: Final = 4.0
"""Radius within which pixels count, in sigmas of the window."""

_MAX_SHIFT_FWHM: Final = 1.0
"""A centroid that walks further than this from its start has caught a neighbour and is given back unchanged."""


def windowed_centroids(
    image: NDArray[np.float32],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    fwhm_pix: float,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Refine positions by iterating twice the first moment in a Gaussian window (Bertin & Arnouts; Stone 1989).

    Parameters
    ----------
    image
        Background-subtracted image.
    x, y
        First positions, pixels, 0-based.
    fwhm_pix
        FWHM of stars, which is taken as that of the window.
    mask
        True where a pixel is to be ignored.

    Returns
    -------
    x, y
        Refined positions, pixels, 0-based; unchanged where the iteration did not settle nearby.
    """
    none = np.zeros((0, 0), dtype=np.bool_)
    refined: tuple[NDArray[np.float64], NDArray[np.float64]] = _centroids(
        np.ascontiguousarray(image, dtype=np.float32),
        np.ascontiguousarray(x, dtype=np.float64),
        np.ascontiguousarray(y, dtype=np.float64),
        max(float(fwhm_pix), 1.0),
        none if mask is None else np.ascontiguousarray(mask, dtype=np.bool_),
    )
    return refined


@njit(cache=True)
def _centroids(image, x, y, fwhm_pix, mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, C901  compiled
    rows, columns = image.shape
    masked = mask.size > 0
    sigma = fwhm_pix / 2.3548200450309493
    radius = _WINDOW_SIGMAS * sigma
    out_x, out_y = x.copy(), y.copy()
    for k in range(x.size):
        px, py = x[k], y[k]
        settled = False
        for _ in range(_MAX_ITERATIONS):
            if not (0 <= px + 0.5 < columns and 0 <= py + 0.5 < rows):
                break
            total = sum_x = sum_y = 0.0
            for j in range(max(0, math.ceil(py - radius)), min(rows - 1, math.floor(py + radius)) + 1):
                for i in range(max(0, math.ceil(px - radius)), min(columns - 1, math.floor(px + radius)) + 1):
                    dx, dy = i - px, j - py
                    r2 = dx * dx + dy * dy
                    if r2 > radius * radius or (masked and mask[j, i]):
                        continue
                    value = image[j, i]
                    if not math.isfinite(value):
                        continue
                    weighted = value * math.exp(-0.5 * r2 / (sigma * sigma))
                    total += weighted
                    sum_x += weighted * dx
                    sum_y += weighted * dy
            if total <= 0:
                break
            step_x, step_y = 2 * sum_x / total, 2 * sum_y / total
            px += step_x
            py += step_y
            if math.hypot(px - x[k], py - y[k]) > _MAX_SHIFT_FWHM * fwhm_pix:
                break
            if math.hypot(step_x, step_y) < _TOLERANCE_PIX:
                settled = True
                break
        if settled:
            out_x[k], out_y[k] = px, py
    return out_x, out_y
