"""Which objects are in no catalogue, as functions of arrays and tables: no files, no archives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from shared.science.candidates import MAX_CANDIDATES
from shared.science.catalogs.columns import DEC, RA
from shared.science.crossmatch import GAIA, SKYMAPPER, Survey
from shared.science.matching import all_pairs
from shared.science.shapes import FLAG_ODD_SHAPE

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEIGHBOUR_FLAGS: Final = 0x3
MASKED_FOOTPRINT_FLAG: Final = 0x100
BAD_FLAGS: Final = 0x7FFF & ~(NEIGHBOUR_FLAGS | MASKED_FOOTPRINT_FLAG | FLAG_ODD_SHAPE)
"""Saturated, at the edge, masked pixels in the aperture, not measured."""
_FEWEST_IN_BLEND: Final = 2

_BLUE: Final = ("U", "B", "V", "u", "g", "BP")
_RED: Final = ("R", "r", "G")
_FAR_RED: Final = ("I", "i", "RP", "z", "y")
_GRIZ: Final = {
    **dict.fromkeys(_BLUE, "griz"),
    **dict.fromkeys(_RED, "rigz"),
    **dict.fromkeys(("I", "i", "RP"), "izrg"),
    **dict.fromkeys(("z", "y"), "zirg"),
}


def comparable_columns(survey: Survey, band: str) -> tuple[str, ...]:
    """List the magnitudes of a survey that can stand for a band, the closest first; none for the infrared.

    Two magnitudes are allowed between object and match, so that the difference of neighbouring bands does not matter;
    that between an infrared and an optical one does.
    """
    if survey is GAIA:
        return {
            **dict.fromkeys(_BLUE, ("BPmag", "Gmag", "RPmag")),
            **dict.fromkeys(_RED, ("Gmag", "RPmag", "BPmag")),
            **dict.fromkeys(_FAR_RED, ("RPmag", "Gmag", "BPmag")),
        }.get(band, ())
    suffix = "PSF" if survey is SKYMAPPER else "mag"
    return tuple(f"{letter}{suffix}" for letter in _GRIZ.get(band, ""))


@dataclass(frozen=True)
class Known:
    """Sources of a catalogue.

    Parameters
    ----------
    title
        Name for users.
    ra_deg, dec_deg
        ICRS.
    mag
        Comparable with the objects'; NaN when unknown.
    """

    title: str
    ra_deg: Floats
    dec_deg: Floats
    mag: Floats

    @classmethod
    def of(cls, title: str, sources: Table, columns: Sequence[str]) -> "Known":
        """Take positions, and of the magnitudes the first that is known."""
        mag = np.full(len(sources), np.nan)
        for name in columns:
            if name in sources.colnames:
                mag = np.where(np.isfinite(mag), mag, _floats(sources[name]))
        return cls(title, _floats(sources[RA]), _floats(sources[DEC]), mag)


def reference_stars(title: str, catalog: Table, solution: Mapping[str, object]) -> Known:
    """Give the stars that calibrated the image, in the image's own system of magnitudes."""
    mag, first, second = (
        _floats(catalog[name])
        if (name := str(solution.get(key))) in catalog.colnames
        else np.full(len(catalog), np.nan)
        for key in ("cat_col_mag", "cat_col_color_mag1", "cat_col_color_mag2")
    )
    term = solution.get("color_term")
    color = np.nan_to_num(first - second)
    own = mag - (float(term) if isinstance(term, int | float) else 0.0) * color
    return Known(title, _floats(catalog[RA]), _floats(catalog[DEC]), own)


def good_flags(flags: ArrayLike, *, prefilter: bool) -> Bools:
    """Tell which objects were measured well, and with the filter are not of odd shape.

    A neighbour is reason enough for an odd shape: without this exception a fifth of the transients would be lost.
    """
    values = np.asarray(flags, np.int64)
    odd = (values & FLAG_ODD_SHAPE != 0) & (values & NEIGHBOUR_FLAGS == 0)
    return np.asarray((values & BAD_FLAGS == 0) & ~(odd & prefilter))


def matched(table: Table, known: Known, radius_deg: float, mag_diff: float) -> Bools:
    """Tell which objects are known: not brighter than a match by `mag_diff`, or the match has no magnitude.

    With a difference of 0 every match counts.
    """
    found = np.zeros(len(table), bool)
    objects, sources = all_pairs(table["ra"], table["dec"], known.ra_deg, known.dec_deg, radius_deg)
    mag = _floats(table["mag_calib"])[objects]
    brighter = known.mag[sources] - mag >= mag_diff if mag_diff > 0 else np.zeros(len(objects), bool)
    found[objects[~brighter]] = True
    return found


def blends(table: Table, known: Known, radius_deg: float, reach_deg: float, mag_diff: float) -> Bools:
    """Tell which objects are two or more sources of a catalogue seen as one.

    The common centre of light of all sources within reach is at the object, and together they are not fainter by
    `mag_diff`; with a difference of 0 their brightness does not count.
    """
    found = np.zeros(len(table), bool)
    objects, sources = all_pairs(table["ra"], table["dec"], known.ra_deg, known.dec_deg, reach_deg)
    bright = np.isfinite(known.mag[sources])
    objects, sources = objects[bright], sources[bright]
    ra, dec = _floats(table["ra"]), _floats(table["dec"])
    east = (known.ra_deg[sources] - ra[objects] + 180) % 360 - 180
    east *= np.cos(np.radians(dec[objects]))
    north = known.dec_deg[sources] - dec[objects]
    light = 10 ** (-0.4 * known.mag[sources])
    count, total, x, y = (
        np.bincount(objects, weights, len(table)) for weights in (None, light, light * east, light * north)
    )
    several = count >= _FEWEST_IN_BLEND
    away = np.hypot(x[several], y[several]) / total[several]
    fainter = -2.5 * np.log10(total[several]) - _floats(table["mag_calib"])[several]
    found[several] = (away <= radius_deg) & ((fainter < mag_diff) | (mag_diff == 0))
    return found


def brightest(table: Table, most: int = MAX_CANDIDATES) -> Table:
    """Sort by magnitude and keep the first."""
    return table[np.argsort(_floats(table["mag_calib"]), kind="stable")[:most]]


def _floats(column: ArrayLike) -> Floats:
    return np.ma.filled(np.ma.asarray(column, np.float64), np.nan)
