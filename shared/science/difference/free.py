"""A kernel of free pixels with smooth wings, as a basis of the solver."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .basis import Basis, Values


@dataclass(frozen=True)
class FreePixels:
    """Functions that are one pixel each around the middle, and a few broad ones; all but the first less the first.

    The first is the middle pixel alone. Pixels alone would have to end where their number is still small, and what a
    star spreads further would be left around bright ones: 1.4 % of the light with 9 x 9 pixels.

    Parameters
    ----------
    core
        Half-width of the square of free pixels.
    wings
        The broad functions; the first of the sum 1, all others 0.
    """

    core: int
    wings: Basis

    @property
    def radius(self) -> int:
        """Half-width, pixels."""
        return max(self.wings.radius, self.core)

    @property
    def size(self) -> int:
        """Give the number of functions."""
        return (2 * self.core + 1) ** 2 + self.wings.size

    @cached_property
    def functions(self) -> Values:
        """All functions, of shape (size, 2 radius + 1, 2 radius + 1)."""
        middle = np.zeros((1, 4 * self.radius + 1, 4 * self.radius + 1))
        middle[0, 2 * self.radius, 2 * self.radius] = 1
        return self.convolve(middle)[:, 0]

    def convolve(self, pieces: Values) -> Values:
        """Convolve pieces of an image with every function.

        Parameters
        ----------
        pieces
            Shape (pieces, side + 2 radius, side + 2 radius).

        Returns
        -------
        convolved
            Shape (size, pieces, side, side).
        """
        side = pieces.shape[-1] - 2 * self.radius
        steps = range(-self.core, self.core + 1)
        # a kernel's pixel at dy, dx takes the source at -dy, -dx
        offsets = [(0, 0), *((dy, dx) for dy in steps for dx in steps if dy or dx)]
        made = np.empty((self.size, len(pieces), side, side))
        for function, (dy, dx) in zip(made, offsets, strict=False):
            function[:] = pieces[:, self.radius - dy :, self.radius - dx :][:, :side, :side]
        trim = self.radius - self.wings.radius
        inner = slice(trim, pieces.shape[-1] - trim)
        made[len(offsets) :] = self.wings.convolve(pieces[:, inner, inner])
        made[1 : len(offsets) + 1] -= made[0]
        return made
