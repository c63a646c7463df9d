"""Stars with known positions, as detected and as catalogued, behind a known distortion."""

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

ARCSEC = 1 / 3600
CENTRE = (120.0, 35.0)


@dataclass(frozen=True)
class Sky:
    objects: Table
    catalog: Table
    truth: WCS
    rough: fits.Header
    shape: tuple[int, int]


def make(side: int = 2048, stars: int = 2500, seed: int = 1, noise_pix: float = 0.02, unmatched: float = 0.2) -> Sky:
    """Make a field; `unmatched` is the share of objects that are not in the catalogue, and the other way round."""
    random = np.random.default_rng(seed)
    rough = fits.Header({"NAXIS": 2, "NAXIS1": side, "NAXIS2": side})
    rough.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": CENTRE[0], "CRVAL2": CENTRE[1]})
    rough.update({"CRPIX1": side / 2 + 3, "CRPIX2": side / 2 - 2})
    angle = np.deg2rad(12.0)
    matrix = ARCSEC * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for i in (0, 1):
        for j in (0, 1):
            rough[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
    header = rough.copy()
    header.update({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRPIX1": side / 2, "CRPIX2": side / 2})
    header.update({"A_ORDER": 3, "A_2_0": 3e-7, "A_1_1": -2e-7, "A_3_0": 1.2e-9, "A_1_2": 1.2e-9})
    header.update({"B_ORDER": 3, "B_0_2": -2.5e-7, "B_1_1": 1.5e-7, "B_0_3": 1.2e-9, "B_2_1": 1.2e-9})
    truth = WCS(header)
    # half as many again around the frame, in the catalogue only
    x, y = random.uniform(-0.12 * side, 1.12 * side, (2, int(1.5 * stars)))
    ra, dec = truth.all_pix2world(x, y, 0)
    magnitude = 22 + 2.5 * np.log10(random.uniform(0.002, 1, len(x))) / 1.2
    inside = (x > 0) & (x < side) & (y > 0) & (y < side)
    error_arcsec = np.full(len(x), 0.02)
    catalog = Table(
        {
            "RAJ2000": ra + random.normal(0, 0.02 * ARCSEC, len(x)) / np.cos(np.deg2rad(dec)),
            "DEJ2000": dec + random.normal(0, 0.02 * ARCSEC, len(x)),
            "e_RAJ2000": error_arcsec,
            "e_DEJ2000": error_arcsec,
            "rmag": magnitude + random.normal(0, 0.1, len(x)),
        }
    )
    seen = inside & (random.uniform(size=len(x)) > unmatched)
    flux = 10 ** (-0.4 * (magnitude[seen] - 27))
    objects = Table(
        {
            "x": x[seen] + random.normal(0, noise_pix, seen.sum()),
            "y": y[seen] + random.normal(0, noise_pix, seen.sum()),
            "flux": flux,
            "fluxerr": flux / 100,
            "flags": np.zeros(seen.sum(), int),
        }
    )
    return Sky(objects, catalog[random.uniform(size=len(x)) > unmatched], truth, rough, (side, side))


def residual_mas(wcs: WCS, sky: Sky) -> float:
    """Root mean square distance from the truth in the central 80 % of each axis."""
    side = sky.shape[0]
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.linspace(0.1, 0.9, 25) * side] * 2))
    ra, dec = wcs.all_pix2world(x, y, 0)
    true_ra, true_dec = sky.truth.all_pix2world(x, y, 0)
    return float(3.6e6 * np.sqrt(np.mean(((ra - true_ra) * np.cos(np.deg2rad(dec))) ** 2 + (dec - true_dec) ** 2)))
