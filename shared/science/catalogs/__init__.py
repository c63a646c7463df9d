"""Reference catalogues: from a local mirror when it covers the field, else from VizieR through a cache of sky cells."""

import time

import numpy as np
from astropy.table import Table
from stdpipe.catalogs import augment_cat_bands

from ...errors import TransientError
from ...worker.step import Resources
from ..archives import Log
from .cells import fetch_cells
from .columns import CatalogColumns, catalog_columns
from .mirror import read_mirror

__all__ = ["CatalogColumns", "catalog_columns", "fetch_catalog"]

MIN_MIRROR_FRACTION = 0.5  # below this a partly covered field is no help when VizieR is away


def fetch_catalog(
    code: str,
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    *,
    band: str,
    limit_mag: float | None,
    resources: Resources,
    log: Log,
) -> Table:
    """Get the stars of a reference catalogue in a cone, with STDPipe's columns and derived bands.

    Parameters
    ----------
    code
        Catalogue, a key of `shared.contracts.bands.CATALOGS`.
    ra_deg, dec_deg, radius_deg
        Centre (ICRS) and radius of the field.
    band
        Band that is wanted; the catalogue must have it.
    limit_mag
        Faint limit in the catalogue's own limit column, mag; None for all.
    resources
        Where the mirror and the cache are.
    log
        Takes a line of the step's log.

    Returns
    -------
    astropy.table.Table
        Positions `RAJ2000`, `DEJ2000` (degrees) and magnitudes as plain float columns, NaN where there is none; of
        length 0 when the catalogue has nothing here.

    Raises
    ------
    UsageError
        When the catalogue does not have the band.
    TransientError
        When VizieR is needed and cannot be reached; code `archive_unavailable`.
    """
    catalog_columns(code, band)
    started = time.monotonic()
    local = read_mirror(code, ra_deg, dec_deg, radius_deg, limit_mag=limit_mag, resources=resources, log=log)
    if local is not None and local.complete:
        table, source = local.stars, "the local mirror"
    else:
        try:
            table = fetch_cells(code, ra_deg, dec_deg, radius_deg, limit_mag=limit_mag, resources=resources, log=log)
            source = "VizieR"
        except TransientError:
            if local is None or local.fraction < MIN_MIRROR_FRACTION:
                raise
            table, source = local.stars, f"the local mirror, which covers {100 * local.fraction:.0f} % of the field"
    table.meta["name"] = code
    if len(table):
        with np.errstate(all="ignore"):
            augment_cat_bands(table, catalog=code, verbose=False)
    log(f"Catalogue {code}: {len(table)} stars from {source}, {time.monotonic() - started:.2f} s")
    return table
