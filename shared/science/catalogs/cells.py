"""VizieR through a cache of sky cells on the shared volume: a repeated or neighbouring field asks for the new part."""

import contextlib
import io
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import astropy.units as u
import numpy as np
import pandas as pd  # noqa: F401  pyarrow imports it at its first conversion; better while a child warms up
import pyarrow as pa
import pyarrow.parquet as pq
import requests
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astroquery.exceptions import TableParseError
from astroquery.vizier import Vizier
from stdpipe.catalogs import catalogs as STDPIPE_CATALOGS  # noqa: N812  a constant in all but name

from ...contracts.bands import CATALOGS
from ...errors import TransientError
from ...worker.step import Resources
from ..archives import VIZIER, ArchiveFaultError, Log, ask, locked, spared, write_atomically
from .columns import DEC, RA, kept_columns
from .sky import Cells, cells_of, cone_cells, distance_deg, enclosing_cone

CELL_ORDER: Final = 9  # 6.9 arcmin: a good part of a field, so that little is fetched beyond it
LOCK_ORDER: Final = 4  # 3.7 degrees: neighbours wait for each other instead of asking twice
LOCK_TIMEOUT_S: Final = 300.0

_FAILED: Final = re.compile(rb'name="QUERY_STATUS"\s+value="ERROR"')


def fetch_cells(
    code: str,
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    *,
    limit_mag: float | None,
    resources: Resources,
    log: Log,
) -> Table:
    """Get the stars in a cone as VizieR has them, from the cache as far as it goes; parameters as `fetch_catalog`.

    Raises
    ------
    TransientError
        When VizieR is needed and does not answer.
    """
    wanted, _ = cone_cells(ra_deg, dec_deg, radius_deg, CELL_ORDER)
    store = _CellStore(resources.cache_dir / "catalogs" / code, limit_mag)
    if missing := store.missing(wanted):
        with _locks(store.folder, np.array(missing, dtype=np.uint64)):
            missing = store.missing(wanted)  # somebody else may have fetched them while we waited
            if missing:
                _fill(code, store, np.array(missing, dtype=np.uint64), resources, log)
    if not missing:
        spared(VIZIER)
    stars = to_astropy(store.read(wanted), code)
    return select(stars, code, ra_deg, dec_deg, radius_deg, limit_mag=limit_mag)


class _CellStore:
    """Files of one catalogue, a folder per depth; a deeper one serves a shallower question."""

    def __init__(self, folder: Path, limit_mag: float | None) -> None:
        self.folder = folder
        # whole magnitudes, so that 19.8 and 20 share their cells
        self.limit_mag = None if limit_mag is None else int(np.ceil(limit_mag))
        depths = {int(path.name[1:]) for path in folder.glob("m*") if path.name[1:].lstrip("-").isdigit()}
        deeper = sorted(depth for depth in depths if self.limit_mag is not None and depth > self.limit_mag)
        own = "all" if self.limit_mag is None else f"m{self.limit_mag}"
        self.folders = [folder / own, *(folder / f"m{depth}" for depth in deeper)]
        if own != "all":
            self.folders.append(folder / "all")

    def find(self, cell: int) -> Path | None:
        name = f"Norder={CELL_ORDER}-Npix={cell}.parquet"
        return next((folder / name for folder in self.folders if (folder / name).exists()), None)

    def missing(self, cells: Cells) -> list[int]:
        return [int(cell) for cell in cells if self.find(int(cell)) is None]

    def write(self, cell: int, rows: pa.Table) -> None:
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="zstd")
        write_atomically(self.folders[0] / f"Norder={CELL_ORDER}-Npix={cell}.parquet", sink.getvalue())

    def read(self, cells: Cells) -> pa.Table:
        tables = [_read_cell(path) for cell in cells if (path := self.find(int(cell)))]
        filled = [table for table in tables if table.num_rows] or tables[:1]
        return pa.concat_tables(filled, promote_options="permissive")


def _read_cell(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowInvalid) as error:
        with contextlib.suppress(OSError):
            path.unlink()  # so that the next attempt fetches it again
        message = "The cache of reference data was damaged or changed while it was read; try again."
        raise TransientError("archive_unavailable", message, reason=str(error)) from error


@contextlib.contextmanager
def _locks(folder: Path, cells: Cells) -> Iterator[None]:
    coarse = np.unique(cells >> np.uint64(2 * (CELL_ORDER - LOCK_ORDER)))
    end = time.monotonic() + LOCK_TIMEOUT_S
    with contextlib.ExitStack() as stack:
        for cell in coarse:  # always in ascending order: no two can wait for each other
            lock = folder / "locks" / f"Norder={LOCK_ORDER}-Npix={cell}"
            stack.enter_context(locked(lock, timeout_s=max(end - time.monotonic(), 0.0)))
        yield


def _fill(code: str, store: _CellStore, missing: Cells, resources: Resources, log: Log) -> None:
    cone = enclosing_cone(missing, CELL_ORDER)
    log(f"Asking VizieR for {code} around {cone[0]:.4f} {cone[1]:+.4f} within {cone[2]:.3f} deg")
    rows = query_vizier(code, *cone, limit_mag=store.limit_mag, cache_dir=resources.cache_dir, log=log)
    touched, inside = cone_cells(*cone, CELL_ORDER)
    whole = np.union1d(touched[inside], missing)
    table = to_arrow(rows, code)
    owner = cells_of(rows[RA], rows[DEC], CELL_ORDER) if len(rows) else np.empty(0, dtype=np.uint64)
    try:
        for cell in whole:
            store.write(int(cell), table.filter(pa.array(owner == cell)))
    except OSError as error:
        message = "Reference data cannot be stored at the moment, the disk may be full; try again later."
        raise TransientError("storage_unavailable", message, reason=str(error)) from error


def query_vizier(
    code: str,
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    *,
    limit_mag: float | None,
    cache_dir: Path,
    log: Log,
) -> Table:
    """Ask VizieR for a cone, without any cache; parameters as `fetch_catalog`.

    Not STDPipe's `get_cat_vizier`: that one asks twice where a catalogue is empty, tells nothing there from a broken
    answer only by printing, and gives derived bands, which must be made after the cache and not before.

    Raises
    ------
    TransientError
        When VizieR does not answer.
    """
    spec = STDPIPE_CATALOGS[code]
    columns = ["*", RA, DEC, "e_RAJ2000", "e_DEJ2000", *spec.get("extra", [])]
    filters = {} if limit_mag is None else {CATALOGS[code].limit: f"<{limit_mag:g}"}

    def call(http: requests.Session) -> Table:
        pages: list[bytes] = []
        http.hooks["response"].append(lambda response, *_, **__: pages.append(response.content))
        vizier = Vizier(row_limit=-1, columns=columns, column_filters=filters, timeout=VIZIER.deadline_s)
        vizier._session = http  # noqa: SLF001  the only way to bound the time of the whole answer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # VOTable warnings about VizieR's own units and versions
            try:
                answer = vizier.query_region(
                    SkyCoord(ra_deg, dec_deg, unit="deg"),
                    radius=radius_deg * u.deg,
                    catalog=spec["vizier"],
                    cache=False,
                )
            except (TableParseError, ValueError, TypeError) as error:
                msg = f"the answer cannot be parsed ({type(error).__name__})"
                raise ArchiveFaultError(msg) from error
        if not pages or b"</VOTABLE>" not in pages[-1][-200:] or _FAILED.search(pages[-1]):
            msg = "the answer is cut off, or an error of the server"
            raise ArchiveFaultError(msg)
        rows = answer[0] if len(answer) else empty_table(code)
        if {"_RAJ2000", "_DEJ2000"} <= set(rows.colnames) and RA not in rows.colnames:
            rows.rename_columns(["_RAJ2000", "_DEJ2000"], [RA, DEC])
        if not {RA, DEC} <= set(rows.colnames):
            msg = "the answer has no positions"
            raise ArchiveFaultError(msg)
        return rows

    return ask(VIZIER, call, cache_dir, log)


def empty_table(code: str) -> Table:
    """Make a table of no stars that has all of the catalogue's columns."""
    return Table({name: np.empty(0) for name in kept_columns(code)})


def to_arrow(rows: Table, code: str) -> pa.Table:
    """Reduce a table of VizieR to the columns that we keep, all numbers as 64-bit with NaN for a missing value."""
    columns = {}
    for name in kept_columns(code):
        if name not in rows.colnames:
            continue
        values = np.ma.asarray(rows[name])
        if values.dtype.kind == "f":
            columns[name] = pa.array(np.ma.filled(values.astype(np.float64), np.nan))
        elif values.dtype.kind in "iu":
            columns[name] = pa.array(np.ma.filled(values.astype(np.int64), 0))
        else:
            columns[name] = pa.array([str(value) for value in np.ma.filled(values.astype(object), "")], pa.string())
    return pa.table(columns)


def to_astropy(rows: pa.Table, code: str) -> Table:
    """Make an astropy table with degrees and magnitudes from rows of the cache or of a mirror."""
    table = Table()
    for name in kept_columns(code):
        if name not in rows.column_names:
            continue
        column = rows.column(name)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            table[name] = np.array(column.to_pylist(), dtype=str)
        elif pa.types.is_integer(column.type):
            table[name] = column.fill_null(0).to_numpy().astype(np.int64)
        else:
            table[name] = column.cast(pa.float64()).to_numpy().astype(np.float64)
    return table


def select(
    stars: Table, code: str, ra_deg: float, dec_deg: float, radius_deg: float, *, limit_mag: float | None
) -> Table:
    """Keep the stars of a cone down to the limit in the catalogue's own limit column."""
    keep = distance_deg(ra_deg, dec_deg, np.asarray(stars[RA]), np.asarray(stars[DEC])) <= radius_deg
    if limit_mag is not None and (column := CATALOGS[code].limit) in stars.colnames:
        keep &= np.asarray(stars[column]) < limit_mag
    return stars[keep]
