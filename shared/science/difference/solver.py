"""Our own Alard-Lupton solver (Alard & Lupton 1998, ApJ 503, 325; Alard 2000, A&AS 144, 363).

The kernel at (x, y) is s(x, y) (B_0 + sum over n > 0 of c_n(x, y) B_n), with polynomials s and c_n, so that the
photometric scale s has an order of its own and a flat field that differs does not ask for a kernel that varies. This is
bilinear and solved by Gauss-Newton steps, each a linear least squares.

Stars differ from the common scale by their colours. The brightest ones would decide about it and bend the kernel if
only photon noise counted; therefore the brightness of each star is free within the scatter that is seen, which
is the same as a covariance of variance + scatter^2 model model^T and costs a rank-one update (Sherman & Morrison).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ...errors import DataError
from .basis import Values, polynomial
from .model import Log
from .pieces import Pieces, SourceBasis
from .stars import Box, shortest_half

_ROUNDS: Final = 3
_STEPS: Final = 3
_RIDGE: Final = 1e-9
_MIN_STARS: Final = 3
_STARS_PER_TERM: Final = 4
_PIXEL_SIGMA: Final = 6.0
_SHAPE_ERROR: Final = 0.02
"""Of the pixels of a star that may differ from the fit before they are taken as bad, a fraction of the model."""
_BRIGHTNESS_SIGMA: Final = 4.0
_START_SCATTER: Final = 0.05
_START_WIDTHS: Final = 3.0
_LEAST_SCATTER: Final = 0.002
_MAD: Final = 1.4826
_TINY: Final = 1e-30
_MAX_NOISE_SHARE: Final = 0.5


@dataclass(frozen=True)
class Orders:
    """Orders of the polynomials over a region, of the photometric scale, the kernel's shape, and the background."""

    scale: int
    kernel: int
    background: int


@dataclass(frozen=True)
class Solution:
    """What turns the source into the target, in one region.

    Parameters
    ----------
    box
        The region.
    orders
        Of the polynomials.
    scale, background
        Coefficients of the polynomials.
    kernels
        Coefficient images of the kernel's shape, of shape (terms, side, side); the first sums to 1, others to 0.
    stars
        How many were fitted.
    scale_error
        Standard error of the mean scale.
    scatter
        Of the scale from star to star, a fraction.
    """

    box: Box
    orders: Orders
    scale: Values
    background: Values
    kernels: Values
    stars: int
    scale_error: float
    scatter: float

    def at(self, x: Values, y: Values) -> tuple[Values, Values]:
        """Give positions in the region's own coordinates, -1 to 1."""
        return _local(self.box, x, y)

    def scale_at(self, x: Values, y: Values) -> Values:
        """Evaluate the photometric scale at pixels."""
        return np.tensordot(self.scale, polynomial(*self.at(x, y), self.orders.scale), 1)

    def background_at(self, x: Values, y: Values) -> Values:
        """Evaluate the background at pixels, in the unit of the target."""
        return np.tensordot(self.background, polynomial(*self.at(x, y), self.orders.background), 1)

    def shape_terms(self, x: Values, y: Values) -> Values:
        """Evaluate the polynomial by which the kernel's shape varies, at pixels."""
        return polynomial(*self.at(x, y), self.orders.kernel)

    def kernel_at(self, x: float, y: float) -> Values:
        """Give the kernel's shape, of the sum 1, at a pixel."""
        return np.tensordot(self.shape_terms(np.array(x), np.array(y)), self.kernels, 1)


def solve(pieces: Pieces, basis: SourceBasis, orders: Orders, box: Box, *, reject_sigma: float, log: Log) -> Solution:
    """Fit the kernel of one region.

    Parameters
    ----------
    orders
        What is wanted; lowered when the stars are too few.
    reject_sigma
        Threshold for leaving out stars.

    Raises
    ------
    DataError
        When fewer than three stars are left.
    """
    _check_count(len(pieces))
    orders = _affordable(orders, len(pieces), log)
    fit = _Fit(pieces, basis, orders, box)
    for number in range(_ROUNDS):
        fit.weigh(number > 0)
        for _ in range(_STEPS):
            fit.step()
            fit.reject(reject_sigma)
            _check_count(int(fit.kept.sum()))
    kept = fit.kept
    log(
        f"Kernel: {int(kept.sum())} of {kept.size} stars, scale {fit.scale_theta[0]:.6g}, scatter of the stars "
        f"{100 * fit.scatter:.2f} %"
    )
    shape = np.concatenate([np.eye(1, len(fit.shape_theta[0])), fit.shape_theta])
    weight = 1 / (fit.scatter**2 + fit.brightness_error[kept] ** 2)
    return Solution(
        box,
        orders,
        fit.scale_theta,
        fit.background_theta,
        np.tensordot(shape.T, basis.functions, 1),
        int(kept.sum()),
        float(fit.scale_theta[0] / np.sqrt(weight.sum())),
        fit.scatter,
    )


def _check_count(stars: int) -> None:
    if stars < _MIN_STARS:
        raise DataError(
            "no_kernel_stars",
            f"Only {stars} stars match in image and template, {_MIN_STARS} are needed. Check that the template covers "
            "the field, the astrometry of both, the saturation levels, and the masks; or lower ft.",
        )


def _affordable(orders: Orders, stars: int, log: Log) -> Orders:
    highest = 0
    while highest < max(orders.scale, orders.kernel, orders.background) and stars >= _STARS_PER_TERM * (
        (highest + 2) * (highest + 3) // 2
    ):
        highest += 1
    found = Orders(*(min(order, highest) for order in (orders.scale, orders.kernel, orders.background)))
    if found != orders:
        log(f"Only {stars} stars: orders of scale, kernel and background lowered to {highest}")
    return found


def _local(box: Box, x: Values, y: Values) -> tuple[Values, Values]:
    width, height = box.right - box.left, box.bottom - box.top
    return (2 * (x - box.left) + 1) / width - 1, (2 * (y - box.top) + 1) / height - 1


class _Fit:
    """The state of a fit; stars along the first axis."""

    def __init__(self, pieces: Pieces, basis: SourceBasis, orders: Orders, box: Box) -> None:
        self.pieces, self.size = pieces, basis.size
        self.overlaps = np.tensordot(basis.functions, basis.functions, ((1, 2), (1, 2)))
        u, v = _local(box, pieces.x, pieces.y)
        self.scale_terms, self.kernel_terms, self.background_terms = (
            polynomial(u, v, order).T for order in (orders.scale, orders.kernel, orders.background)
        )
        self.kept = np.ones(len(pieces), bool)
        self.scale_theta = np.zeros(self.scale_terms.shape[1])
        self.shape_theta = np.zeros((basis.size - 1, self.kernel_terms.shape[1]))
        self.background_theta = np.zeros(self.background_terms.shape[1])
        self.scale_theta[0] = self._first_scale()
        self.scatter = _START_SCATTER
        self.brightness_error = np.zeros(len(pieces))
        self.gram: Values = np.empty(0)
        self.pixels: NDArray[np.intp] = np.empty(0, np.intp)
        self.quality: tuple[Values, Values, Values] = (np.empty(0), np.empty(0), np.empty(0))

    def _first_scale(self) -> float:
        """Give what most stars agree on, and keep these: the others have changed, or have something beside them."""
        target, source = self.pieces.columns[:, -1], self.pieces.columns[:, 0]
        good = self.pieces.good
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(np.sum(target * source * good, axis=1) / np.sum(source**2 * good, axis=1))
        known = np.isfinite(ratio)
        if known.sum() < _MIN_STARS:
            return 1.0
        middle, width = shortest_half(ratio[known])
        self.kept = known & (np.abs(ratio - middle) < _START_WIDTHS * max(width, _START_SCATTER))
        return float(np.exp(middle))

    @property
    def _scales(self) -> Values:
        return self.scale_terms @ self.scale_theta

    @property
    def _shapes(self) -> Values:
        return self.kernel_terms @ self.shape_theta.T

    def _coefficients(self) -> Values:
        """Give the model in terms of the columns: basis, background."""
        scales = self._scales[:, None]
        return np.concatenate(
            [scales, scales * self._shapes, (self.background_terms @ self.background_theta)[:, None]], axis=1
        )

    def weigh(self, has_model: bool) -> None:
        """Take weights from the noise, of the model once there is one, and the products of all columns with them."""
        pieces = self.pieces
        coefficients = self._coefficients()
        # by how much the kernel makes the source's noise smaller: the sum of the squares of its pixels
        shape = np.concatenate([[1.0], self._shapes[self.kept].mean(axis=0)])
        narrowing = float(shape @ self.overlaps @ shape) * self._scales**2
        self.gram = np.empty((len(pieces), self.size + 2, self.size + 2))
        self.pixels = np.empty(len(pieces), np.intp)
        noise = np.zeros(len(pieces))
        for k in range(len(pieces)):
            columns = pieces.columns[k].astype(float)
            variance = pieces.variance[k].astype(float)
            if has_model:
                model = coefficients[k] @ columns[:-1]
                flux = np.maximum(model - coefficients[k, -1], 0)
                if pieces.gain is not None:
                    variance = pieces.sky[k] + flux / pieces.gain
            variance = variance + narrowing[k] * pieces.source_variance[k]
            good = pieces.good[k]
            if has_model:
                # the brightness of the star is free
                rest = columns[-1] - model
                rest = rest - flux * ((flux * rest)[good].sum() / max((flux[good] ** 2).sum(), _TINY))
                good = good & (np.abs(rest) < _PIXEL_SIGMA * np.sqrt(variance + (_SHAPE_ERROR * flux) ** 2))
            weight = np.where(good, 1 / variance, 0)
            self.gram[k] = (columns * weight) @ columns.T
            noise[k] = float(weight @ pieces.source_variance[k])
            self.pixels[k] = good.sum()
        self.gram[:, :-2, :-2] -= noise[:, None, None] * self._known_noise(noise)

    def _known_noise(self, noise: Values) -> Values:
        """Give the products of the columns that a source of noise alone would have.

        Noise is in both factors of a product and makes the kernel of the least squares too small, by several per cent
        for a shallow template. What is expected of it is taken off, though never most of what there is: neighbouring
        pixels of a resampled source share their noise, so that it is overestimated in the finest structures.

        Parameters
        ----------
        noise
            Sum of the source's variance times the weights, of each star.
        """
        seen = self.gram[self.kept, :-2, :-2].sum(axis=0)
        total = float(noise[self.kept].sum())
        size = np.sqrt(np.maximum(np.diagonal(seen), _TINY))
        seen, known = seen / np.outer(size, size), total * self.overlaps / np.outer(size, size)
        seen[np.diag_indices_from(seen)] += _RIDGE
        shares, vectors = linalg.eigh(known, seen)
        if total <= 0 or shares[-1] <= _MAX_NOISE_SHARE:
            return self.overlaps
        # vectors.T seen vectors is the unit matrix
        back = seen @ vectors * size[:, None]
        return np.asarray((back * np.minimum(shares, _MAX_NOISE_SHARE)) @ back.T / total)

    def _transformed(self) -> Values:
        """Give the products of the columns of a Gauss-Newton step: scale, shapes, background, target."""
        size = self.size
        scales, shapes = self._scales[:, None], self._shapes

        def turned(products: Values) -> Values:
            """Turn the rows from columns of the pieces into columns of the step."""
            shaped = np.einsum("sa,sab->sb", shapes, products[:, 1:size])
            made = products.copy()
            made[:, 0] += shaped
            made[:, 1:size] *= scales[:, :, None]
            made[:, size + 1] += scales * shaped
            return made

        return np.ascontiguousarray(turned(np.ascontiguousarray(turned(self.gram).transpose(0, 2, 1))))

    def step(self) -> None:
        """Do one step, and learn how the stars fit."""
        plain = self._transformed()
        power = plain[:, 0, 0]
        with np.errstate(divide="ignore"):
            free = 1 / (power + 1 / (self._scales * self.scatter) ** 2)
        products = plain - free[:, None, None] * plain[:, :, :1] * plain[:, :1, :]
        terms, which = self._unknowns()
        unknowns = terms.shape[1]
        matrix, right = np.zeros((unknowns, unknowns)), np.zeros(unknowns)
        for k in np.flatnonzero(self.kept):
            own = products[k][which]
            matrix += own[:, which] * np.outer(terms[k], terms[k])
            right += own[:, -1] * terms[k]
        theta = _solve_scaled(matrix, right)
        scales, shapes = self.scale_theta.size, self.shape_theta.size
        local = np.concatenate(
            [
                (self.scale_terms @ theta[:scales])[:, None],
                self.kernel_terms @ theta[scales : scales + shapes].reshape(self.shape_theta.shape).T,
                (self.background_terms @ theta[scales + shapes :])[:, None],
                np.full((len(self.pieces), 1), -1.0),
            ],
            axis=1,
        )
        chi2 = np.einsum("sa,sab,sb->s", local, products, local)
        power = local[:, 0] ** 2 * plain[:, 0, 0]
        brightness = -local[:, 0] * np.einsum("sa,sa->s", plain[:, 0], local) / power
        self.quality = chi2, power, brightness
        self.brightness_error = 1 / np.sqrt(power)
        self.scale_theta = theta[:scales]
        self.shape_theta = theta[scales : scales + shapes].reshape(self.shape_theta.shape)
        self.background_theta = theta[scales + shapes :]

    def _unknowns(self) -> tuple[Values, NDArray[np.intp]]:
        """Give for each unknown its polynomial term at each star, and the column that it belongs to."""
        shapes = self.size - 1
        each = self.kernel_terms.shape[1]
        terms = np.concatenate([self.scale_terms, np.tile(self.kernel_terms, shapes), self.background_terms], axis=1)
        which = np.concatenate(
            [
                np.zeros(self.scale_terms.shape[1], np.intp),
                np.repeat(np.arange(1, self.size), each),
                np.full(self.background_terms.shape[1], self.size),
            ]
        )
        return terms, which

    def reject(self, sigma: float) -> None:
        """Measure the scatter of the stars, and leave out those that fit badly or differ in brightness."""
        chi2, power, brightness = self.quality
        kept = self.kept
        noise = self.brightness_error
        total = _MAD * float(np.median(np.abs(brightness[kept])))
        self.scatter = max(float(np.sqrt(max(total**2 - np.median(noise[kept] ** 2), 0))), _LEAST_SCATTER)
        excess = chi2 - self.pixels
        # what the kernel cannot match grows with the square of a star's signal to noise
        mismatch = float(np.median(np.maximum(excess[kept], 0) / power[kept]))
        badness = excess / (np.sqrt(2.0 * self.pixels) + mismatch * power)
        middle = float(np.median(badness[kept]))
        width = _MAD * float(np.median(np.abs(badness[kept] - middle)))
        fits = badness <= middle + sigma * max(width, 0.5)
        same = np.abs(brightness) <= _BRIGHTNESS_SIGMA * np.hypot(self.scatter, noise)
        usable = (self.pixels > 0) & np.isfinite(chi2) & np.isfinite(brightness)
        self.kept = usable & fits & same


def _solve_scaled(matrix: Values, right: Values) -> Values:
    """Solve normal equations whose unknowns differ much in size."""
    size = np.sqrt(np.maximum(np.diagonal(matrix), 1e-300))
    scaled = matrix / np.outer(size, size)
    scaled[np.diag_indices_from(scaled)] += _RIDGE
    try:
        found = linalg.solve(scaled, right / size, assume_a="pos")
    except linalg.LinAlgError:
        found = linalg.lstsq(scaled, right / size)[0]
    return np.asarray(found / size)
