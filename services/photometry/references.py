"""Where the image is on the sky and which catalogue calibrates it: the parts of the step that ask others."""

import contextlib
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from shared.contracts.bands import CATALOGS, suggested_catalogs
from shared.contracts.params import PhotometryParams
from shared.errors import DataError, StepError, TransientError
from shared.science.astrometry import Solution, refine_wcs
from shared.science.astrometry_blind import blind_match
from shared.science.catalogs import CatalogColumns, catalog_columns, fetch_catalog
from shared.science.targets import resolve_targets
from shared.science.wcs import field_of, pixel_scale_deg, usable_wcs
from shared.worker.step import StepContext

from .core import number_column

_BLIND_TIME_LIMIT_S: Final = 300.0
_FALLBACK_TIME_LIMIT_S: Final = 60.0
_FALLBACK_RADIUS_DEG: Final = 2.0
_FALLBACK_SCALE: Final = 1.3
_DECLINATIONS_DEG: Final = (-60.0, -10.0, 60.0)
"""One in each zone of the rules; a header without WCS does not tell where it is."""
_FIELD_MARGIN: Final = 1.05
"""The header's solution is only roughly right."""


def first_wcs(
    ctx: StepContext, params: PhotometryParams, header: fits.Header, objects: Table, shape: tuple[int, int]
) -> tuple[WCS, bool]:
    """Give the header's solution, or a blind one when asked for or needed, and whether it is a blind one."""
    wcs = usable_wcs(header)
    if wcs is not None and not params.blind_match_wcs:
        return wcs, False
    if wcs is None:
        ctx.log("The header has no usable WCS: solving blindly")
    center = None
    if params.blind_match_center is not None:
        found = resolve_targets(params.blind_match_center, wcs, ctx.resources, ctx.log)[0]
        center = (found.ra_deg, found.dec_deg)
    solved = blind_match(
        objects,
        shape,
        center=center,
        radius_deg=params.blind_match_sr0,
        scale_lo_arcsec=params.blind_match_ps_lo,
        scale_hi_arcsec=params.blind_match_ps_up,
        order=params.refine_order,
        indexes=ctx.resources.astrometry_indexes,
        time_limit_s=_BLIND_TIME_LIMIT_S,
        log=ctx.log,
    )
    return solved, True


def catalog_order(cat_name: str | None, band: str, dec_deg: float, *, suggested: bool) -> tuple[list[str], bool]:
    """List the catalogues to try, and tell whether the choice is ours.

    Parameters
    ----------
    cat_name
        From the config: asked for, or what `inspect` suggested.
    suggested
        Whether `inspect` chose by itself. The user may have asked for another one since, or for another band, so that
        only what it could have suggested counts as a suggestion.
    """
    ours = suggested_catalogs(band, dec_deg)
    if cat_name is None:
        return list(ours), True
    if suggested and band not in CATALOGS[cat_name].filters:
        return list(ours), True
    if suggested and cat_name in {suggested_catalogs(band, anywhere_deg)[0] for anywhere_deg in _DECLINATIONS_DEG}:
        return [cat_name, *(name for name in ours if name != cat_name)], True
    return [cat_name], False


def choose_catalog(
    ctx: StepContext, params: PhotometryParams, wcs: WCS, shape: tuple[int, int]
) -> tuple[str, Table, CatalogColumns]:
    """Get the catalogue that was asked for, else the first suggested one that has stars here.

    Raises
    ------
    DataError
        When no catalogue has stars here.
    TransientError
        When the last one left could not be reached.
    UsageError
        When the one asked for does not have the band.
    """
    ra, dec, radius = field_of(wcs, shape)
    band = params.filter
    names, own_choice = catalog_order(params.cat_name, band, dec, suggested=bool(ctx.config.get("cat_suggested")))
    first = names[0]
    away: TransientError | None = None
    for name in names:
        columns = catalog_columns(name, band)
        try:
            table = fetch_catalog(
                name,
                ra,
                dec,
                radius * _FIELD_MARGIN,
                band=band,
                limit_mag=params.cat_limit,
                resources=ctx.resources,
                log=ctx.log,
            )
        except TransientError as exc:
            if not own_choice:
                raise
            away = exc
            ctx.log(f"Catalogue {name} cannot be reached: {exc.user_message}")
            continue
        stars = int(np.isfinite(number_column(table, columns.mag)).sum())
        if stars:
            if name != first:
                ctx.log(f"Catalogue {name} is used instead of the suggested {first}")
            return name, table, columns
        ctx.log(f"Catalogue {name} has no stars with {band} magnitudes here")
    if away is not None:
        raise away
    limit = "" if params.cat_limit is None else f", a fainter cat_limit than {params.cat_limit:g}"
    text = f"{' and '.join(names)} has no stars with {band} magnitudes in this field; choose another cat_name{limit}."
    raise DataError("no_catalog_stars", text)


def refine(
    ctx: StepContext,
    params: PhotometryParams,
    objects: Table,
    catalog: Table,
    mag_column: str,
    *,
    start: tuple[WCS, bool],
    flat: NDArray[np.float32],
    fwhm_pix: float,
) -> tuple[WCS, Solution | None]:
    """Refine the solution with the catalogue; where that fails, once more from a blind one.

    Without any match the first solution is kept, and the log says so: whether it is right shows in the calibration.
    """
    wcs, blind = start
    if not params.refine_wcs:
        return wcs, None

    def attempt(first: WCS) -> Solution:
        return refine_wcs(
            objects,
            catalog,
            first,
            flat.shape,
            order=params.refine_order,
            radius_arcsec=params.sr_override,
            mag_column=mag_column,
            fwhm_pix=fwhm_pix,
            log=ctx.log,
        )

    try:
        solution = attempt(wcs)
    except DataError as exc:
        ctx.log(f"WCS not refined: {exc.user_message}")
        if blind or exc.code == "too_few_stars":
            return wcs, None
    else:
        return solution.wcs, solution
    ra, dec, _ = field_of(wcs, flat.shape)
    scale_arcsec = 3600 * pixel_scale_deg(wcs)
    try:
        solved = blind_match(
            objects,
            flat.shape,
            center=(ra, dec),
            radius_deg=_FALLBACK_RADIUS_DEG,
            scale_lo_arcsec=scale_arcsec / _FALLBACK_SCALE,
            scale_hi_arcsec=scale_arcsec * _FALLBACK_SCALE,
            order=params.refine_order,
            indexes=ctx.resources.astrometry_indexes,
            time_limit_s=_FALLBACK_TIME_LIMIT_S,
            log=ctx.log,
        )
    except StepError as exc:
        ctx.log(f"Blind matching around the header's position failed as well: {exc.user_message}")
        return wcs, None
    with contextlib.suppress(DataError):
        solution = attempt(solved)
        return solution.wcs, solution
    return solved, None


def sky_positions(objects: Table, wcs: WCS) -> None:
    """Set `ra` and `dec` of objects in place."""
    objects["ra"], objects["dec"] = wcs.all_pix2world(np.asarray(objects["x"]), np.asarray(objects["y"]), 0)
