"""What image archives hold: Pan-STARRS skycells, Legacy Survey bricks, and pictures of a HiPS, of one simulated sky.

Files have the cards, the compression and the scaling of the real ones; pixels are larger, to be quick.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from shared.science.templates.cells import legacy_bricks, ps1_skycells

PS1_SCALE_ARCSEC, PS1_SIDE = 1.0, 1560  # 0.25 and 6240 in the archive
LEGACY_SCALE_ARCSEC, LEGACY_SIDE = 0.786, 1200  # 0.262 and 3600
FWHM_ARCSEC = 3.0
NOISE = {"ps1": 1.0, "legacysurvey": 1.0, "hips2fits": 1.0}
PS1_SATURATED = 0x0020
PS1_HARMLESS = 0x8000
LEGACY_SATURATED_R = 0x0008
LEGACY_NOT_PRIMARY = 0x0001
_FWHM_PER_SIGMA = 2.3548200450309493
_PS1_PATH = re.compile(
    r"/rings\.v3\.skycell/(\d{4})/(\d{3})/rings\.v3\.skycell\.\1\.\2\.stk\.([grizy])\.unconv(\.mask)?\.fits"
)
_LEGACY_PATH = re.compile(
    r"/cfs/cosmo/data/legacysurvey/(dr10/south|dr9/north)/coadd/(\d{3})/(\2\d[mp]\d{3})/"
    r"legacysurvey-\3-(image-([griz])|maskbits)\.fits\.fz"
)


@dataclass(frozen=True)
class Stars:
    """Round stars of one width; the sky between them is empty but for noise.

    Parameters
    ----------
    ra_deg, dec_deg, flux
        Of each.
    saturation_flux
        Brighter ones are marked as saturated in masks.
    missing
        What is in the paths of files that archives do not have.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    flux: np.ndarray
    saturation_flux: float = np.inf
    missing: str | None = None

    def draw(self, wcs: WCS, shape: tuple[int, int], fwhm_arcsec: float = FWHM_ARCSEC) -> np.ndarray:
        """Give the flux of the stars in each pixel, float64."""
        image = np.zeros(shape)
        for x, y, flux, sigma in self._places(wcs, shape, fwhm_arcsec):
            reach = int(6 * sigma) + 3
            rows = slice(max(int(y) - reach, 0), max(int(y) + reach, 0))
            columns = slice(max(int(x) - reach, 0), max(int(x) + reach, 0))
            v, u = np.ogrid[rows, columns]
            part = image[rows, columns]
            v, u = v[: part.shape[0]], u[:, : part.shape[1]]
            part += flux / (2 * np.pi * sigma**2) * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
        return image

    def saturated(self, wcs: WCS, shape: tuple[int, int]) -> np.ndarray:
        """Mark the cores of stars that are too bright."""
        marked = np.zeros(shape, bool)
        for x, y, flux, _ in self._places(wcs, shape, FWHM_ARCSEC):
            if flux > self.saturation_flux:
                marked[max(round(y) - 2, 0) : max(round(y) + 3, 0), max(round(x) - 2, 0) : max(round(x) + 3, 0)] = True
        return marked

    def _places(self, wcs: WCS, shape: tuple[int, int], fwhm_arcsec: float):
        x, y = wcs.wcs_world2pix(self.ra_deg, self.dec_deg, 0)
        scale_arcsec = 3600 * np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))
        sigma = fwhm_arcsec / _FWHM_PER_SIGMA / scale_arcsec
        near = (x > -9 * sigma) & (x < shape[1] + 9 * sigma) & (y > -9 * sigma) & (y < shape[0] + 9 * sigma)
        return zip(x[near], y[near], self.flux[near], np.full(near.sum(), sigma), strict=True)


_made: dict[tuple[str, bytes], bytes | None] = {}


def _once(make: Callable[[str, Stars], bytes | None]) -> Callable[[str, Stars], bytes | None]:
    """Make each file of each sky once."""

    def made(path: str, stars: Stars) -> bytes | None:
        if stars.missing is not None and stars.missing in path:
            return None
        key = (path, stars.ra_deg.tobytes() + stars.dec_deg.tobytes() + stars.flux.tobytes())
        if key not in _made:
            _made[key] = make(path, stars)
        return _made[key]

    return made


@_once
def ps1_file(path: str, stars: Stars) -> bytes | None:
    """Give a skycell's image or mask; None when there is no such file."""
    found = _PS1_PATH.fullmatch(path)
    table = ps1_skycells()
    name = f"{found[1]}.{found[2]}" if found else ""
    if name not in table.name:
        return None
    cell = int(np.flatnonzero(table.name == name)[0])
    # one tangent point for all cells of a projection, so that north is up in none of them
    others = np.char.startswith(table.name, name[:5])
    wcs = _tan(PS1_SCALE_ARCSEC, PS1_SIDE, table.ra_deg[others].mean(), table.dec_deg[others].mean())
    at = wcs.wcs_world2pix(table.ra_deg[cell], table.dec_deg[cell], 0)
    wcs.wcs.crpix = [(PS1_SIDE + 1) / 2 + wcs.wcs.crpix[k] - 1 - float(at[k]) for k in range(2)]
    shape = (PS1_SIDE, PS1_SIDE)
    exposure_s = 400.0 + 100.0 * (cell % 5)
    cards = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": wcs.wcs.crval[0], "CRVAL2": wcs.wcs.crval[1],
        "CRPIX1": wcs.wcs.crpix[0], "CRPIX2": wcs.wcs.crpix[1], "CDELT1": PS1_SCALE_ARCSEC / 3600,
        "CDELT2": PS1_SCALE_ARCSEC / 3600, "PC001001": -1.0, "PC001002": 0.0, "PC002001": 0.0, "PC002002": 1.0,
        "EXPTIME": exposure_s, "HIERARCH CELL.GAIN": 1.1, "HIERARCH FPA.ZP": 25.0,
    }  # fmt: skip
    if found[4]:
        bits = np.where(stars.saturated(wcs, shape), PS1_SATURATED, PS1_HARMLESS).astype(np.int32)
        return _packed(fits.CompImageHDU(bits, compression_type="RICE_1"), cards)
    noise = np.random.default_rng(cell).normal(0, NOISE["ps1"], shape)
    flux = (stars.draw(wcs, shape) + noise) * exposure_s
    soften = 50.0
    coded = 2.5 * np.log10(np.e) * np.arcsinh(flux / (2 * soften))
    step, middle = float(np.ptp(coded)) / 65000, float(coded.max() + coded.min()) / 2
    whole = np.rint((coded - middle) / step).astype(np.int16)
    whole[:3] = -32768  # cells have an empty edge
    cards |= {"BSCALE": step, "BZERO": middle, "BLANK": -32768, "BSOFTEN": soften, "BOFFSET": 0.0}
    return _packed(fits.CompImageHDU(whole, compression_type="RICE_1"), cards)


@_once
def legacy_file(path: str, stars: Stars) -> bytes | None:
    """Give a brick's image or mask bits; None when there is no such file."""
    found = _LEGACY_PATH.fullmatch(path)
    table = legacy_bricks()
    name = f"{'S' if found[1] == 'dr10/south' else 'N'}/{found[3]}" if found else ""
    if name not in table.name:
        return None
    brick = int(np.flatnonzero(table.name == name)[0])
    wcs = _tan(LEGACY_SCALE_ARCSEC, LEGACY_SIDE, table.ra_deg[brick], table.dec_deg[brick])
    shape = (LEGACY_SIDE, LEGACY_SIDE)
    cards = dict(wcs.to_header())
    if found[4] == "maskbits":
        bits = np.where(stars.saturated(wcs, shape), LEGACY_SATURATED_R, 0).astype(np.int32)
        bits[:20] |= LEGACY_NOT_PRIMARY
        return _packed(fits.CompImageHDU(bits, compression_type="RICE_1"), cards)
    flux = stars.draw(wcs, shape) + np.random.default_rng(brick).normal(0, NOISE["legacysurvey"], shape)
    flux[:, :10] = 0  # no exposure
    hdu = fits.CompImageHDU(
        flux.astype(np.float32), compression_type="RICE_1", quantize_level=16, quantize_method=2, dither_seed=1
    )
    return _packed(hdu, cards)


def hips_picture(wcs: WCS, shape: tuple[int, int], stars: Stars) -> np.ndarray:
    """Give what hips2fits makes of a survey."""
    noise = np.random.default_rng(5).normal(0, NOISE["hips2fits"], shape)
    return (stars.draw(wcs, shape) + noise).astype(np.float32)


def another(content: bytes) -> bytes:
    """Give a file as it would be for another place, and smaller."""
    with fits.open(io.BytesIO(content)) as hdus:
        hdu = next(part for part in hdus if part.data is not None)
        header = hdu.header.copy()
        header["CRVAL2"] += 5.0
        sink = io.BytesIO()
        fits.PrimaryHDU(np.asarray(hdu.data, np.float32)[: hdu.data.shape[0] // 2], header).writeto(
            sink, output_verify="silentfix"
        )
    return sink.getvalue()


def _tan(scale_arcsec: float, side: int, ra_deg: float, dec_deg: float) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [float(ra_deg), float(dec_deg)]
    wcs.wcs.crpix = [(side + 1) / 2] * 2
    wcs.wcs.cdelt = [-scale_arcsec / 3600, scale_arcsec / 3600]
    return wcs


def _packed(hdu: fits.CompImageHDU, cards: dict[str, object]) -> bytes:
    for key, value in cards.items():
        hdu.header[key] = value
    sink = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(sink)
    return sink.getvalue()
