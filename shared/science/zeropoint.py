"""Zero-point model of an image: fit, evaluation, and its form in JSON.

STDPipe's `photometry.match` fits the same model. Ours is used because its solution is numbers that can be stored and
evaluated again in another process (STDPipe returns a closure), because it lowers the orders instead of failing where
stars are few, and because the robust fit is a few small matrix products (30 ms against 0.4 s for 5,000 stars).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from ..errors import DataError

FORMAT_VERSION: Final = 1
MIN_STARS: Final = 3
"""Two stars cannot tell which of them is wrong."""
MIN_COLOR_STARS: Final = 10
"""The zero point is that of colour 0, far from any star: with fewer stars than this its extrapolation does harm."""
_CLIP_SIGMA: Final = 5.0
_HUBER: Final = 1.345
"""95 % efficiency for Gaussian noise (Huber 1981)."""
_ROUNDS: Final = 12
_MAX_INTRINSIC_MAG: Final = 0.5
_POGSON: Final = 2.5 / np.log(10)

Floats = NDArray[np.float64]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Terms:
    """What the model has.

    Parameters
    ----------
    spatial_order
        Order of the polynomial in position.
    bg_order
        Order of the additive term, a polynomial of flux offsets in ADU; None without one.
    nonlin
        Whether the zero point depends linearly on the instrumental magnitude.
    color
        Whether a colour term is fitted.
    """

    spatial_order: int = 2
    bg_order: int | None = None
    nonlin: bool = False
    color: bool = True

    def count(self) -> int:
        """Count the coefficients."""
        return _size(self.spatial_order) + _size(self.bg_order) + self.nonlin + self.color

    def reduced(self) -> "Terms | None":
        """Give the next simpler set, None when this is the simplest: additive and non-linear terms go first."""
        if self.bg_order is not None:
            return replace(self, bg_order=self.bg_order - 1 if self.bg_order else None)
        if self.nonlin:
            return replace(self, nonlin=False)
        if self.spatial_order:
            return replace(self, spatial_order=self.spatial_order - 1)
        return replace(self, color=False) if self.color else None


@dataclass(frozen=True)
class ZeroPoint:
    """A fitted model: m_cat = m_inst + zp(x, y) + color_term·(m1 - m2), m_inst = -2.5 log10(F/ADU).

    Parameters
    ----------
    terms
        What was fitted.
    x0, y0, scale_pix
        Position enters as (x - x0)/scale_pix, pixels, 0-based.
    mag0
        Instrumental magnitude from which the non-linear term counts.
    coefficients
        Spatial terms, additive terms (ADU), non-linear term, in the order of `powers`.
    covariance
        Of the coefficients, scaled by the scatter of the fit.
    color_term, color_term_err
        Colour term, 0 without one, and its error, 0 when it was not fitted.
    intrinsic_rms
        Scatter beyond the quoted errors, mag.
    scatter
        Robust scatter of the stars used, mag.
    used
        Number of stars used.
    """

    terms: Terms
    x0: float
    y0: float
    scale_pix: float
    mag0: float
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    color_term: float
    color_term_err: float
    intrinsic_rms: float
    scatter: float
    used: int

    def _design(self, x: ArrayLike, y: ArrayLike, mag: ArrayLike | None) -> Floats:
        u = (np.atleast_1d(np.asarray(x, float)) - self.x0) / self.scale_pix
        v = (np.atleast_1d(np.asarray(y, float)) - self.y0) / self.scale_pix
        return design(self.terms, u, v, None if mag is None else np.atleast_1d(np.asarray(mag, float)), self.mag0)

    def evaluate(self, x: ArrayLike, y: ArrayLike, mag: ArrayLike | None = None) -> Floats:
        """Give the zero point, mag, without the colour term.

        Parameters
        ----------
        x, y
            Positions, pixels, 0-based.
        mag
            Instrumental magnitudes, for the additive and the non-linear term; None leaves these out.
        """
        return np.asarray(self._design(x, y, mag) @ np.asarray(self.coefficients), np.float64)

    def error(self, x: ArrayLike, y: ArrayLike, mag: ArrayLike | None = None) -> Floats:
        """Give the error of `evaluate`, mag, from the fit alone."""
        matrix = self._design(x, y, mag)
        variance = np.einsum("ij,jk,ik->i", matrix, np.asarray(self.covariance), matrix)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Give the model as plain JSON values."""
        return {"version": FORMAT_VERSION, "powers": powers(self.terms.spatial_order), **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ZeroPoint":
        """Read what `to_json` gave; other keys are ignored.

        Raises
        ------
        DataError
            When it is not such a model.
        """
        text = "photometry.json does not hold a photometric solution; run the photometry step again."
        names = ("x0", "y0", "scale_pix", "mag0", "color_term", "color_term_err", "intrinsic_rms", "scatter")
        try:
            known = data["version"] == FORMAT_VERSION
            model = cls(
                terms=Terms(**data["terms"]),
                coefficients=tuple(float(value) for value in data["coefficients"]),
                covariance=tuple(tuple(float(value) for value in row) for row in data["covariance"]),
                used=int(data["used"]),
                **{name: float(data[name]) for name in names},
            )
            size = model.terms.count() - model.terms.color
            shapes = (np.shape(model.coefficients), np.shape(model.covariance))
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError("bad_solution", text) from exc
        if not known or shapes != ((size,), (size, size)):
            raise DataError("bad_solution", text)
        return model


@dataclass(frozen=True)
class Calibrators:
    """Pairs of an object and a catalogue star; arrays of one length. `used` and the residuals are set by the fit."""

    objects: NDArray[np.intp]
    stars: NDArray[np.intp]
    distance_arcsec: Floats
    x: Floats
    y: Floats
    mag: Floats
    magerr: Floats
    cat_mag: Floats
    cat_magerr: Floats
    color: Floats
    good: NDArray[np.bool_]

    @property
    def zero(self) -> Floats:
        """Catalogue minus instrumental magnitude."""
        return self.cat_mag - self.mag

    @property
    def zero_err(self) -> Floats:
        """Error of `zero` from both sides, mag."""
        return np.hypot(self.magerr, self.cat_magerr)


@dataclass(frozen=True)
class Fit:
    """A model, the pairs it came from, which of them were used, and its value for each, colour included."""

    model: ZeroPoint
    pairs: Calibrators
    used: NDArray[np.bool_]
    values: Floats


def set_calibrated(table: Table, model: ZeroPoint) -> None:
    """Set `mag_calib` and `mag_calib_err` from `mag` and `magerr` in place."""
    x, y, mag = (np.asarray(table[name], float) for name in ("x", "y", "mag"))
    table["mag_calib"] = mag + model.evaluate(x, y, mag)
    table["mag_calib_err"] = np.sqrt(
        np.asarray(table["magerr"], float) ** 2 + model.error(x, y, mag) ** 2 + model.intrinsic_rms**2
    )


def powers(order: int | None) -> list[tuple[int, int]]:
    """List the exponents of x and y of a polynomial, lowest degree first; empty for None."""
    if order is None:
        return []
    return [(degree - j, j) for degree in range(order + 1) for j in range(degree + 1)]


def _size(order: int | None) -> int:
    return 0 if order is None else (order + 1) * (order + 2) // 2


def design(terms: Terms, u: Floats, v: Floats, mag: Floats | None, mag0: float) -> Floats:
    """Build the matrix whose columns are the spatial, additive and non-linear terms.

    The additive term is linearised: an offset of b ADU in F changes m_inst by -1.0857 b/F. Where `mag` is None these
    columns are zero.
    """
    columns = [u**i * v**j for i, j in powers(terms.spatial_order)]
    slope = np.zeros_like(u) if mag is None else -_POGSON * 10 ** (0.4 * mag)
    columns += [slope * u**i * v**j for i, j in powers(terms.bg_order)]
    if terms.nonlin:
        columns.append(np.zeros_like(u) if mag is None else mag - mag0)
    return np.stack(columns, axis=-1)


def fit_zero_point(
    pairs: Calibrators, terms: Terms, shape: tuple[int, int], *, color_term: float | None = None, log: Log
) -> Fit:
    """Fit the model robustly: Huber weights, clipping at 5 sigma, intrinsic scatter by maximum likelihood.

    Parameters
    ----------
    pairs
        Pairs; those not `good` take no part.
    terms
        What to fit. Orders are lowered, and the log says so, where stars are fewer than twice the coefficients.
    shape
        Of the image; its centre and half-size normalise positions.
    color_term
        Fixed colour term instead of a fitted one; None fits it if `terms.color`.

    Raises
    ------
    DataError
        When fewer than three good pairs are left.
    """
    good = pairs.good & np.isfinite(pairs.zero) & np.isfinite(pairs.zero_err) & (pairs.zero_err > 0)
    with_color = good & np.isfinite(pairs.color)
    use_color = terms.color and color_term is None
    if use_color and (with_color.sum() < MIN_COLOR_STARS or np.ptp(pairs.color[with_color]) == 0):
        log("reduced to a model without colour term: too few stars with different colours")
        use_color = False
    if use_color or color_term:
        good = with_color
    count = int(good.sum())
    if count < MIN_STARS:
        text = (
            f"Only {count} good stars match the catalogue, of {len(pairs.mag)} that match at all; at least {MIN_STARS} "
            "are needed. Check the WCS (blind_match_wcs, sr_override), the catalogue and its magnitude range, and "
            "whether gain and saturation are those of the detector."
        )
        raise DataError("too_few_matches", text)
    terms = replace(terms, color=use_color)
    asked = terms
    while count < 2 * terms.count() and (simpler := terms.reduced()) is not None:
        terms = simpler
    if terms != asked:
        log(f"Only {count} stars for {asked.count()} coefficients: reduced to {_described(terms)}")

    height, width = shape
    x0, y0, scale = (width - 1) / 2, (height - 1) / 2, max(width, height) / 2
    mag0 = float(np.median(pairs.mag[good]))
    color = np.where(np.isfinite(pairs.color), pairs.color, 0.0)
    fixed = color * (color_term or 0.0)
    matrix = design(terms, (pairs.x - x0) / scale, (pairs.y - y0) / scale, pairs.mag, mag0)
    if terms.color:
        matrix = np.column_stack([matrix, color])
    coefficients, covariance, intrinsic, used = _solve(matrix, pairs.zero - fixed, pairs.zero_err, good)

    values = matrix @ coefficients + fixed
    residual = (pairs.zero - values)[used]
    scatter = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    size = terms.count() - terms.color
    fitted_color = (float(coefficients[-1]), float(np.sqrt(covariance[-1, -1]))) if terms.color else None
    model = ZeroPoint(
        terms=terms,
        x0=x0,
        y0=y0,
        scale_pix=scale,
        mag0=mag0,
        coefficients=tuple(map(float, coefficients[:size])),
        covariance=tuple(tuple(map(float, row[:size])) for row in covariance[:size]),
        color_term=fitted_color[0] if fitted_color else float(color_term or 0.0),
        color_term_err=fitted_color[1] if fitted_color else 0.0,
        intrinsic_rms=intrinsic,
        scatter=scatter,
        used=int(used.sum()),
    )
    return Fit(model, pairs, used, values)


def _described(terms: Terms) -> str:
    parts = [f"spatial order {terms.spatial_order}"]
    parts += [] if terms.bg_order is None else [f"additive order {terms.bg_order}"]
    parts += ["non-linearity"] if terms.nonlin else []
    return ", ".join([*parts, "colour term"] if terms.color else parts)


def _solve(
    matrix: Floats, target: Floats, error: Floats, good: NDArray[np.bool_]
) -> tuple[Floats, Floats, float, NDArray[np.bool_]]:
    """Iterate weights, clipping and intrinsic scatter until the stars used stay the same."""
    residual = target - np.median(target[good])
    spread = max(1.4826 * float(np.median(np.abs(residual[good]))), 0.05)
    used = good & (np.abs(residual) < _CLIP_SIGMA * spread)
    intrinsic = spread
    # columns of one size, or the additive term (ADU) spoils the condition of the matrix
    size = np.maximum(np.sqrt(np.mean(matrix[good] ** 2, axis=0)), 1e-300)
    scaled = matrix / size
    coefficients, normal = np.zeros(matrix.shape[1]), np.eye(matrix.shape[1])
    for _ in range(_ROUNDS):
        sigma = np.hypot(error, intrinsic)
        weights = np.minimum(1.0, _HUBER * sigma / np.maximum(np.abs(residual), 1e-12)) / sigma**2
        rows = scaled[used]
        normal = rows.T @ (rows * weights[used, None])
        coefficients = np.linalg.lstsq(normal, rows.T @ (weights[used] * target[used]), rcond=None)[0]
        before, old = used, intrinsic
        residual = target - scaled @ coefficients
        intrinsic = _intrinsic_scatter(residual[used], error[used])
        sigma = np.hypot(error, intrinsic)
        used = good & (np.abs(residual) < _CLIP_SIGMA * sigma)
        if used.sum() < max(MIN_STARS, matrix.shape[1]):
            used = before
        if np.array_equal(used, before) and abs(old - intrinsic) < 1e-5:  # noqa: PLR2004  mag
            break
    covariance = np.linalg.pinv(normal, hermitian=True)
    return coefficients / size, covariance / np.outer(size, size), intrinsic, used


def _intrinsic_scatter(residual: Floats, error: Floats) -> float:
    """Give the scatter beyond the errors that makes the residuals most likely, mag."""
    square, variance = residual**2, error**2

    def cost(scatter: float) -> float:
        total = variance + scatter * scatter
        return float(np.sum(np.log(total) + square / total))

    best = minimize_scalar(cost, bounds=(0.0, _MAX_INTRINSIC_MAG), method="bounded", options={"xatol": 1e-5})
    return float(best.x) if cost(float(best.x)) < cost(0.0) else 0.0
