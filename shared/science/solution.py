"""What photometry left for the steps after it, read with care: users may have replaced the files."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from ..contracts.bands import FILTERS
from ..errors import DataError
from ..worker.step import StepContext
from .catalogs.columns import DEC, RA
from .images import FITS_FAULTS, quiet_fits, read_image, read_mask
from .wcs import field_of, pixel_scale_deg, usable_wcs

_NEEDED: Final = ("x", "y", "ra", "dec", "flux", "fluxerr", "mag_calib", "mag_calib_err", "flags", "FLUX_RADIUS")
_AGAIN: Final = "run photometry again"
TABLE_FAULTS: Final = (OSError, pa.ArrowException, ValueError, TypeError, KeyError)
"""What reading a table of somebody else's making may raise."""


@dataclass(frozen=True)
class Inputs:
    """Results of photometry.

    Parameters
    ----------
    objects
        All that photometry measured.
    catalog
        Its reference catalogue; None when that is gone.
    solution
        `photometry.json`.
    band
        Of the magnitudes.
    header
        Of the image.
    field
        Centre and radius of the frame, degrees.
    """

    objects: Table
    catalog: Table | None
    solution: Mapping[str, Any]
    band: str
    image: NDArray[np.float32]
    header: fits.Header
    mask: NDArray[np.bool_]
    wcs: WCS
    pixscale_deg: float
    field: tuple[float, float, float]
    fwhm_pix: float
    rms_arcsec: float


def load_photometry(ctx: StepContext) -> Inputs:
    """Read what photometry left.

    Raises
    ------
    DataError
        When something is missing or damaged; the text says what.
    """
    objects = _table(ctx, "objects.parquet", _NEEDED)
    path = ctx.input("image.fits")
    if objects is None or path is None:
        text = "The task has no photometry, which this step starts from; run photometry first."
        raise DataError("no_photometry", text)
    solution = _solution(ctx)
    band = solution.get("filter")
    if band not in FILTERS:
        raise DataError("bad_photometry", f"photometry.json names no filter; {_AGAIN}.")
    image, header = read_image(path)
    wcs = _wcs(ctx)
    rows, columns = image.shape
    wcs.pixel_shape = (columns, rows)
    mask_path = ctx.input("mask.fits")
    mask = ~np.isfinite(image) if mask_path is None else read_mask(mask_path, (rows, columns)) | ~np.isfinite(image)
    catalog = _table(ctx, "cat.parquet", (RA, DEC))
    fwhm_pix = _positive(ctx.config.get("fwhm")) or float(np.nanmedian(2 * np.asarray(objects["FLUX_RADIUS"], float)))
    return Inputs(
        objects=objects,
        catalog=catalog,
        solution=solution,
        band=str(band),
        image=image,
        header=header,
        mask=mask,
        wcs=wcs,
        pixscale_deg=pixel_scale_deg(wcs),
        field=field_of(wcs, (rows, columns)),
        fwhm_pix=fwhm_pix if math.isfinite(fwhm_pix) else 0.0,
        rms_arcsec=_positive(ctx.config.get("astrom_rms")) or 0.0,
    )


def read_columns(file: BinaryIO, needed: tuple[str, ...]) -> Table:
    """Read a table as `write_parquet` wrote it; the needed columns must be there and be numbers.

    Raises
    ------
    OSError, pyarrow.ArrowException, ValueError, TypeError, KeyError
        `TABLE_FAULTS`: when it is something else.
    """
    rows = pq.ParquetFile(file).read(use_threads=False)
    table = Table()
    for name in rows.column_names:
        column = rows.column(name)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            table[name] = np.array([value or "" for value in column.to_pylist()], dtype=str)
        elif pa.types.is_boolean(column.type):
            table[name] = column.fill_null(False).to_numpy()
        elif pa.types.is_integer(column.type):
            table[name] = column.fill_null(0).to_numpy()
        elif pa.types.is_floating(column.type):
            table[name] = column.cast(pa.float64()).to_numpy()
    for name in needed:
        table[name].astype(float)
    return table


def _table(ctx: StepContext, name: str, needed: tuple[str, ...]) -> Table | None:
    path = ctx.input(name)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return read_columns(file, needed)
    except TABLE_FAULTS as error:
        text = f"{name} cannot be read, it is not what photometry wrote; {_AGAIN}."
        raise DataError("bad_photometry", text, reason=str(error)) from error


def _solution(ctx: StepContext) -> Mapping[str, Any]:
    path = ctx.input("photometry.json")
    try:
        solution = json.loads(path.read_text()) if path is not None else None
    except (OSError, ValueError) as error:
        raise DataError("bad_photometry", f"photometry.json cannot be read; {_AGAIN}.", reason=str(error)) from error
    if not isinstance(solution, dict):
        raise DataError("bad_photometry", f"photometry.json is missing or damaged; {_AGAIN}.")
    return solution


def _wcs(ctx: StepContext) -> WCS:
    path = ctx.input("image.wcs")
    wcs = None
    if path is not None:
        try:
            with quiet_fits():
                header = fits.getheader(path)
                header.remove("NAXIS", ignore_missing=True)  # 0, because the file has no pixels
                wcs = usable_wcs(header)
        except FITS_FAULTS as error:
            raise DataError("bad_photometry", f"image.wcs cannot be read; {_AGAIN}.", reason=str(error)) from error
    if wcs is None:
        raise DataError("bad_photometry", f"image.wcs is missing or has no usable coordinates; {_AGAIN}.")
    return wcs


def _positive(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if good else None  # type: ignore[arg-type]
