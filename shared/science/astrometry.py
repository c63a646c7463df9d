"""Refining an image's world coordinates with a catalogue.

The own matcher first: about ten times as fast as SCAMP and closer to the truth. Where it finds nothing, STDPipe's
quad-hash and then SCAMP give it another start; what they find is judged, and polished, by the same fit.
"""

from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import sep
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from stdpipe import astrometry as stdpipe_astrometry

from ..errors import DataError
from .astrometry_blind import blind_match
from .astrometry_match import Field, match
from .astrometry_sip import Floats, fit_sip, tangent_plane
from .centroid import windowed_centroids
from .images import FITS_FAULTS, quiet_fits
from .processes import find_program
from .wcs import field_of, pixel_scale_deg

__all__ = ["Solution", "blind_match", "refine_wcs"]

Log = Callable[..., None]

_DEFAULT_STAR_ERROR_ARCSEC: Final = 0.03
_STAR_ERROR_BOUNDS_ARCSEC: Final = (0.0005, 1.0)
_DEFAULT_FWHM_PIX: Final = 3.0
_CENTROID_ERROR: Final = 0.6
"""Error of a centroid is this times FWHM over signal to noise: 1 / 2.355 for a Gaussian, more for wider wings."""

_FIELD_MARGIN: Final = 1.6
_MAX_OBJECTS: Final = 20_000
_MIN_OBJECTS: Final = 5
_BACKGROUND_MESH_PIX: Final = 64
_QUAD_OBJECTS: Final = 150


@dataclass(frozen=True)
class Solution:
    """A refined solution.

    Parameters
    ----------
    wcs
        TAN-SIP with inverse polynomials.
    rms_arcsec
        Root mean square distance of the matched stars, weighted as in the fit.
    matched
        Number of stars in the fit.
    method
        What found the match: `own`, `quad-hash` or `scamp`.
    """

    wcs: WCS
    rms_arcsec: float
    matched: int
    method: str


def refine_wcs(
    objects: Table,
    catalog: Table,
    wcs: WCS,
    shape: tuple[int, int],
    *,
    order: int,
    radius_arcsec: float | None = None,
    mag_column: str | None = None,
    image: NDArray[np.float32] | None = None,
    mask: NDArray[np.bool_] | None = None,
    fwhm_pix: float | None = None,
    log: Log,
) -> Solution:
    """Refine a solution with a catalogue.

    Parameters
    ----------
    objects
        Columns `x`, `y` (pixels, 0-based), `flux`, and if there `fluxerr` and `flags`.
    catalog
        Columns `RAJ2000`, `DEJ2000` (ICRS degrees), and if there `e_RAJ2000`, `e_DEJ2000` (arcsec unless the column
        has another unit).
    wcs
        The solution to start from; may be off by a seventh of the frame, a few degrees and a few per cent in scale.
    shape
        Of the image, (rows, columns).
    order
        Of the distortion polynomial, at most; lowered where there are too few stars.
    radius_arcsec
        Matching radius; from the residuals when None.
    mag_column
        Magnitude column of the catalogue, in any band near that of the image.
    image, mask
        The image and its bad pixels, for windowed centroids; positions are taken as they are when None.
    fwhm_pix
        FWHM of stars.
    log
        Takes lines for the user.

    Raises
    ------
    DataError
        When nothing matches; blind matching may then help.
    """
    if len(objects) < _MIN_OBJECTS or len(catalog) < _MIN_OBJECTS:
        raise DataError(
            "too_few_stars",
            f"{len(objects)} objects and {len(catalog)} catalogue stars are too few for astrometry. "
            "Lower the detection threshold sn, or choose a deeper catalogue.",
        )
    table = _prepared(objects, image, mask, fwhm_pix)
    fwhm_pix = fwhm_pix or _DEFAULT_FWHM_PIX
    for method, start in _starts(table, catalog, wcs, shape, mag_column=mag_column, fwhm_pix=fwhm_pix, log=log):
        solution = _solve(
            table,
            catalog,
            start,
            shape,
            order=order,
            radius_arcsec=radius_arcsec,
            mag_column=mag_column,
            fwhm_pix=fwhm_pix,
            method=method,
        )
        if solution is not None:
            log(
                f"Astrometry ({method}): {solution.matched} stars, order "
                f"{solution.wcs.sip.a_order if solution.wcs.sip else 1}, rms {1000 * solution.rms_arcsec:.1f} mas"
            )
            return solution
        log(f"Astrometry ({method}): no match that is clearly better than chance")
    raise DataError(
        "astrometry_failed",
        "The detected objects do not match the catalogue: the image's world coordinates may be wrong. "
        "Set blind_match_wcs, or check the catalogue and its limit.",
    )


def _starts(
    table: Table,
    catalog: Table,
    wcs: WCS,
    shape: tuple[int, int],
    *,
    mag_column: str | None,
    fwhm_pix: float,
    log: Log,
) -> Iterator[tuple[str, WCS]]:
    yield "own", wcs
    near = _near(catalog, wcs, shape)
    if mag_column is None or len(near) < _MIN_OBJECTS:
        return  # both rank the stars by brightness
    found = _quietly(
        lambda: stdpipe_astrometry.refine_wcs_quadhash(
            table.copy(),
            near,
            wcs=wcs,
            sr=5 * pixel_scale_deg(wcs),
            order=1,  # the polish adds the distortion
            cat_col_mag=mag_column,
            n_det=_QUAD_OBJECTS,
            use_wcs_prior=False,  # the own matcher has tried whatever is near it
            enforce_parity=False,
        )
    )
    if found is not None:
        yield "quad-hash", found
    if find_program("scamp") is None:
        log("SCAMP is not installed")
        return
    with TemporaryDirectory(prefix="stdweb-scamp-") as folder:
        found = _quietly(
            lambda: stdpipe_astrometry.refine_wcs_scamp(
                _with_errors(table, fwhm_pix),
                _with_errors_in_degrees(near),
                wcs=wcs,
                sr=10 * pixel_scale_deg(wcs),
                order=3,
                cat_col_mag=mag_column,
                cat_col_mag_err=f"e_{mag_column}" if f"e_{mag_column}" in near.colnames else None,
                position_maxerr=60 * field_of(wcs, shape)[2] / 2,
                match_flipped=True,
                extra={"NTHREADS": 1},  # a worker runs one step per core
                _tmpdir=folder,
            )
        )
    if found is not None:
        yield "scamp", found


def _with_errors(table: Table, fwhm_pix: float) -> Table:
    """Add the magnitudes and errors that SCAMP reads."""
    table = table.copy()
    flux = np.maximum(table["flux"], 1e-9)
    relative = table["fluxerr"] / flux
    table["xerr"] = table["yerr"] = _CENTROID_ERROR * fwhm_pix * relative
    table["mag"], table["magerr"] = -2.5 * np.log10(flux), 2.5 / np.log(10) * relative
    return table


def _with_errors_in_degrees(catalog: Table) -> Table:
    """Give every star the error of its position, in the unit that SCAMP takes a bare number to have."""
    catalog = catalog.copy()
    catalog["e_RAJ2000"] = catalog["e_DEJ2000"] = _star_errors_deg(catalog)
    return catalog


def _quietly(call: Callable[[], Any]) -> WCS | None:
    """Call STDPipe, whose matchers print, warn, and fail by None or by whatever numpy raises on a few bad stars."""
    with quiet_fits(), redirect_stdout(StringIO()):
        try:
            found = call()
        except (*FITS_FAULTS, RuntimeError):
            return None
    return found if isinstance(found, WCS) and found.has_celestial else None


def _prepared(
    objects: Table, image: NDArray[np.float32] | None, mask: NDArray[np.bool_] | None, fwhm_pix: float | None
) -> Table:
    """Copy what is needed of the objects, brightest first, with better centroids where there is an image."""
    flux = _numbers(objects, "flux", 1.0)
    finite = np.isfinite(flux) & np.isfinite(_numbers(objects, "x", 0)) & np.isfinite(_numbers(objects, "y", 0))
    chosen = np.flatnonzero(finite)[np.argsort(-flux[finite], kind="stable")][:_MAX_OBJECTS]
    x, y = _numbers(objects, "x", 0.0)[chosen], _numbers(objects, "y", 0.0)[chosen]
    if image is not None:
        x, y = windowed_centroids(_flattened(image, mask), x, y, fwhm_pix or _DEFAULT_FWHM_PIX, mask)
    table = Table({"x": x, "y": y, "flux": flux[chosen]})
    table["fluxerr"] = _numbers(objects, "fluxerr", np.nan)[chosen]
    bad = ~(table["fluxerr"] > 0)
    table["fluxerr"][bad] = np.maximum(np.abs(table["flux"][bad]), 1e-9) / 20  # as uncertain as a star of S/N 20
    table["flags"] = _numbers(objects, "flags", 0.0)[chosen].astype(int)
    return table


def _flattened(image: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Subtract the background, unless it is subtracted already."""
    sample = image[::8, ::8]
    sample = sample[np.isfinite(sample)]
    middle = float(np.median(sample)) if sample.size else 0.0
    noise = 1.48 * float(np.median(np.abs(sample - middle))) if sample.size else 0.0
    if abs(middle) <= noise:
        return image
    bad = ~np.isfinite(image) if mask is None else mask | ~np.isfinite(image)
    clean = np.where(np.isfinite(image), image, np.float32(0))
    background = sep.Background(clean, mask=bad, bw=_BACKGROUND_MESH_PIX, bh=_BACKGROUND_MESH_PIX)
    return np.asarray(clean - background.back(dtype=np.float32), dtype=np.float32)


def _solve(
    table: Table,
    catalog: Table,
    wcs: WCS,
    shape: tuple[int, int],
    *,
    order: int,
    radius_arcsec: float | None,
    mag_column: str | None,
    fwhm_pix: float,
    method: str,
) -> Solution | None:
    near = _near(catalog, wcs, shape)
    if mag_column is not None and mag_column in near.colnames:
        brightness = _numbers(near, mag_column, np.nan)
        near = near[np.argsort(np.where(np.isfinite(brightness), brightness, np.inf), kind="stable")]
    ra, dec = _numbers(near, "RAJ2000", np.nan), _numbers(near, "DEJ2000", np.nan)
    centre_ra, centre_dec, _ = field_of(wcs, shape)
    xi, eta = tangent_plane(ra, dec, centre_ra, centre_dec)
    x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
    with quiet_fits():
        sky_ra, sky_dec = wcs.all_pix2world(x, y, 0)
        start = np.stack(tangent_plane(sky_ra, sky_dec, centre_ra, centre_dec), axis=1)
    field = Field(
        x=x,
        y=y,
        error_pix=_CENTROID_ERROR * fwhm_pix * np.asarray(table["fluxerr"] / np.maximum(table["flux"], 1e-9), float),
        clean=np.asarray(table["flags"] == 0),
        xi=xi,
        eta=eta,
        star_error_deg=_star_errors_deg(near),
        ranked=mag_column is not None and mag_column in near.colnames,
        shape=shape,
    )
    found = match(field, start, order, None if radius_arcsec is None else radius_arcsec / 3600)
    if found is None:
        return None
    solved = fit_sip(
        x[found.objects],
        y[found.objects],
        ra[found.stars],
        dec[found.stars],
        shape=shape,
        order=found.order,
        weights=found.weights,
    )
    return Solution(solved, 3600 * found.rms_deg, len(found.objects), method)


def _near(catalog: Table, wcs: WCS, shape: tuple[int, int]) -> Table:
    """Give the stars in and around the frame that have finite positions."""
    ra0, dec0, radius_deg = field_of(wcs, shape)
    ra, dec = _numbers(catalog, "RAJ2000", np.nan), _numbers(catalog, "DEJ2000", np.nan)
    xi, eta = tangent_plane(ra, dec, ra0, dec0)
    with np.errstate(invalid="ignore"):
        near = np.hypot(xi, eta) < _FIELD_MARGIN * radius_deg
    return catalog[near]


def _star_errors_deg(catalog: Table) -> Floats:
    squares = []
    for name in ("e_RAJ2000", "e_DEJ2000"):
        unit = str(catalog[name].unit or "arcsec") if name in catalog.colnames else "arcsec"
        per_arcsec = {"mas": 1e-3, "deg": 3600.0}.get(unit, 1.0)
        errors = _numbers(catalog, name, np.nan) * per_arcsec
        squares.append(np.where(np.isfinite(errors) & (errors > 0), errors, _DEFAULT_STAR_ERROR_ARCSEC) ** 2)
    return np.asarray(np.clip(np.sqrt(np.mean(squares, axis=0)), *_STAR_ERROR_BOUNDS_ARCSEC) / 3600)


def _numbers(table: Table, name: str, default: float) -> Floats:
    if name not in table.colnames:
        return np.full(len(table), default)
    column = table[name]
    values = column.filled(np.nan) if hasattr(column, "filled") and column.dtype.kind == "f" else column
    return np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)
