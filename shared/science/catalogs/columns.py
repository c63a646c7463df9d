"""Which columns of the catalogues at VizieR we keep, and which of them give the magnitude and colour of a band."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...contracts.bands import CATALOGS
from ...errors import UsageError

RA: Final = "RAJ2000"
DEC: Final = "DEJ2000"


def _with_errors(*names: str) -> tuple[str, ...]:
    return tuple(column for name in names for column in (name, f"e_{name}"))


def _magnitudes(bands: str) -> tuple[str, ...]:
    return _with_errors(*(f"{band}mag" for band in bands))


_GAIA_SYNTHETIC: Final = "UBVRIugrizy"

# As VizieR names them. Everything else is left behind: a field of a dense catalogue is large enough as it is.
KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    "gaiadr3syn": (
        "Source",
        *(f"{band}mag" for band in _GAIA_SYNTHETIC),
        *(column for band in _GAIA_SYNTHETIC for column in (f"F{band}", f"e_F{band}")),
    ),
    "ps1": ("objID", "e_RAJ2000", "e_DEJ2000", *_magnitudes("grizy")),
    "skymapper": ("ObjectId", *_with_errors("uPSF", "vPSF", "gPSF", "rPSF", "iPSF", "zPSF")),
    "sdss": ("objID", "class", *_magnitudes("ugriz")),
    "atlas": ("RefCat2", *_magnitudes("grizJHKG"), "BPmag", "e_BPmag", "RPmag", "e_RPmag"),
    "gaiaedr3": ("Source", "pmRA", "pmDE", *_with_errors("Gmag", "BPmag", "RPmag")),
    "2mass": ("2MASS", *_magnitudes("JHK")),
    "vhs": ("SrcID", *_with_errors("Jap3", "Hap3", "Ksap3")),
    "des": ("gmag", "rmag", "imag", "zmag", "Ymag"),  # DES DR2, II/371/des_dr2; only to tell what is known
}


def kept_columns(code: str) -> tuple[str, ...]:
    """List the columns of a catalogue, the position first."""
    return (RA, DEC, *KEPT[code])


@dataclass(frozen=True)
class CatalogColumns:
    """Columns of an augmented catalogue that calibrate one band; magnitudes throughout.

    Parameters
    ----------
    mag, mag_err
        The band and its error.
    color_mag1, color_mag2
        The colour is the first minus the second.
    """

    mag: str
    mag_err: str
    color_mag1: str
    color_mag2: str


_COLORS: Final = {
    **dict.fromkeys(("U", "B", "V", "R", "I"), ("B", "V")),
    **dict.fromkeys(("u", "g", "r"), ("g", "r")),
    **dict.fromkeys(("i", "z", "y"), ("r", "i")),
    **dict.fromkeys(("G", "BP", "RP"), ("BP", "RP")),
    **dict.fromkeys(("J", "H", "Ks"), ("J", "Ks")),
}


def catalog_columns(code: str, band: str) -> CatalogColumns:
    """Tell which columns of catalogue `code` calibrate `band`.

    Raises
    ------
    UsageError
        When the catalogue does not have the band.
    """
    if band not in CATALOGS[code].filters:
        having = ", ".join(other for other, row in CATALOGS.items() if band in row.filters) or "none"
        message = f"The catalogue {code} has no band {band}; catalogues that have it: {having}."
        raise UsageError("no_such_band", message)
    first, second = _COLORS[band]
    return CatalogColumns(f"{band}mag", f"e_{band}mag", f"{first}mag", f"{second}mag")
