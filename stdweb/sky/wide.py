"""A wide field on real Tycho-2 stars without any WCS in its header, for blind matching.

The stars are read from the index files of Astrometry.net, so that what is drawn is what the solver knows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack

from shared.science.catalogs.sky import distance_deg

from .observe import DATE_OBS, Observation, true_wcs
from .render import draw_stars

SYSTEM_INDEXES: Final = Path("/usr/share/astrometry")
INDEX_NAME: Final = "index-tycho2-07.littleendian.fits"  # the finest: it has the most stars
ZERO_POINT_MAG: Final = 21.8
SKY_ADU: Final = 1200.0
GAIN: Final = 1.3
READ_NOISE_ADU: Final = 5.0
SATURATION_ADU: Final = 65_000.0
FAINT_STARS_PER_MPIX: Final = 1_200
FAINT_LIMITS_MAG: Final = (11.9, 15.0)


def tycho_stars(ra_deg: float, dec_deg: float, radius_deg: float, indexes: Sequence[Path] = ()) -> Table:
    """Read the Tycho-2 stars of a cone, `ra dec` in degrees and `VT` in mag, from an index of Astrometry.net.

    Parameters
    ----------
    ra_deg, dec_deg, radius_deg
        The cone, ICRS.
    indexes
        Folders with index files; empty for where the system installs them.

    Raises
    ------
    FileNotFoundError
        When the index is not installed.
    """
    paths = [folder / INDEX_NAME for folder in (indexes or (SYSTEM_INDEXES,))]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise FileNotFoundError(f"{INDEX_NAME} is in none of the folders; install astrometry-data-tycho2")
    with fits.open(path) as hdus:
        columns = {hdu.columns.names[0]: hdu.data for hdu in hdus[1:]}
        # a kd-tree of unit vectors as 32-bit integers: minimum (3), maximum (3) and the integers per unit
        limits = np.frombuffer(columns["kdtree_range_stars"].tobytes(), "<f8")
        steps = np.frombuffer(columns["kdtree_data_stars"].tobytes(), "<u4").reshape(-1, 3)
        magnitudes = np.asarray(columns["MAG_VT"]["MAG_VT"], dtype=float)
        unit = limits[:3] + steps / limits[6]
    ra, dec = np.degrees(np.arctan2(unit[:, 1], unit[:, 0])) % 360, np.degrees(np.arcsin(unit[:, 2]))
    near = distance_deg(ra_deg, dec_deg, ra, dec) < radius_deg
    return Table({"ra": ra[near], "dec": dec[near], "VT": magnitudes[near]})


def simulate_wide(
    directory: Path,
    *,
    size: int = 2048,
    seed: int = 1,
    ra_deg: float = 295.0,
    dec_deg: float = 30.0,
    pixel_scale_arcsec: float = 5.0,
    fwhm_pix: float = 2.5,
    rotation_deg: float = 123.0,
    indexes: Sequence[Path] = (),
) -> Observation:
    """Simulate a wide field; writes `observation.fits`, `truth.ecsv` and `true_wcs.hdr` as `simulate` does.

    The header tells nothing of the position. Stars fainter than Tycho's are made up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 20264])
    wcs = true_wcs(size, pixel_scale_arcsec, ra_deg, dec_deg, rotation_deg=rotation_deg)
    stars = tycho_stars(ra_deg, dec_deg, 0.75 * size * pixel_scale_arcsec / 3600, indexes)
    stars["x"], stars["y"] = wcs.all_world2pix(stars["ra"], stars["dec"], 0, maxiter=100, quiet=True)
    stars = stars[np.all([(stars[axis] > 0) & (stars[axis] < size) for axis in "xy"], axis=0)]
    stars["kind"] = "tycho"
    faint = Table(rng.uniform(0, size, (int(FAINT_STARS_PER_MPIX * size**2 / 1e6), 2)), names=["x", "y"])
    faint["VT"] = FAINT_LIMITS_MAG[0] + (FAINT_LIMITS_MAG[1] - FAINT_LIMITS_MAG[0]) * np.sqrt(rng.random(len(faint)))
    faint["ra"], faint["dec"] = wcs.all_pix2world(faint["x"], faint["y"], 0)
    faint["kind"] = "faint"
    truth = vstack([stars, faint])
    truth["m_nat"], truth["re"] = truth["VT"], 0.0
    truth["flux"] = 10 ** (-0.4 * (truth["VT"] - ZERO_POINT_MAG))
    light = np.full((size, size), SKY_ADU)
    draw_stars(light, truth["x"], truth["y"], truth["flux"], fwhm_pix)
    image = rng.poisson(light * GAIN) / GAIN + rng.normal(0, READ_NOISE_ADU, light.shape)
    header = fits.Header({"DATE-OBS": DATE_OBS, "EXPTIME": 30.0, "FILTER": "V", "GAIN": GAIN, "INSTRUME": "simulated"})
    path = directory / "observation.fits"
    fits.writeto(path, np.clip(np.round(image), 0, SATURATION_ADU).astype(np.uint16), header, overwrite=True)
    truth.write(directory / "truth.ecsv", overwrite=True)
    (directory / "true_wcs.hdr").write_text(wcs.to_header(relax=True).tostring("\n"))
    return Observation(path, truth, wcs, ZERO_POINT_MAG, 0.0, fwhm_pix, "V", None)
