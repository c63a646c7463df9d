"""Simulated observations with known truth."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray

from shared.science.catalogs.mirror import COVERAGE_ORDER
from shared.science.catalogs.sky import cone_cells, enclosing_cone

from .mirror import write_mirror
from .render import aperture_fraction, draw_galaxies, draw_stars
from .stars import make_sky
from .transients import NO_HOST, new_sources

Floats = NDArray[np.float64]

ZERO_POINT_MAG: Final = 27.8
COLOR_TERM: Final = 0.05
GAIN: Final = 1.8
SKY_ADU: Final = 700.0
READ_NOISE_E: Final = 7.0
SATURATION_ADU: Final = 60_000.0
EXPOSURE_S: Final = 90.0
DATE_OBS: Final = "2026-11-02T21:35:40.0"
ROTATION_DEG: Final = 8.0
EDGE_PIX: Final = 50  # light of sources beyond the edge still falls on the image
COSMIC_RAY: Final = 1
HOT_PIXEL: Final = 2
_COLOR_OF_BAND: Final = dict.fromkeys("BVRI", ("B", "V")) | {"g": ("g", "r"), "r": ("g", "r"), "i": ("r", "i")}


@dataclass(frozen=True)
class Observation:
    """A simulated image and what is true of it.

    Parameters
    ----------
    image
        FITS file.
    truth
        Every source that was drawn: `x y` (0-based pixels), `ra dec` (degrees), magnitudes, `m_nat` (magnitude in the
        instrument's own system), `flux` (ADU), `zp`, `kind`, `re` (arcsec), with transients `host`.
    wcs
        The true one.
    zero_point_mag
        For the whole flux of a star at the image's centre.
    color_term
        m_nat = m_band + color_term x colour.
    fwhm_pix
        Of the Moffat profile; 2 x FLUX_RADIUS is 1.27 times this.
    band
        Band of the magnitudes.
    mirror_dir
        Local catalogue mirrors of this sky; None when none were asked for.
    artefacts
        FITS file of the image's shape: 1 where a cosmic ray hit, 2 at a hot pixel, else 0; None when there are none.
    """

    image: Path
    truth: Table
    wcs: WCS
    zero_point_mag: float
    color_term: float
    fwhm_pix: float
    band: str
    mirror_dir: Path | None
    artefacts: Path | None = None

    def aperture_zero_point_mag(self, radius_pix: float) -> float:
        """Give the zero point for the flux within a radius, at the image's centre."""
        return self.zero_point_mag + 2.5 * math.log10(aperture_fraction(radius_pix, self.fwhm_pix))


def simulate(
    directory: Path,
    *,
    size: int = 2048,
    seed: int = 1,
    ra_deg: float = 210.0,
    dec_deg: float = 40.0,
    pixel_scale_arcsec: float = 1.0,
    fwhm_pix: float = 3.0,
    filter: str = "r",
    mirror_dir: Path | None = None,
    object_name: str | None = None,
    stars_per_deg2: float | None = None,
    transients: int = 0,
) -> Observation:
    """Simulate an image; writes `observation.fits`, `artefacts.fits`, `truth.ecsv` and `true_wcs.hdr` into a folder.

    The header has a plain TAN WCS, off by a few pixels and 0.04 degrees, where the truth is distorted.

    Parameters
    ----------
    directory
        Made when missing.
    size
        Side of the image, pixels.
    seed
        The same seed gives the same files.
    ra_deg, dec_deg
        Centre, ICRS.
    pixel_scale_arcsec, fwhm_pix
        Scale of the image and width of its stars.
    filter
        Band: one of `B V R I g r i`.
    mirror_dir
        Where to write the mirrors `ps1`, `gaiadr3syn` and `gaiaedr3` of this sky; None for none.
    object_name
        Value of OBJECT; None leaves the header without it, so that no name is looked up.
    stars_per_deg2
        Stars to r = 20; None for about 4,000 on the standard field.
    transients
        How many sources no mirror knows, see `new_sources`.

    Raises
    ------
    ValueError
        For another filter, or when there is no room for the transients.
    """
    if filter not in _COLOR_OF_BAND:
        raise ValueError(f"unknown filter {filter}; allowed: {', '.join(_COLOR_OF_BAND)}")
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 20263])
    wcs = true_wcs(size, pixel_scale_arcsec, ra_deg, dec_deg)
    half_diagonal_deg = size * pixel_scale_arcsec / 3600 / math.sqrt(2)
    cone_deg = 1.3 * half_diagonal_deg + 0.05  # catalogues are asked for somewhat more than the image
    cells, _ = cone_cells(ra_deg, dec_deg, cone_deg, COVERAGE_ORDER)
    cap = enclosing_cone(cells, COVERAGE_ORDER)
    density = {} if stars_per_deg2 is None else {"stars_per_deg2": stars_per_deg2}
    sky = make_sky(cap[0], cap[1], cap[2], seed=seed, **density)
    truth = _seen(sky, wcs, size, filter)
    if transients:
        new = new_sources(truth, size, pixel_scale_arcsec, transients, np.random.default_rng([seed, 20265]))
        new["ra"], new["dec"] = wcs.all_pix2world(new["x"], new["y"], 0)
        truth["host"] = NO_HOST
        truth = vstack([truth, _measured(new, size, filter)])
    image, artefacts = _expose(truth, size, fwhm_pix, pixel_scale_arcsec, rng)
    header = _header(size, pixel_scale_arcsec, ra_deg, dec_deg, filter, object_name)
    path = directory / "observation.fits"
    fits.writeto(path, image, header, overwrite=True)
    fits.writeto(directory / "artefacts.fits", artefacts, overwrite=True)
    truth.write(directory / "truth.ecsv", overwrite=True)
    (directory / "true_wcs.hdr").write_text(wcs.to_header(relax=True).tostring("\n"))
    if mirror_dir is not None:
        write_mirror(sky, mirror_dir, ra_deg=ra_deg, dec_deg=dec_deg, radius_deg=cone_deg, seed=seed)
    return Observation(
        path, truth, wcs, ZERO_POINT_MAG, COLOR_TERM, fwhm_pix, filter, mirror_dir, directory / "artefacts.fits"
    )


def tan_wcs(
    size: int,
    pixel_scale_arcsec: float,
    ra_deg: float,
    dec_deg: float,
    *,
    rotation_deg: float,
    shift_pix: tuple[float, float],
) -> WCS:
    """Make a plain tangential WCS with north up and east left before the rotation."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = [size / 2 + 0.5 + shift_pix[0], size / 2 + 0.5 + shift_pix[1]]
    sine, cosine = math.sin(math.radians(rotation_deg)), math.cos(math.radians(rotation_deg))
    wcs.wcs.cd = pixel_scale_arcsec / 3600 * np.array([[-cosine, sine], [sine, cosine]])
    wcs.pixel_shape = (size, size)
    wcs.wcs.set()
    return wcs


def true_wcs(
    size: int, pixel_scale_arcsec: float, ra_deg: float, dec_deg: float, *, rotation_deg: float = ROTATION_DEG
) -> WCS:
    """Make a WCS with a cubic distortion of about 3 pixels in the corners, whatever the size."""
    wcs = tan_wcs(size, pixel_scale_arcsec, ra_deg, dec_deg, rotation_deg=rotation_deg, shift_pix=(0.0, 0.0))
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    half = size / 2
    cubic, tilt = 1.0 / half**3, 0.3 / half**2
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[3, 0] = a[1, 2] = b[0, 3] = b[2, 1] = cubic
    a[2, 0], a[0, 2], b[1, 1], b[0, 2] = tilt, -0.5 * tilt, 0.7 * tilt, -0.8 * tilt
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def _seen(sky: Table, wcs: WCS, size: int, band: str) -> Table:
    rough = wcs.wcs_world2pix(sky["ra"], sky["dec"], 0)
    near = np.all([(values > -2 * EDGE_PIX) & (values < size + 2 * EDGE_PIX) for values in rough], axis=0)
    truth = sky[near]
    truth["x"], truth["y"] = wcs.all_world2pix(truth["ra"], truth["dec"], 0, maxiter=50)
    inside = np.all([(truth[axis] > -EDGE_PIX) & (truth[axis] < size + EDGE_PIX) for axis in "xy"], axis=0)
    return _measured(truth[inside], size, band)


def _measured(truth: Table, size: int, band: str) -> Table:
    """Tell how bright sources are on the image."""
    u, v = truth["x"] / size - 0.5, truth["y"] / size - 0.5
    truth["zp"] = ZERO_POINT_MAG + 0.02 * u - 0.03 * v - 0.08 * (u**2 + v**2)
    first, second = _COLOR_OF_BAND[band]
    truth["m_nat"] = truth[band] + COLOR_TERM * (truth[first] - truth[second])
    truth["flux"] = 10 ** (-0.4 * (truth["m_nat"] - truth["zp"]))
    return truth


def _expose(
    truth: Table, size: int, fwhm_pix: float, pixel_scale_arcsec: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    light = np.zeros((size, size))
    stars, galaxies = truth[truth["re"] == 0], truth[truth["re"] > 0]
    draw_stars(light, stars["x"], stars["y"], stars["flux"], fwhm_pix)
    draw_galaxies(light, galaxies, fwhm_pix, pixel_scale_arcsec)
    v, u = np.mgrid[0:size, 0:size] / size - 0.5
    light += SKY_ADU * (1 - 0.06 * u + 0.04 * v + 0.05 * (u**2 + v**2))
    image = rng.poisson(light * GAIN) / GAIN + rng.normal(0, READ_NOISE_E / GAIN, light.shape)
    artefacts = np.zeros(image.shape, np.uint8)
    _add_cosmic_rays(image, artefacts, rng)
    _add_hot_pixels(image, artefacts, rng)
    return np.clip(np.round(image), 0, SATURATION_ADU).astype(np.uint16), artefacts


def _add_cosmic_rays(image: Floats, artefacts: NDArray[np.uint8], rng: np.random.Generator) -> None:
    size = image.shape[0]
    for _ in range(int(350 * (size / 2048) ** 2)):
        length, angle = 1 + rng.exponential(4), rng.uniform(0, np.pi)
        x0, y0 = rng.uniform(0, size, 2)
        steps = np.arange(0, length, 0.7)
        xs, ys = (x0 + steps * np.cos(angle)).astype(int), (y0 + steps * np.sin(angle)).astype(int)
        on = (xs >= 0) & (xs < size) & (ys >= 0) & (ys < size)
        pixels = np.unique(np.stack([ys[on], xs[on]]), axis=1)
        image[pixels[0], pixels[1]] += 300 * 10 ** rng.uniform(0, 1.5) * rng.uniform(0.6, 1.2, pixels.shape[1])
        artefacts[pixels[0], pixels[1]] = COSMIC_RAY


def _add_hot_pixels(image: Floats, artefacts: NDArray[np.uint8], rng: np.random.Generator) -> None:
    size = image.shape[0]
    count = int(200 * (size / 2048) ** 2)
    rows, columns = rng.integers(0, size, (2, count))
    image[rows, columns] += 10 ** rng.uniform(3, 4.3, count)
    artefacts[rows, columns] = HOT_PIXEL


def _header(
    size: int, pixel_scale_arcsec: float, ra_deg: float, dec_deg: float, band: str, object_name: str | None
) -> fits.Header:
    rough = tan_wcs(size, pixel_scale_arcsec, ra_deg, dec_deg, rotation_deg=ROTATION_DEG + 0.04, shift_pix=(2.2, -1.7))
    header = rough.to_header()
    header["DATE-OBS"] = (DATE_OBS, "start, UTC")
    header["EXPTIME"] = (EXPOSURE_S, "s")
    header["FILTER"] = band
    header["GAIN"] = (GAIN, "e-/ADU")
    header["SATURATE"] = (0.95 * SATURATION_ADU, "ADU")
    header["INSTRUME"] = "simulated"
    if object_name is not None:
        header["OBJECT"] = object_name
    return header
