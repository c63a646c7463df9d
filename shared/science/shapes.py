"""Shapes of detections: the image's FWHM, and which detections are no stars, galaxies or blends at all."""

from collections.abc import Callable
from typing import Final

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

FLAG_ODD_SHAPE: Final = 0x4000
"""STDPipe's bit for detections that look like artefacts."""

_FWHM_SN: Final = 20.0
_FEW_STARS: Final = 5
_FEW_OBJECTS: Final = 30
"""With fewer the forest has nothing to learn from."""
_NEIGHBOURS: Final = 100
"""Objects of similar brightness that say what is usual at it."""
_ODD_SIGMA: Final = 4.0
_TREES: Final = 60

Log = Callable[..., None]


def estimate_fwhm(objects: Table, log: Log) -> float | None:
    """Give the median of 2×FLUX_RADIUS, pixels, of unflagged objects with S/N > 20; None when nothing has a size.

    Where fewer than five are that good, the S/N and then the flags are given up, and the log says so.
    """
    width = 2 * np.asarray(objects["FLUX_RADIUS"], float)
    sized = np.isfinite(width) & (width > 0)
    clean = sized & (np.asarray(objects["flags"]) == 0)
    bright = clean & (np.asarray(objects["flux"]) > _FWHM_SN * np.asarray(objects["fluxerr"]))
    for good, words in ((bright, ""), (clean, "fainter "), (sized, "fainter or flagged ")):
        if good.sum() >= _FEW_STARS or (good is sized and good.any()):
            if words:
                log(f"Few good stars: FWHM from {good.sum()} {words}objects")
            return float(np.median(width[good]))
    return None


def features(objects: Table) -> NDArray[np.float64]:
    """Give log half-light radius, log FWHM and log peak per flux, one row an object; NaN where not positive."""
    width, fwhm = np.asarray(objects["FLUX_RADIUS"], float), np.asarray(objects["fwhm"], float)
    peak, total = np.asarray(objects["FLUX_MAX"], float), np.asarray(objects["FLUX_AUTO"], float)
    columns = np.stack([width, fwhm, peak / np.where(total > 0, total, np.nan)], axis=-1)
    return np.log(np.where(columns > 0, columns, np.nan))


def odd_shapes(objects: Table, log: Log) -> NDArray[np.bool_]:
    """Tell which objects have a shape unlike others of their brightness (isolation forest; Liu, Ting & Zhou 2008).

    STDPipe's `filter_sextractor_detections` takes away a tenth of perfectly good stars, most of them faint, because
    its features scatter more where the noise is larger. Here each feature is first compared with what is usual among
    objects of the same brightness, and an outlier of the forest must also be 4 sigma off in one of them.
    """
    odd = np.zeros(len(objects), bool)
    values = features(objects)
    fit = np.isfinite(values).all(axis=1) & (np.asarray(objects["flags"]) & ~FLAG_ODD_SHAPE == 0)
    if fit.sum() < _FEW_OBJECTS:
        log(f"Only {fit.sum()} clean objects: shapes are not filtered")
        return odd
    from sklearn.ensemble import IsolationForest

    deviations = _deviations(values, np.asarray(objects["mag"], float), fit)
    broken = ~np.isfinite(deviations).all(axis=1)
    deviations = np.clip(np.nan_to_num(deviations, nan=-50.0), -50.0, 50.0)
    candidates = np.abs(deviations).max(axis=1) > _ODD_SIGMA
    forest = IsolationForest(n_estimators=_TREES, random_state=0).fit(deviations[fit])
    if candidates.any():
        odd[candidates] = forest.predict(deviations[candidates]) < 0
    return odd | broken


def _deviations(values: NDArray[np.float64], mag: NDArray[np.float64], fit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scale features by median and scatter among the clean objects next in brightness."""
    order = np.flatnonzero(fit)[np.argsort(mag[fit], kind="stable")]
    size = min(_NEIGHBOURS, order.size)
    starts = np.arange(0, order.size - size + 1, max(size // 2, 1))
    knots, centres, scatters = [], [], []
    for start in starts:
        group = order[start : start + size]
        knots.append(np.median(mag[group]))
        centres.append(np.median(values[group], axis=0))
        scatters.append(1.4826 * np.median(np.abs(values[group] - centres[-1]), axis=0))
    at = np.where(np.isfinite(mag), mag, knots[-1])
    centre = np.stack([np.interp(at, knots, column) for column in np.transpose(centres)], axis=-1)
    scatter = np.stack([np.interp(at, knots, column) for column in np.transpose(scatters)], axis=-1)
    return np.asarray((values - centre) / np.maximum(scatter, 0.02), np.float64)


def dilated(segmentation: NDArray[np.int32], pixels: int = 2) -> NDArray[np.bool_]:
    """Give the pixels of all objects, grown by a square of `pixels` to each side."""
    grown = segmentation > 0
    for axis in (0, 1):
        start = grown.copy()
        for shift in range(1, pixels + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(ahead)] |= start[tuple(behind)]
            grown[tuple(behind)] |= start[tuple(ahead)]
    return grown
