"""Plate solutions of the Digitized Sky Survey.

Evaluated here because wcslib, which astropy asks, reads stray memory where a card such as PLATEID is missing.
"""

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from .astrometry_sip import from_tangent_plane

Floats = NDArray[np.float64]


def has_plate_solution(header: fits.Header) -> bool:
    """Tell whether the header has a plate solution instead of a WCS."""
    return "AMDX1" in header and "PLTRAH" in header and "CTYPE1" not in header


def plate_positions(header: fits.Header, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Give the sky position of pixels (Russell et al. 1990, AJ 99, 2059; the DSS header description).

    Parameters
    ----------
    header
        With the solution.
    x, y
        Pixels, 0-based.

    Returns
    -------
    ra, dec
        Degrees, J2000.

    Raises
    ------
    KeyError, ValueError
        When cards are missing or no numbers.
    """
    plate_x = (float(header["PPO3"]) - float(header["XPIXELSZ"]) * (x + float(header["CNPIX1"]) + 0.5)) / 1000
    plate_y = (float(header["YPIXELSZ"]) * (y + float(header["CNPIX2"]) + 0.5) - float(header["PPO6"])) / 1000
    xi = _polynomial([float(header.get(f"AMDX{k}", 0.0)) for k in range(1, 14)], plate_x, plate_y)
    eta = _polynomial([float(header.get(f"AMDY{k}", 0.0)) for k in range(1, 14)], plate_y, plate_x)
    ra0 = 15 * sum(float(header[f"PLTRA{part}"]) / 60**k for k, part in enumerate("HMS"))
    dec0 = sum(float(header[f"PLTDEC{part}"]) / 60**k for k, part in enumerate("DMS"))
    sign = -1 if str(header.get("PLTDECSN", "+")).strip() == "-" else 1
    return from_tangent_plane(xi / 3600, eta / 3600, ra0, sign * dec0)


def _polynomial(a: list[float], x: Floats, y: Floats) -> Floats:
    """Evaluate the plate polynomial; that of the other coordinate is the same with x and y exchanged."""
    r2 = x**2 + y**2
    powers = (x, y, np.ones_like(x), x**2, x * y, y**2, r2, x**3, x**2 * y, x * y**2, y**3, x * r2, x * r2**2)
    total = np.zeros_like(x)
    for coefficient, power in zip(a, powers, strict=True):
        total = total + coefficient * power
    return total
