"""Tables that users read: columns with units, descriptions and UCDs, written as Parquet and VOTable."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from astropy.io.votable import from_table, writeto
from astropy.table import Table


class Column(NamedTuple):
    """Unit (None for a pure number), UCD (UCD1+) and meaning of a column."""

    unit: str | None
    ucd: str
    description: str


COLUMNS: Final = {
    "name": Column(None, "meta.id;meta.main", "Name of the target, as given; of a candidate: its J2000 position"),
    "NUMBER": Column(None, "meta.id", "Number in segmentation.fits"),
    "time": Column(None, "time.epoch", "Time of the observation, UTC"),
    "x": Column("pix", "pos.cartesian.x;instr.det", "Centroid, 0-based"),
    "y": Column("pix", "pos.cartesian.y;instr.det", "Centroid, 0-based"),
    "xerr": Column("pix", "stat.error;pos.cartesian.x;instr.det", "Error of x"),
    "yerr": Column("pix", "stat.error;pos.cartesian.y;instr.det", "Error of y"),
    "ra": Column("deg", "pos.eq.ra;meta.main", "Right ascension, ICRS"),
    "dec": Column("deg", "pos.eq.dec;meta.main", "Declination, ICRS"),
    "flux": Column("adu", "phot.count", "Flux in the aperture above the local sky"),
    "fluxerr": Column("adu", "stat.error;phot.count", "Error of flux"),
    "mag": Column("mag", "phot.mag;instr", "Instrumental magnitude, -2.5 log10(flux)"),
    "magerr": Column("mag", "stat.error;phot.mag", "Error of mag"),
    "mag_calib": Column("mag", "phot.mag", "Magnitude in the instrument's own system: mag + zp(x, y)"),
    "mag_calib_err": Column("mag", "stat.error;phot.mag", "Error of mag_calib, with that of the zero point"),
    "mag_limit": Column("mag", "phot.mag;stat.max", "Limit at this position, in the system of mag_calib"),
    "mag_filter_name": Column(None, "meta.id;instr.filter", "Band"),
    "mag_color_name": Column(None, "meta.id;phot.color", "Colour of the colour term"),
    "mag_color_term": Column(None, "phot.calib", "Colour term: catalogue magnitude = mag_calib + term × colour"),
    "flags": Column(None, "meta.code", "Bit mask of flags"),
    "fwhm": Column("pix", "phys.angSize;instr.det", "FWHM of the object"),
    "a": Column("pix", "phys.angSize.smajAxis;instr.det", "Semi-major axis, second moment"),
    "b": Column("pix", "phys.angSize.sminAxis;instr.det", "Semi-minor axis, second moment"),
    "theta": Column("deg", "pos.posAng;instr.det", "Angle of the major axis from x, towards y"),
    "bg": Column("adu", "instr.background", "Global background at the object"),
    "bg_local": Column("adu", "instr.background", "Local sky above the global background"),
    "npix_aper": Column("pix2", "instr.pixel;meta.number", "Finite pixels in the aperture"),
    "FLUX_RADIUS": Column("pix", "phys.angSize;instr.det", "Radius that holds half of the flux"),
    "FLUX_AUTO": Column("adu", "phot.count", "Flux in a Kron-like aperture"),
    "MAG_AUTO": Column("mag", "phot.mag;instr", "Instrumental magnitude of FLUX_AUTO"),
    "FLUX_MAX": Column("adu", "phot.count;stat.max", "Highest pixel above the background"),
    "significance": Column(None, "stat.snr", "Significance of a point source in the difference"),
    "significance_adjusted": Column(None, "stat.snr", "The same, if the template may be shifted, scaled and blurred"),
    "chi2": Column(None, "stat.fit.chi2", "Chi square per pixel of the core against the shape of stars"),
}
"""Every column of `objects`, `target.vot` and the tables of candidates; described in docs/columns.md."""


def annotate(table: Table) -> Table:
    """Set units, UCDs and descriptions of the columns that are known here."""
    for name in table.colnames:
        if name in COLUMNS:
            row = COLUMNS[name]
            table[name].unit = row.unit
            table[name].description = row.description
            table[name].meta["ucd"] = row.ucd
    return table


def write_parquet(table: Table, path: Path) -> None:
    """Write a table as Parquet, replacing an existing file."""
    table.write(path, format="parquet", overwrite=True)


def write_votable(table: Table, path: Path) -> None:
    """Write a table as VOTable, replacing an existing file; objects of Python become text.

    Binary: it is faster, and astropy's writer of numbers as text writes beyond its buffer (astropy issue 20419).
    """
    plain = table.copy(copy_data=False)
    for name in plain.colnames:
        if plain[name].dtype.kind == "O":
            plain[name] = np.asarray(plain[name], str)
    writeto(from_table(plain), str(path), tabledata_format="binary")
