"""Convolution of a whole frame with a kernel that varies, tile by tile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .model import Mask, Pixels
from .prepare import Frame
from .solver import Solution
from .stars import Box

_TILE_PIX: Final = 512
_DOUBT_SIGMA: Final = 0.5


@dataclass(frozen=True)
class Match:
    """The source as it looks in the target.

    Parameters
    ----------
    model
        Convolved and scaled source, without background.
    background
        What the target has more than the model.
    variance
        Of the model.
    scale
        Photometric scale at each pixel.
    bad
        Pixels with too much of the kernel on bad pixels of the source.
    """

    model: Pixels
    background: Pixels
    variance: Pixels
    scale: Pixels
    bad: Mask


def apply(
    target_variance: Pixels, source: Frame, solutions: list[Solution], good_fraction: float, threads: int
) -> Match:
    """Convolve a frame.

    Parameters
    ----------
    target_variance
        Of what it is matched to.
    solutions
        One for each region; together they cover the frame.
    good_fraction
        Fraction of the kernel's absolute sum that must lie on good pixels.
    """
    shape = source.shape
    model, background, variance, scale = (np.empty(shape, np.float32) for _ in range(4))
    made = Match(model, background, variance, scale, np.zeros(shape, bool))
    tiles = [(solution, tile) for solution in solutions for tile in split(solution.box, _TILE_PIX)]

    def work(job: tuple[Solution, Box]) -> None:
        _tile(target_variance, source, job, good_fraction, made)

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        list(pool.map(work, tiles))
    return made


def split(box: Box, side: int) -> list[Box]:
    """Cut a region into tiles of about equal sides, none longer than `side`."""
    rows = np.linspace(box.top, box.bottom, -(-(box.bottom - box.top) // side) + 1).astype(int).tolist()
    columns = np.linspace(box.left, box.right, -(-(box.right - box.left) // side) + 1).astype(int).tolist()
    return [Box(top, bottom, left, right) for top, bottom in pairwise(rows) for left, right in pairwise(columns)]


def cut_padded(plane: NDArray[np.generic], box: Box, margin: int, fill: float) -> Pixels:
    """Cut a box with a margin around, filled where it leaves the frame."""
    top, bottom = max(box.top - margin, 0), min(box.bottom + margin, plane.shape[0])
    left, right = max(box.left - margin, 0), min(box.right + margin, plane.shape[1])
    found = np.full((box.bottom - box.top + 2 * margin, box.right - box.left + 2 * margin), fill, np.float32)
    row, column = top - box.top + margin, left - box.left + margin
    found[row : row + bottom - top, column : column + right - left] = plane[top:bottom, left:right]
    return found


def _tile(target_variance: Pixels, source: Frame, job: tuple[Solution, Box], good_fraction: float, made: Match) -> None:
    solution, box = job
    margin = solution.kernels.shape[-1] // 2
    y, x = np.mgrid[box.slices].astype(float)
    middle = solution.kernel_at(0.5 * (box.left + box.right), 0.5 * (box.top + box.bottom))
    size = [fft.next_fast_len(side + 2 * margin, real=True) for side in (box.bottom - box.top, box.right - box.left)]

    def transform(plane: Pixels) -> Callable[[NDArray[np.float64]], Pixels]:
        spectrum = fft.rfft2(plane, size)

        def convolved(kernel: NDArray[np.float64]) -> Pixels:
            full = fft.irfft2(spectrum * fft.rfft2(kernel.astype(np.float32), size), size)
            return np.asarray(full[2 * margin : 2 * margin + y.shape[0], 2 * margin : 2 * margin + y.shape[1]])

        return convolved

    pixels = cut_padded(source.pixels, box, margin, 0)
    convolved = transform(pixels)
    shape = convolved(solution.kernels[0])
    if len(solution.kernels) > 1:
        for term, kernel in zip(solution.shape_terms(x, y)[1:], solution.kernels[1:], strict=True):
            shape += term.astype(np.float32) * convolved(kernel)
    scale = solution.scale_at(x, y).astype(np.float32)
    made.scale[box.slices] = scale
    made.model[box.slices] = scale * shape
    made.background[box.slices] = solution.background_at(x, y)
    edge = float(np.median(source.variance[box.slices]))
    variance = transform(cut_padded(source.variance, box, margin, edge))(middle**2)
    # rounding of the transforms beside a bright star must not make it negative
    least = edge * float((middle**2).sum()) * 1e-3
    made.variance[box.slices] = scale**2 * np.maximum(variance, np.float32(least))
    bad = cut_padded(source.bad, box, margin, 1)
    if bad.any():
        absolute = np.abs(middle)
        share = transform(bad)(absolute / absolute.sum())
        # what was filled into a saturated star may be wrong by as much as it is
        doubt = transform(bad * np.abs(pixels))(absolute)
        noise = np.sqrt(made.variance[box.slices] + target_variance[box.slices])
        made.bad[box.slices] = (share > max(1 - good_fraction, 1e-4)) | (scale * doubt > _DOUBT_SIGMA * noise)
