"""The kernel's basis: Gaussians times polynomials (Alard & Lupton 1998, ApJ 503, 325, equation 3)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import NDArray

Values = NDArray[np.float64]

_MATCH_DEGREES: Final = (6, 4, 2)
_MATCH_WIDTHS: Final = (0.7, 1.5, 4.0)
"""In units of what must be added to the sharper image; the last for the wings, without which the scale is 0.5 % low."""
_MIN_SIGMA_PIX: Final = 1.0
_FWHM_PER_SIGMA: Final = 2.3548
_RADIUS_PER_FWHM: Final = 2.5
_PIECE_PER_FWHM: Final = 4.0
_SIGMAS: Final = 2.5


@dataclass(frozen=True)
class Basis:
    """Functions on a square of pixels, from -`radius` to `radius` in each direction.

    The first has the sum 1, all others 0, so that the first coefficient of a kernel is its sum (Alard 2000, A&AS 144,
    363). They are products of one function of x and one of y, but for the multiple of the first that is taken off.

    Parameters
    ----------
    gaussians
        Degree and sigma (pixels) of each.
    radius
        Half-width, pixels.
    """

    gaussians: tuple[tuple[int, float], ...]
    radius: int

    @cached_property
    def lines(self) -> Values:
        """Functions of one coordinate, of shape (functions, 2 radius + 1), each of unit length.

        Hermite polynomials, not powers: they span the same space and are nearly orthogonal.
        """
        u = np.arange(-self.radius, self.radius + 1, dtype=float)
        found = []
        for degree, sigma in self.gaussians:
            weight = np.exp(-0.5 * (u / sigma) ** 2)
            for power in range(degree + 1):
                line = weight * hermite_e.hermeval(u / sigma, np.eye(power + 1)[power])
                found.append(line / np.sqrt((line**2).sum()))
        return np.array(found)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Indices into `lines` for y and for x of each function."""
        found, first = [], 0
        for degree, _ in self.gaussians:
            found += [(first + q, first + p) for q in range(degree + 1) for p in range(degree + 1 - q)]
            first += degree + 1
        return found

    @cached_property
    def sums(self) -> Values:
        """Sum of each product over the square."""
        totals = self.lines.sum(axis=1)
        return np.array([totals[q] * totals[p] for q, p in self.pairs])

    @property
    def size(self) -> int:
        """Give the number of functions."""
        return len(self.pairs)

    @cached_property
    def functions(self) -> Values:
        """All functions, of shape (size, 2 radius + 1, 2 radius + 1)."""
        y, x = np.array(self.pairs).T
        return self.zero_sums(self.lines[y][:, :, None] * self.lines[x][:, None, :])

    def zero_sums(self, products: Values) -> Values:
        """Turn products into functions with the sum 1 (the first) and 0, in place, along the first axis."""
        products[0] /= self.sums[0]
        for n in range(1, self.size):
            products[n] -= self.sums[n] * products[0]
        return products

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
        width = pieces.shape[-1]
        side = width - 2 * self.radius
        # row i of a line's matrix holds the line, turned round, from column i on
        matrices = np.zeros((len(self.lines), side, width))
        for i in range(side):
            matrices[:, i, i : i + 2 * self.radius + 1] = self.lines[:, ::-1]
        along_x = [pieces @ matrix.T for matrix in matrices]
        return self.zero_sums(np.array([matrices[q] @ along_x[p] for q, p in self.pairs]))


def matching_basis(
    fwhm_pix: float,
    source_fwhm_pix: float,
    *,
    gaussians: tuple[tuple[int, float], ...] | None = None,
    radius: int | None = None,
) -> Basis:
    """Choose the basis that turns stars of one width into stars of another.

    Parameters
    ----------
    fwhm_pix, source_fwhm_pix
        Width that is wanted, and width that is convolved.
    gaussians, radius
        Instead of what follows from the widths.
    """
    match = np.sqrt(abs(fwhm_pix**2 - source_fwhm_pix**2)) / _FWHM_PER_SIGMA
    sigma = max(float(match), _MIN_SIGMA_PIX)
    if gaussians is None:
        gaussians = tuple((d, w * sigma) for d, w in zip(_MATCH_DEGREES, _MATCH_WIDTHS, strict=True))
    if radius is None:
        radius = int(np.ceil(max(_SIGMAS * gaussians[-1][1], _RADIUS_PER_FWHM * max(fwhm_pix, source_fwhm_pix))))
    return Basis(gaussians, radius)


def piece_radius(fwhm_pix: float) -> int:
    """Half-width of the piece around a star that is fitted, pixels."""
    return int(np.ceil(_PIECE_PER_FWHM * fwhm_pix))


def polynomial(x: Values, y: Values, order: int) -> Values:
    """Evaluate the terms x^i y^j with i + j up to `order`, lowest first; shape (terms, *x.shape).

    Parameters
    ----------
    x, y
        Positions, -1 to 1 over the region.
    """
    return np.array([x**i * y ** (total - i) for total in range(order + 1) for i in range(total, -1, -1)])
