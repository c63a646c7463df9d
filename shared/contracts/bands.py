"""Photometric bands, reference catalogues and template surveys, and which one is suggested where."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class Band(_Row):
    """A photometric band: its published name and the other spellings that headers use."""

    name: str
    aliases: tuple[str, ...] = ()


class Catalog(_Row):
    """A reference catalogue: bands that it gives or is converted to, and the column its faint limit applies to."""

    name: str
    filters: tuple[str, ...]
    limit: str


class Template(_Row):
    """A template survey; `filters` is None where any band may be asked for."""

    name: str
    filters: tuple[str, ...] | None = None


def _sloan(letter: str, *more: str) -> tuple[str, ...]:
    upper = letter.upper()
    return (
        f"sdss{letter}",
        f"SDSS {letter}",
        f"SDSS-{letter}",
        f"SDSS-{letter}'",
        f"Sloan-{letter}",
        f"sloan{letter}",
        f"Sloan {letter}",
        f"S{letter}",
        f"S{upper}",
        f"s{upper}",
        *more,
    )


FILTERS: Final[Mapping[str, Band]] = {
    "U": Band(name="Johnson-Cousins U"),
    "B": Band(name="Johnson-Cousins B"),
    "V": Band(name="Johnson-Cousins V"),
    "R": Band(name="Johnson-Cousins R", aliases=("Rc",)),
    "I": Band(name="Johnson-Cousins I", aliases=("Ic", "I'")),
    "u": Band(name="Sloan u", aliases=_sloan("u")),
    "g": Band(name="Pan-STARRS g", aliases=_sloan("g", "ZTF_g")),
    "r": Band(name="Pan-STARRS r", aliases=_sloan("r", "ZTF_r")),
    "i": Band(name="Pan-STARRS i", aliases=_sloan("i", "ZTF_i")),
    "z": Band(name="Pan-STARRS z", aliases=_sloan("z")),
    "y": Band(name="Pan-STARRS y", aliases=_sloan("y")),
    "G": Band(name="Gaia G"),
    "BP": Band(name="Gaia BP"),
    "RP": Band(name="Gaia RP"),
    "J": Band(name="2MASS J"),
    "H": Band(name="2MASS H"),
    "Ks": Band(name="2MASS Ks", aliases=("K",)),
}

CATALOGS: Final[Mapping[str, Catalog]] = {
    "gaiadr3syn": Catalog(name="Gaia DR3 synphot", filters=tuple("UBVRIugrizy"), limit="rmag"),
    "ps1": Catalog(name="Pan-STARRS DR1", filters=tuple("BVRIgrizy"), limit="rmag"),
    "skymapper": Catalog(name="SkyMapper DR4", filters=tuple("BVRIgrizy"), limit="rPSF"),
    "sdss": Catalog(name="SDSS DR16", filters=tuple("ugriz"), limit="rmag"),
    "atlas": Catalog(name="ATLAS-REFCAT2", filters=tuple("BVRIgriz"), limit="rmag"),
    "gaiaedr3": Catalog(name="Gaia eDR3", filters=("G", "BP", "RP"), limit="Gmag"),
    "2mass": Catalog(name="2MASS PSC", filters=("J", "H", "Ks"), limit="Jmag"),
    "vhs": Catalog(name="VHS DR5", filters=("J", "H", "Ks"), limit="Jap3"),
}

TEMPLATES: Final[Mapping[str, Template]] = {
    "custom": Template(name="Custom template of the task"),
    "ps1": Template(name="Pan-STARRS DR2", filters=tuple("griz")),
    "ls": Template(name="Legacy Survey DR10", filters=tuple("griz")),
    "skymapper": Template(name="SkyMapper DR4 (HiPS)", filters=tuple("ugriz")),
    "des": Template(name="Dark Energy Survey DR2 (HiPS)", filters=tuple("griz")),
    "decaps": Template(name="DECaPS DR2 (HiPS)", filters=tuple("griz")),
    "ztf": Template(name="ZTF DR7 (HiPS)", filters=tuple("gri")),
    "2mass": Template(name="2MASS (HiPS)", filters=("J", "H", "Ks")),
}

_CODE_BY_SPELLING: Final = {alias: code for code, band in FILTERS.items() for alias in (code, *band.aliases)}


def band_of(spelling: str) -> str | None:
    """Give the code of the band that `spelling` names, or None; spellings are case-sensitive."""
    return _CODE_BY_SPELLING.get(spelling.strip())


def magnitude_system(band: str) -> Literal["AB", "Vega"]:
    """Tell the system of the magnitudes that every catalogue gives in a band: AB for ugrizy, Vega for the others."""
    return "AB" if band in set("ugrizy") else "Vega"


def suggested_catalogs(band: str, dec_deg: float) -> tuple[str, ...]:
    """List the catalogues that have `band`, the suggested one first.

    Parameters
    ----------
    band
        Code of the band, a key of `FILTERS`.
    dec_deg
        Declination of the field's centre, ICRS degrees.
    """
    if band in {"U", "B", "V", "R", "I"}:
        first = "gaiadr3syn"
    elif band in {"G", "BP", "RP"}:
        first = "gaiaedr3"
    elif band in {"J", "H", "Ks"}:
        first = "vhs" if dec_deg < 0 else "2mass"
    else:
        first = "skymapper" if dec_deg < -30 else "ps1"  # noqa: PLR2004  the southern limit of Pan-STARRS
    others = [code for code, catalog in CATALOGS.items() if code != first and band in catalog.filters]
    return (first, *others) if band in CATALOGS[first].filters else tuple(others)
