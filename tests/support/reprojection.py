"""Fields of isolated stars on any pixel grid, and what is measured of them there."""

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

FWHM_PER_SIGMA = 2.3548200450309493
RA_DEG, DEC_DEG = 150.0, 35.0


def tan(
    scale_arcsec: float,
    shape: tuple[int, int],
    *,
    rotation_deg: float = 0.0,
    flipped: bool = False,
    ra_deg: float = RA_DEG,
    dec_deg: float = DEC_DEG,
) -> WCS:
    """Give a TAN solution whose middle is at a position; east is on the right when flipped."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra_deg, dec_deg]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    turn = np.radians(rotation_deg)
    east = 1 if flipped else -1
    wcs.wcs.cd = (
        scale_arcsec
        / 3600
        * np.array([[east, 0], [0, 1]])
        @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    )
    wcs.wcs.set()
    return wcs


def with_sip(wcs: WCS, shape: tuple[int, int], bend_pix: float) -> WCS:
    """Bend a solution by about `bend_pix` at the edges, in second and third order."""
    half = max(shape) / 2
    header = wcs.to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header.update({"A_ORDER": 3, "B_ORDER": 3})
    header.update({"A_2_0": bend_pix / half**2, "A_0_3": bend_pix / 2 / half**3, "A_1_2": -bend_pix / half**3})
    header.update({"B_1_1": -bend_pix / half**2, "B_3_0": bend_pix / 2 / half**3, "B_0_3": bend_pix / half**3})
    return WCS(fits.Header(header))


def with_tpv(wcs: WCS, shape: tuple[int, int], bend_pix: float) -> WCS:
    """Bend a solution by TPV terms: radial, `bend_pix` at the edges."""
    header = wcs.to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    scale_deg = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))
    half_deg = max(shape) / 2 * scale_deg
    bend = bend_pix * scale_deg / half_deg**3
    # x' = x + bend x r^2: terms 7 and 9 of each axis are its cube and its product with the other's square
    for axis in (1, 2):
        header[f"PV{axis}_0"], header[f"PV{axis}_1"], header[f"PV{axis}_2"] = 0.0, 1.0, 0.0
        header[f"PV{axis}_7"], header[f"PV{axis}_9"] = bend, bend
    return WCS(header)


@dataclass(frozen=True)
class Grid:
    """Stars all over a frame, none near its edge: x, y (0-based pixels of the frame) and RA, Dec (degrees)."""

    x: np.ndarray
    y: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray

    @classmethod
    def on(cls, wcs: WCS, shape: tuple[int, int], spacing_pix: int = 40, seed: int = 0) -> "Grid":
        """Put stars on a grid, each moved by up to half a pixel."""
        rng = np.random.default_rng(seed)
        x, y = np.meshgrid(*(np.arange(spacing_pix, side - spacing_pix + 1, spacing_pix) for side in reversed(shape)))
        x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in (x, y))
        return cls(x, y, *wcs.all_pix2world(x, y, 0))

    def draw(self, wcs: WCS, shape: tuple[int, int], fwhm_pix: float, flux: float) -> np.ndarray:
        """Draw the stars, round in this frame's pixels, float32; those outside are left out."""
        image = np.zeros(shape)
        sigma = fwhm_pix / FWHM_PER_SIGMA
        reach = int(6.5 * sigma) + 2
        places = wcs.all_world2pix(self.ra_deg, self.dec_deg, 0, tolerance=1e-6)
        for x, y in zip(*places, strict=True):
            rows = slice(max(round(y) - reach, 0), max(round(y) + reach + 1, 0))
            columns = slice(max(round(x) - reach, 0), max(round(x) + reach + 1, 0))
            part = image[rows, columns]
            v, u = np.mgrid[rows.start : rows.start + part.shape[0], columns.start : columns.start + part.shape[1]]
            part += flux / (2 * np.pi * sigma**2) * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
        return image.astype(np.float32)

    def measure(self, image: np.ndarray, radius_pix: float) -> tuple[np.ndarray, np.ndarray]:
        """Give the flux in an aperture around each star, and how far its centroid is from its true place, pixels."""
        fluxes, offsets = [], []
        for x, y in zip(self.x, self.y, strict=True):
            reach = int(radius_pix) + 1
            v, u = np.mgrid[round(y) - reach : round(y) + reach + 1, round(x) - reach : round(x) + reach + 1]
            part = np.where((u - x) ** 2 + (v - y) ** 2 <= radius_pix**2, image[v, u].astype(float), 0.0)
            fluxes.append(part.sum())
            offsets.append(np.hypot((part * u).sum() / part.sum() - x, (part * v).sum() / part.sum() - y))
        return np.array(fluxes), np.array(offsets)
