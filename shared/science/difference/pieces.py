"""Pieces of both frames around stars, convolved with the kernel's basis: what the solver works on."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from .basis import Values
from .model import Mask
from .prepare import Frame
from .stars import Stars

_CHUNK_BYTES: Final = 16_000_000
_MAX_BYTES: Final = 160_000_000
_MIN_GOOD: Final = 0.5


class SourceBasis(Protocol):
    """Functions of which a kernel is made; the first has the sum 1, all others 0."""

    @property
    def radius(self) -> int:
        """Half-width of the functions, pixels."""

    @property
    def size(self) -> int:
        """How many they are."""

    @property
    def functions(self) -> Values:
        """All of them, of shape (size, 2 radius + 1, 2 radius + 1)."""

    def convolve(self, pieces: Values) -> Values:
        """Convolve pieces of shape (pieces, side + 2 radius, ...); gives (size, pieces, side, side)."""


@dataclass
class Pieces:
    """Pieces around stars; all arrays begin with the star and have flat pixels.

    Parameters
    ----------
    x, y
        0-based pixels of the centres.
    columns
        Shape (stars, basis + 2, pixels): the convolved source, ones, and the target.
    variance
        Of the target.
    sky
        Variance of the target's background, one for each star.
    source_variance
        Of the source, not convolved.
    good
        Pixels that may be fitted.
    gain
        Of the target; None when its noise was given.
    """

    x: Values
    y: Values
    columns: NDArray[np.float32]
    variance: NDArray[np.float32]
    sky: Values
    source_variance: NDArray[np.float32]
    good: Mask
    gain: float | None

    def __len__(self) -> int:
        return self.x.size


def cut(target: Frame, source: Frame, stars: Stars, basis: SourceBasis, half: int) -> Pieces:
    """Cut pieces and convolve those of the source.

    Stars are left out that lie too close to the edge or have too many bad pixels around, and the faintest of what
    would take too much memory.

    Parameters
    ----------
    half
        Half-width of a piece, pixels.
    """
    margin = half + basis.radius
    rows, columns = target.shape
    inside = (stars.x >= margin) & (stars.y >= margin) & (stars.x < columns - margin) & (stars.y < rows - margin)
    stars = stars.take(inside)
    side = 2 * half + 1
    each = 4 * side**2 * (basis.size + 2)
    stars = stars.take(np.arange(min(len(stars), max(_MAX_BYTES // each, 1))))
    good = ~(windows(target.bad, stars, half) | windows(source.bad, stars, half))
    clean = good.mean(axis=(1, 2)) > _MIN_GOOD
    stars, good = stars.take(clean), good[clean]
    count = len(stars)
    made = np.empty((count, basis.size + 2, side, side), np.float32)
    step = max(_CHUNK_BYTES // (2 * each), 1)
    for start in range(0, count, step):
        part = stars.take(np.arange(start, min(start + step, count)))
        source_pieces = windows(source.pixels, part, margin).astype(float)
        made[start : start + step, :-2] = np.moveaxis(basis.convolve(source_pieces), 0, 1)
    made[:, -2] = 1
    made[:, -1] = windows(target.pixels, stars, half)
    return Pieces(
        stars.x.astype(float),
        stars.y.astype(float),
        made.reshape(count, basis.size + 2, -1),
        windows(target.variance, stars, half).reshape(count, -1),
        target.sky[stars.y, stars.x].astype(float) ** 2,
        windows(source.variance, stars, half).reshape(count, -1),
        good.reshape(count, -1),
        target.gain,
    )


def windows(plane: NDArray[Any], stars: Stars, half: int) -> NDArray[Any]:
    """Cut squares around stars that lie inside by more than `half`; shape (stars, side, side)."""
    side = 2 * half + 1
    view = np.lib.stride_tricks.sliding_window_view(plane, (side, side))
    return view[stars.y - half, stars.x - half]
