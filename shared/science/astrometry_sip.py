"""Least-squares TAN-SIP solutions (Shupe et al. 2005) from positions in pixels and on the sky."""

from typing import Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from .images import quiet_fits

Floats = NDArray[np.float64]

_CENTRE_ITERATIONS: Final = 4
_GRID: Final = 25
"""Points on a side of the grid that the inverse polynomials are fitted on."""


def terms(order: int) -> list[tuple[int, int]]:
    """List the powers (i, j) of u^i v^j up to `order`, the constant and the two linear ones first."""
    return [(total - j, j) for total in range(order + 1) for j in range(total + 1)]


def tangent_plane(ra_deg: Floats, dec_deg: Floats, ra0_deg: float, dec0_deg: float) -> tuple[Floats, Floats]:
    """Project positions on the plane that touches the sphere at (`ra0_deg`, `dec0_deg`); NaN on the far side.

    Returns
    -------
    xi, eta
        Standard coordinates, degrees, eastwards and northwards.
    """
    ra, dec = np.deg2rad(np.asarray(ra_deg, float) - ra0_deg), np.deg2rad(np.asarray(dec_deg, float))
    dec0 = np.deg2rad(dec0_deg)
    cosine = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra)
    cosine = np.where(cosine > 0, cosine, np.nan)
    xi = np.cos(dec) * np.sin(ra) / cosine
    eta = (np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra)) / cosine
    return np.rad2deg(xi), np.rad2deg(eta)


def from_tangent_plane(xi_deg: Floats, eta_deg: Floats, ra0_deg: float, dec0_deg: float) -> tuple[Floats, Floats]:
    """Invert `tangent_plane`; right ascension in 0..360 degrees."""
    xi, eta, dec0 = np.deg2rad(xi_deg), np.deg2rad(eta_deg), np.deg2rad(dec0_deg)
    down = np.cos(dec0) - eta * np.sin(dec0)
    ra = ra0_deg + np.rad2deg(np.arctan2(xi, down))
    dec = np.rad2deg(np.arctan2(np.sin(dec0) + eta * np.cos(dec0), np.hypot(xi, down)))
    return np.mod(ra, 360.0), dec


def fit_sip(
    x: Floats,
    y: Floats,
    ra_deg: Floats,
    dec_deg: Floats,
    *,
    shape: tuple[int, int],
    order: int,
    weights: Floats | None = None,
) -> WCS:
    """Fit a TAN-SIP solution with its reference pixel at the centre of the frame.

    Parameters
    ----------
    x, y
        Positions, pixels, 0-based.
    ra_deg, dec_deg
        The same on the sky, ICRS degrees.
    shape
        Of the image, (rows, columns).
    order
        Of the polynomials; 1 gives a plain TAN solution.
    weights
        Weight of each star in the sum of squares; equal when None.

    Raises
    ------
    ValueError
        When the positions do not determine the solution.
    """
    root = np.ones(len(x)) if weights is None else np.sqrt(weights)
    x0, y0 = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    scale = max(shape) / 2
    u, v = (np.asarray(x, float) - x0) / scale, (np.asarray(y, float) - y0) / scale
    powers = terms(order)
    design = np.stack([u**i * v**j for i, j in powers], axis=1) * root[:, None]
    factors = np.linalg.pinv(design, rcond=1e-12)
    centre = _mean_direction(ra_deg, dec_deg)
    for _ in range(_CENTRE_ITERATIONS):
        xi, eta = tangent_plane(ra_deg, dec_deg, *centre)
        if not (np.isfinite(xi).all() and np.isfinite(eta).all()):
            msg = "positions more than 90 degrees apart"
            raise ValueError(msg)
        solution_xi, solution_eta = factors @ (xi * root), factors @ (eta * root)
        ra0, dec0 = from_tangent_plane(solution_xi[:1], solution_eta[:1], *centre)
        centre = float(ra0[0]), float(dec0[0])
    per_pixel = np.array([1 / scale ** (i + j) for i, j in powers])
    return _wcs_of(
        powers, solution_xi * per_pixel, solution_eta * per_pixel, centre=centre, reference=(x0, y0), shape=shape
    )


def _mean_direction(ra_deg: Floats, dec_deg: Floats) -> tuple[float, float]:
    ra, dec = np.deg2rad(ra_deg), np.deg2rad(dec_deg)
    vector = np.array([np.mean(np.cos(dec) * np.cos(ra)), np.mean(np.cos(dec) * np.sin(ra)), np.mean(np.sin(dec))])
    return (
        float(np.rad2deg(np.arctan2(vector[1], vector[0])) % 360),
        float(np.rad2deg(np.arctan2(vector[2], np.hypot(vector[0], vector[1])))),
    )


def _wcs_of(
    powers: list[tuple[int, int]],
    xi: Floats,
    eta: Floats,
    *,
    centre: tuple[float, float],
    reference: tuple[float, float],
    shape: tuple[int, int],
) -> WCS:
    cd = np.array([[xi[1], xi[2]], [eta[1], eta[2]]])
    if not np.isfinite(cd).all() or abs(np.linalg.det(cd)) < np.finfo(float).tiny:
        msg = "the positions lie on one line"
        raise ValueError(msg)
    bent = np.linalg.solve(cd, np.stack([xi[3:], eta[3:]]))
    order = max(i + j for i, j in powers)
    header = fits.Header()
    suffix = "-SIP" if order > 1 else ""
    header["NAXIS"] = 2
    header["NAXIS1"], header["NAXIS2"] = shape[1], shape[0]
    header["WCSAXES"] = 2
    header["CTYPE1"], header["CTYPE2"] = f"RA---TAN{suffix}", f"DEC--TAN{suffix}"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CRVAL1"], header["CRVAL2"] = centre
    header["CRPIX1"], header["CRPIX2"] = reference[0] + 1, reference[1] + 1
    for row in (0, 1):
        for column in (0, 1):
            header[f"CD{row + 1}_{column + 1}"] = float(cd[row, column])
    header["RADESYS"] = "ICRS"
    if order > 1:
        _add_sip(header, "AB", order, powers[3:], bent)
        inverse_powers, inverse = _inverse(powers[3:], bent, order, reference, shape)
        _add_sip(header, ("AP", "BP"), order, inverse_powers, inverse)
    with quiet_fits():
        return WCS(header)


def _add_sip(
    header: fits.Header, names: str | tuple[str, str], order: int, powers: list[tuple[int, int]], values: Floats
) -> None:
    for name, row in zip(names, values, strict=True):
        header[f"{name}_ORDER"] = order
        for (i, j), value in zip(powers, row, strict=True):
            header[f"{name}_{i}_{j}"] = float(value)


def _inverse(
    powers: list[tuple[int, int]],
    bent: Floats,
    order: int,
    reference: tuple[float, float],
    shape: tuple[int, int],
) -> tuple[list[tuple[int, int]], Floats]:
    """Fit polynomials that undo the distortion, for programs that do not iterate."""
    u, v = (
        axis.ravel()
        for axis in np.meshgrid(
            np.linspace(-reference[0], shape[1] - 1 - reference[0], _GRID),
            np.linspace(-reference[1], shape[0] - 1 - reference[1], _GRID),
        )
    )
    shift = bent @ np.stack([u**i * v**j for i, j in powers])
    scale = max(shape) / 2
    far_u, far_v = (u + shift[0]) / scale, (v + shift[1]) / scale
    inverse_powers = terms(order)[1:]
    design = np.stack([far_u**i * far_v**j for i, j in inverse_powers], axis=1)
    solution, *_ = np.linalg.lstsq(design, -shift.T, rcond=None)
    return inverse_powers, (solution * np.array([[1 / scale ** (i + j)] for i, j in inverse_powers])).T
