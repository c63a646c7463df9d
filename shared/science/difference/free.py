"""A kernel of free pixels, as a basis of the solver."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .basis import Values


@dataclass(frozen=True)
class FreePixels:
    """Functions that are one pixel each, less the middle one; the first is the middle one alone.

    Parameters
    ----------
    radius
        Half-width, pixels.
    """

    radius: int

    @property
    def size(self) -> int:
        """Give the number of functions."""
        return (2 * self.radius + 1) ** 2

    @cached_property
    def functions(self) -> Values:
        """All functions, of shape (size, 2 radius + 1, 2 radius + 1)."""
        side = 2 * self.radius + 1
        middle = self.size // 2
        made = np.zeros((self.size, self.size))
        order = [middle, *(n for n in range(self.size) if n != middle)]
        made[np.arange(self.size), order] = 1
        made[1:, middle] = -1
        return made.reshape(self.size, side, side)

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
        reach = 2 * self.radius
        side = pieces.shape[-1] - reach
        # a kernel's pixel at dy, dx takes the source at -dy, -dx
        moved = np.array(
            [
                pieces[:, reach - n // (reach + 1) :, reach - n % (reach + 1) :][:, :side, :side]
                for n in range(self.size)
            ]
        )
        middle = self.size // 2
        moved[:middle] -= moved[middle]
        moved[middle + 1 :] -= moved[middle]
        return np.concatenate([moved[middle : middle + 1], moved[:middle], moved[middle + 1 :]])
