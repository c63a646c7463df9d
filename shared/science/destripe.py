"""Stripes along rows and columns, as of readout electronics: one offset a line, found among pixels of empty sky."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter, uniform_filter

Floats = NDArray[np.float32]

_MESH_PIX: Final = (32, 256)
"""Least and greatest side of a cell of the sky model."""

_MESHES_PER_SIDE: Final = 8
_BLOCK_PIXELS: Final = 4_000_000
_MIN_PIXELS: Final = 8
"""A line with fewer usable pixels is left as it is."""

_SAMPLE_PIXELS: Final = 2048
_CLIP: Final = 3.0
_TREND_ROUNDS: Final = 3
_SMOOTH_PIX: Final = 5
_ROUNDS: Final = 2
_MAD: Final = 1.4826


def remove_stripes(image: Floats, *, rows: bool, columns: bool) -> float:
    """Take the stripes out of an image, in place.

    Each line gets one offset: the clipped mean of its pixels of empty sky over a smooth model of the sky. The offsets
    have the median zero, so that the level of the sky stays, and so do its gradients and large objects. Pixels that
    are not finite stay as they are.

    Parameters
    ----------
    image
        The image.
    rows
        Whether to remove horizontal stripes, which differ from row to row.
    columns
        Whether to remove vertical ones.

    Returns
    -------
    float
        RMS of the offsets that were subtracted, in the unit of the image.
    """
    sky = _Sky.of(image, rows=rows, columns=columns)
    removed = [np.zeros(image.shape[0]), np.zeros(image.shape[1])]
    sources: NDArray[np.bool_] | None = None
    for turn in range(_ROUNDS):
        if turn:
            sky = _Sky.of(image, rows=rows, columns=columns)
            sources = _sources(image, sky)
        if rows:
            removed[0] += _level(image, sky, sources)
        if columns:
            turned = None if sources is None else sources.T
            removed[1] += _level(image.T, sky.turned(), turned)
    return float(np.sqrt(sum(np.mean(offsets**2) for offsets in removed)))


class _Sky:
    """Sky on a coarse grid, interpolated between the centres of its cells.

    Parameters
    ----------
    values
        In the cells.
    up, along
        Weights of the cells for each row, and for each column.
    """

    def __init__(self, values: Floats, up: Floats, along: Floats) -> None:
        self._values = values
        self._up = up
        self._along = along

    @classmethod
    def of(cls, image: Floats, *, rows: bool, columns: bool) -> "_Sky":
        """Take the median of each cell, and of its neighbours about the trend, so that no bright object counts.

        What is the same in all cells of a row, beyond the trend, counts as stripes where these are looked for.
        """
        mesh = int(np.clip(min(image.shape) // _MESHES_PER_SIDE, *_MESH_PIX))
        edges = [_edges(length, mesh) for length in image.shape]
        values = np.full([len(each) - 1 for each in edges], np.nan)
        for j, i in np.ndindex(*values.shape):
            cell = image[edges[0][j] : edges[0][j + 1], edges[1][i] : edges[1][i + 1]]
            flat = cell.reshape(1, -1)
            values[j, i] = _centres(flat, np.isfinite(flat), robust=True)[0]
        trend = _trend(values)
        rest = np.where(np.isfinite(values), values - trend, 0)
        for wanted, axis in ((rows, 1), (columns, 0)):
            if wanted:
                rest = rest - np.median(rest, axis=axis, keepdims=True)
        model = (trend + median_filter(rest, 3, mode="nearest")).astype(np.float32)
        return cls(model, *(_weights(each) for each in edges))

    def turned(self) -> "_Sky":
        """Exchange rows and columns."""
        return _Sky(self._values.T, self._along, self._up)

    def rows(self, start: int, stop: int) -> Floats:
        """Give some rows of the model."""
        return np.asarray(self._up[start:stop] @ self._values @ self._along.T, np.float32)


def _edges(length: int, mesh: int) -> NDArray[np.intp]:
    return np.linspace(0, length, max(length // mesh, 1) + 1).round().astype(np.intp)


def _weights(edges: NDArray[np.intp]) -> Floats:
    """Weights of linear interpolation between centres of cells, going on outside; rows are pixels, columns cells."""
    centres = (edges[:-1] + edges[1:] - 1) / 2
    pixels = np.arange(edges[-1])
    weights = np.zeros((len(pixels), len(centres)), np.float32)
    if len(centres) == 1:
        weights[:] = 1
        return weights
    left = np.clip(np.searchsorted(centres, pixels) - 1, 0, len(centres) - 2)
    share = (pixels - centres[left]) / (centres[left + 1] - centres[left])
    weights[pixels, left] = 1 - share
    weights[pixels, left + 1] = share
    return weights


def _trend(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a paraboloid to the known cells, so that the filter of neighbours does not bend gradients at the edges."""
    y, x = np.indices(values.shape, float)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]).reshape(6, -1)
    flat = values.ravel()
    used = np.isfinite(flat)
    fit = np.zeros(flat.size)
    for _ in range(_TREND_ROUNDS):
        if not used.any():
            break
        fit = np.linalg.lstsq(terms[:, used].T, flat[used], rcond=None)[0] @ terms
        off = np.abs(flat - fit)
        used = np.isfinite(flat) & (off <= _CLIP * _MAD * np.median(off[used]))
    return fit.reshape(values.shape)


def _middle(ordered: Floats) -> Floats:
    """Give the median of each line, whose values are in order with NaN behind; NaN where there are too few."""
    count = (~np.isnan(ordered)).sum(axis=1)
    lines = np.arange(len(ordered))
    middle: Floats = (ordered[lines, np.maximum(count - 1, 0) // 2] + ordered[lines, count // 2]) / 2
    middle[count < _MIN_PIXELS] = np.nan
    return middle


def _centres(lines: Floats, good: NDArray[np.bool_], *, robust: bool) -> NDArray[np.float64]:
    """Give the median, or the mean, of the good values of each line without outliers; NaN where there are too few."""
    # medians take longest, and a sample is good enough for the bounds
    step = lines.shape[1] // _SAMPLE_PIXELS | 1  # an odd step meets all columns of a cell
    sample = np.where(good[:, ::step], lines[:, ::step], np.float32(np.nan))
    sample.sort(axis=1)
    median = _middle(sample)[:, np.newaxis]
    off = np.abs(sample - median)
    bound = _CLIP * _MAD * _middle(np.sort(off, axis=1))[:, np.newaxis]
    if robust:
        kept = np.where(off <= bound, sample, np.float32(np.nan))
        kept.sort(axis=1)
        return _middle(kept).astype(np.float64)
    used = good & (np.abs(lines - median) <= bound)
    count = used.sum(axis=1)
    total = np.where(used, lines, 0).sum(axis=1, dtype=np.float64)
    return np.where(count >= _MIN_PIXELS, total / np.maximum(count, 1), np.nan)


def _level(lines: Floats, sky: _Sky, sources: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Subtract the offset of each line, in place; gives the offsets."""
    offsets = np.zeros(len(lines))
    step = _step(lines)
    for start in range(0, len(lines), step):
        stop = min(start + step, len(lines))
        # columns lie far apart in memory: they are brought together once
        block = np.ascontiguousarray(lines[start:stop]) - sky.rows(start, stop)
        good = np.isfinite(block)
        if sources is not None:
            good &= ~sources[start:stop]
        offsets[start:stop] = _centres(block, good, robust=sources is None)
    known = np.isfinite(offsets)
    offsets[known] -= np.median(offsets[known]) if known.any() else 0
    offsets[~known] = 0
    for start in range(0, len(lines), step):
        lines[start : start + step] -= offsets[start : start + step, np.newaxis].astype(np.float32)
    return offsets


def _step(lines: Floats) -> int:
    return max(_BLOCK_PIXELS // int(lines.shape[1]), 1)


def _sources(image: Floats, sky: _Sky) -> NDArray[np.bool_]:
    """Find what stands out of the sky: stars with their wings, and dark blemishes."""
    found = np.zeros(image.shape, np.bool_)
    margin = _SMOOTH_PIX // 2
    step = _step(image)
    for start in range(0, len(image), step):
        low, high = max(start - margin, 0), min(start + step + margin, len(image))
        block = image[low:high] - sky.rows(low, high)
        finite = np.isfinite(block)
        block[~finite] = 0
        smooth = uniform_filter(block, _SMOOTH_PIX, mode="nearest")
        sample = smooth[::3, ::3][finite[::3, ::3]]
        if sample.size:
            centre = np.median(sample)
            spread = _MAD * np.median(np.abs(sample - centre))
            part = np.abs(smooth - centre) > _CLIP * spread
            found[start : min(start + step, len(image))] = part[start - low : start - low + step]
    return found
