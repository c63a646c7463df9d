"""A made-up sky: stars and galaxies whose Pan-STARRS, Johnson-Cousins and Sloan magnitudes agree with each other."""

from typing import Final

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray
from stdpipe.catalogs import augment_cat_bands

Floats = NDArray[np.float64]

STARS_PER_DEG2: Final = 13_000.0  # to r = 20
GALAXIES_PER_DEG2: Final = 1_200.0
BRIGHTEST_MAG: Final = 9.0
FAINTEST_MAG: Final = 22.8
FAINTEST_GALAXY_MAG: Final = 22.0
COUNT_SLOPE: Final = 0.20  # of log10 N per mag
_SLOAN_FROM_PS1: Final = {  # STDPipe's polynomials from Sloan to Pan-STARRS, in Sloan g-r; inverted below
    "g": (-0.030414391501015867, -0.09960002492299584, -0.002910024005294562),
    "r": (-0.009566553708653305, 0.014924591443344211, -0.003928147919030857),
    "i": (-0.010802807724098494, 0.01124900218746879, 0.01274293783734852),
    "z": (-0.0031896767661109523, 0.06537983414287968, 0.007695587806229381),
}


def make_sky(
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    *,
    seed: int,
    stars_per_deg2: float = STARS_PER_DEG2,
    galaxies_per_deg2: float = GALAXIES_PER_DEG2,
) -> Table:
    """Scatter stars and galaxies over a cap of the sphere.

    Parameters
    ----------
    ra_deg, dec_deg, radius_deg
        Centre and radius of the cap, ICRS.
    seed
        The same seed gives the same sky.
    stars_per_deg2, galaxies_per_deg2
        Stars to r = 20, galaxies to r = 22.

    Returns
    -------
    astropy.table.Table
        `id ra dec kind`, magnitudes `g r i z y` (Pan-STARRS), `B V R I`, `U`, `u_sloan g_sloan …`, and the shape of
        galaxies: `re` (half-light radius, arcsec; 0 for stars), `q`, `pa` (radians).
    """
    rng = np.random.default_rng([seed, 20261])
    area_deg2 = 2 * np.pi * (1 - np.cos(np.radians(radius_deg))) * np.degrees(1) ** 2
    to_all = 10 ** (COUNT_SLOPE * (FAINTEST_MAG - 20))
    sky = vstack(
        [
            _stars(rng, int(stars_per_deg2 * to_all * area_deg2)),
            _galaxies(rng, int(galaxies_per_deg2 * area_deg2)),
        ]
    )
    sky["ra"], sky["dec"] = _cap(rng, len(sky), ra_deg, dec_deg, radius_deg)
    sky["id"] = np.arange(len(sky))
    _add_johnson_cousins(sky)
    _add_sloan(sky)
    return sky


def _cap(
    rng: np.random.Generator, count: int, ra_deg: float, dec_deg: float, radius_deg: float
) -> tuple[Floats, Floats]:
    """Draw positions, even over the sphere, within a radius of a centre."""
    cosine = 1 - rng.random(count) * (1 - np.cos(np.radians(radius_deg)))
    around = rng.uniform(0, 2 * np.pi, count)
    sine = np.sqrt(1 - cosine**2)
    east, north = sine * np.sin(around), sine * np.cos(around)
    ra0, dec0 = np.radians(ra_deg), np.radians(dec_deg)
    outward = cosine * np.cos(dec0) - north * np.sin(dec0)
    dec = np.arcsin(np.clip(cosine * np.sin(dec0) + north * np.cos(dec0), -1, 1))
    return np.degrees(ra0 + np.arctan2(east, outward)) % 360, np.degrees(dec)


def _stars(rng: np.random.Generator, count: int) -> Table:
    lowest = 10 ** (COUNT_SLOPE * (BRIGHTEST_MAG - FAINTEST_MAG))
    r = FAINTEST_MAG + np.log10(lowest + (1 - lowest) * rng.random(count)) / COUNT_SLOPE
    # turn-off stars and red dwarfs; along the locus g-r saturates near 1.2 while r-i goes on
    hot = rng.random(count) < 0.6  # noqa: PLR2004
    along = np.clip(np.where(hot, rng.normal(0.5, 0.15, count), rng.normal(1.5, 0.35, count)), -0.2, 2.4)
    gr = np.where(along < 1.1, along, 1.1 + 0.1 * np.tanh(along - 1.1))  # noqa: PLR2004
    ri = np.where(along < 1.1, 0.40 * along - 0.02, 0.42 + 0.95 * (along - 1.1))  # noqa: PLR2004
    scatter = rng.normal(0, 0.02, (4, count))
    gr, ri = gr + scatter[0], ri + scatter[1]
    iz, zy = 0.50 * ri + scatter[2], 0.24 * ri + scatter[3]
    stars = Table({"r": r, "g": r + gr, "i": r - ri})
    stars["z"] = stars["i"] - iz
    stars["y"] = stars["z"] - zy
    stars["kind"] = np.full(count, "star", dtype="U12")
    stars["re"], stars["q"], stars["pa"] = np.zeros(count), np.ones(count), np.zeros(count)
    return stars


def _galaxies(rng: np.random.Generator, count: int) -> Table:
    r = np.maximum(FAINTEST_GALAXY_MAG + np.log10(rng.random(count)) / 0.45, 15.0)
    galaxies = Table({"r": r, "g": r + rng.normal(0.7, 0.2, count), "i": r - rng.normal(0.35, 0.1, count)})
    galaxies["z"] = galaxies["i"] - rng.normal(0.2, 0.1, count)
    galaxies["y"] = galaxies["z"] - rng.normal(0.1, 0.05, count)
    galaxies["kind"] = np.full(count, "galaxy", dtype="U12")
    galaxies["re"] = np.clip(10 ** (0.3 - 0.15 * (r - 19)) * rng.lognormal(0, 0.3, count), 0.4, 10)
    galaxies["q"], galaxies["pa"] = rng.uniform(0.3, 1, count), rng.uniform(0, np.pi, count)
    return galaxies


def _add_johnson_cousins(sky: Table) -> None:
    """Derive B, V, R, I as STDPipe does for Pan-STARRS, so that both catalogues say the same; U by a rough locus."""
    bands = Table(
        {f"{band}mag": sky[band] for band in "grizy"} | {f"e_{band}mag": np.zeros(len(sky)) for band in "grizy"}
    )
    augment_cat_bands(bands, catalog="ps1", verbose=False)
    for band in "BVRI":
        sky[band] = bands[f"{band}mag"]
    sky["U"] = sky["B"] + 1.2 * (sky["B"] - sky["V"]) - 0.75


def _add_sloan(sky: Table) -> None:
    sloan = {band: np.array(sky[band], dtype=float) for band in "griz"}
    for _ in range(8):  # a contraction: the colour terms are below 0.13
        color = sloan["g"] - sloan["r"]
        sloan = {band: sky[band] - np.polyval(_SLOAN_FROM_PS1[band], color) for band in "griz"}
    for band, magnitudes in sloan.items():
        sky[f"{band}_sloan"] = np.asarray(magnitudes)
    sky["u_sloan"] = sky["U"] + 0.85
