"""Making local catalogue mirrors in HATS layout, from VizieR or from files; existing ones are added to."""

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table
from mocpy import MOC
from numpy.typing import NDArray

from ...contracts.bands import CATALOGS
from ...errors import UsageError
from ..archives import Log, locked
from .cells import query_vizier, to_arrow
from .columns import DEC, KEPT, RA
from .mirror import (
    COVERAGE_FILE,
    COVERAGE_ORDER,
    INDEX_COLUMN,
    INDEX_ORDER,
    found_partitions,
    partition_path,
    read_coverage,
    read_properties,
)
from .sky import Cells, cells_of, cone_cells, enclosing_cone

PARTITION_ORDER: Final = 5  # 1.8 degrees: a few files a field, some 100,000 stars each
PARTITION_SHIFT: Final = 2 * (INDEX_ORDER - PARTITION_ORDER)
CELL_SHIFT: Final = 2 * (INDEX_ORDER - COVERAGE_ORDER)
FETCH_ORDER: Final = 6  # 55 arcmin: what one question to VizieR covers
ROW_GROUP_SIZE: Final = 10_000  # a cone reads little beyond itself
STARS_PER_CELL: Final = 30  # an imported table is judged in cells that would hardly be empty by chance
LOCK_TIMEOUT_S: Final = 600.0
_POSITIONS: Final = (("_RAJ2000", "_DEJ2000"), ("RA_ICRS", "DE_ICRS"), ("ra", "dec"), ("RA", "DEC"))


def import_catalog(source: Path, mirror_dir: Path, code: str) -> int:
    """Add a table with VizieR's columns to a mirror and give its number of rows.

    The table counts as complete in the cells of the sky in which it has rows.

    Parameters
    ----------
    source
        Parquet, VOTable, FITS or CSV file.
    mirror_dir
        Folder of all mirrors.
    code
        Catalogue, a key of `shared.contracts.bands.CATALOGS`.

    Raises
    ------
    UsageError
        When the file cannot be read or lacks columns.
    """
    stars = _with_positions(_read_table(source), code)
    order = int(np.clip(np.log(max(len(stars) / STARS_PER_CELL, 1) / 12) / np.log(4), 3, COVERAGE_ORDER))
    order = _densest_order(stars, order)
    cells = np.unique(cells_of(stars[RA], stars[DEC], order))
    return add_to_mirror(stars, mirror_dir, code, cells=cells, order=order, keep=True)


def fetch_to_mirror(
    code: str,
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    *,
    limit_mag: float | None,
    mirror_dir: Path,
    log: Log,
) -> int:
    """Copy a cone of a catalogue from VizieR into a mirror, cell by cell, and give the number of stars.

    Parameters as `fetch_catalog`. What was copied before an interruption stays and is not asked for again.

    Raises
    ------
    TransientError
        When VizieR does not answer.
    """
    check_code(code)
    wanted, _ = cone_cells(ra_deg, dec_deg, radius_deg, COVERAGE_ORDER)
    parents = wanted >> np.uint64(2 * (COVERAGE_ORDER - FETCH_ORDER))
    total = 0
    for number, parent in enumerate(np.unique(parents), start=1):
        cells = wanted[parents == parent]
        if _holds(mirror_dir / code, cells, limit_mag):
            log(f"Part {number} of {len(np.unique(parents))}: already there")
            continue
        cone = enclosing_cone(cells, COVERAGE_ORDER)
        guard_dir = mirror_dir / ".archives"
        stars = query_vizier(code, *cone, limit_mag=limit_mag, cache_dir=guard_dir, log=log)
        stars = stars[np.isin(cells_of(stars[RA], stars[DEC], COVERAGE_ORDER), cells)]
        total += add_to_mirror(stars, mirror_dir, code, cells=cells, order=COVERAGE_ORDER, limit_mag=limit_mag)
        log(f"Part {number} of {len(np.unique(parents))}: {len(stars)} stars")
    return total


def add_to_mirror(
    stars: Table,
    mirror_dir: Path,
    code: str,
    *,
    cells: Cells,
    order: int,
    limit_mag: float | None = None,
    keep: bool = False,
    note: str | None = None,
) -> int:
    """Add stars to a mirror; what it had in the same cells is replaced.

    Parameters
    ----------
    stars
        Table with VizieR's columns.
    mirror_dir, code
        Folder of all mirrors, and the catalogue.
    cells, order
        HEALPix cells (nested) of the sky in which the table is complete.
    limit_mag
        How deep it is, in the catalogue's limit column; None for as deep as the catalogue.
    keep
        Stars that the mirror had in these cells stay, unless a new one has the same position.
    note
        A warning that everybody who reads the mirror shall see in the step's log; None keeps the one that it has.
    """
    check_code(code)
    folder = mirror_dir / code
    folder.mkdir(parents=True, exist_ok=True)
    with locked(mirror_dir / f".{code}.lock", LOCK_TIMEOUT_S):
        rows = to_arrow(stars, code)
        index = cells_of(stars[RA], stars[DEC], INDEX_ORDER).astype(np.int64) if len(stars) else np.empty(0, np.int64)
        rows = rows.add_column(0, INDEX_COLUMN, pa.array(index))
        stale = np.empty(0, np.int64) if keep else _ranges_of(cells, order)
        pixels = index >> PARTITION_SHIFT
        for pixel in np.union1d(pixels, stale >> PARTITION_SHIFT):
            path = folder / partition_path(PARTITION_ORDER, int(pixel), {})
            _write_partition(path, rows.filter(pa.array(pixels == pixel)), _schema(folder) or rows.schema, stale)
        added = MOC.from_healpix_cells(cells, np.uint8(order), COVERAGE_ORDER)
        _write_metadata(folder, code, added, limit_mag=limit_mag, note=note)
    return len(stars)


def check_code(code: str) -> None:
    """Refuse an unknown catalogue.

    Raises
    ------
    UsageError
        When `code` is none of ours.
    """
    if code not in CATALOGS:
        message = f"Unknown catalogue {code}; allowed: {', '.join(CATALOGS)}."
        raise UsageError("unknown_catalog", message)


def _read_table(source: Path) -> Table:
    formats = {".parquet": "parquet", ".csv": "ascii.csv", ".vot": "votable", ".xml": "votable", ".fits": "fits"}
    kind = formats.get(source.suffix.lower())
    if kind is None:
        message = f"{source.name}: the ending must be one of {', '.join(formats)}."
        raise UsageError("bad_catalog_file", message)
    try:
        return Table.read(source, format=kind)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        message = f"{source.name} cannot be read as {kind}: {error}"
        raise UsageError("bad_catalog_file", message) from error


def _with_positions(stars: Table, code: str) -> Table:
    check_code(code)
    if not {RA, DEC} <= set(stars.colnames):
        for ra, dec in _POSITIONS:
            if {ra, dec} <= set(stars.colnames):
                stars.rename_columns([ra, dec], [RA, DEC])
                break
    needed = {RA, DEC, CATALOGS[code].limit}
    if missing := sorted(needed - set(stars.colnames)):
        message = (
            f"The table lacks {', '.join(missing)}; columns must be named as VizieR does: {', '.join(KEPT[code])}."
        )
        raise UsageError("bad_catalog_file", message)
    if len(stars) == 0:
        message = "The table has no rows."
        raise UsageError("bad_catalog_file", message)
    return stars


def _densest_order(stars: Table, order: int) -> int:
    """Give the finest order at which an occupied cell has enough stars for its neighbour not to be empty by chance."""
    for finer in range(COVERAGE_ORDER, order, -1):
        _, counts = np.unique(cells_of(stars[RA], stars[DEC], finer), return_counts=True)
        if np.median(counts) >= STARS_PER_CELL:
            return finer
    return order


def _holds(folder: Path, cells: Cells, limit_mag: float | None) -> bool:
    if not (folder / COVERAGE_FILE).exists():
        return False
    depth = float(read_properties(folder).get("stdweb_limit_mag", "inf"))
    wanted = MOC.from_healpix_cells(cells, np.uint8(COVERAGE_ORDER), COVERAGE_ORDER)
    deep_enough = depth >= (np.inf if limit_mag is None else limit_mag)
    common = wanted.intersection(read_coverage(folder, []))  # mocpy's difference of disjoint MOCs is wrong
    return bool(deep_enough and np.isclose(common.sky_fraction, wanted.sky_fraction, rtol=1e-6))


def _schema(folder: Path) -> pa.Schema | None:
    path = folder / "dataset" / "_common_metadata"
    return pq.read_schema(path).remove_metadata() if path.exists() else None


def _conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring rows to the columns and types that the mirror has had from its first row on."""
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _ranges_of(cells: Cells, order: int) -> NDArray[np.int64]:
    """Give the first spatial index of every cell of the coverage's order."""
    finer = 2 * (COVERAGE_ORDER - order)
    starts = (cells.astype(np.int64) << finer)[:, None] + np.arange(1 << finer)
    return np.sort(starts.ravel()) << CELL_SHIFT


def _write_partition(path: Path, rows: pa.Table, schema: pa.Schema, stale: NDArray[np.int64]) -> None:
    rows = _conform(rows, schema)
    if path.exists():
        old = _conform(pq.ParquetFile(path).read(), schema)
        index = old.column(INDEX_COLUMN).to_numpy()
        gone = np.isin(index, rows.column(INDEX_COLUMN).to_numpy()) | np.isin(index >> CELL_SHIFT, stale >> CELL_SHIFT)
        rows = pa.concat_tables([old.filter(pa.array(~gone)), rows])
    if not rows.num_rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    pq.write_table(rows.sort_by(INDEX_COLUMN), part, row_group_size=ROW_GROUP_SIZE, compression="zstd")
    part.replace(path)


def _write_metadata(folder: Path, code: str, added: MOC, *, limit_mag: float | None, note: str | None) -> None:
    """Write what makes the folder a HATS catalogue, and the part of the sky that it covers."""
    from hats.catalog.dataset.table_properties import TableProperties
    from hats.catalog.partition_info import PartitionInfo
    from hats.io.parquet_metadata import write_parquet_metadata
    from hats.pixel_math.healpix_pixel import HealpixPixel

    coverage, depth = added, limit_mag
    if (folder / COVERAGE_FILE).exists():
        coverage = added.union(read_coverage(folder, []))
        properties = read_properties(folder)
        note = note or properties.get("stdweb_note")
        before = float(properties.get("stdweb_limit_mag", "inf"))
        shallowest = min(before, np.inf if limit_mag is None else limit_mag)
        depth = shallowest if np.isfinite(shallowest) else None
    pixels = found_partitions(folder)
    if not pixels:
        return
    rows = write_parquet_metadata(folder)
    PartitionInfo([HealpixPixel(order, pixel) for order, pixel in pixels]).write_to_file(catalog_path=folder)
    facts = {"stdweb_limit_mag": None if depth is None else f"{depth:g}", "stdweb_note": note}
    extra: dict[str, Any] = {name: fact for name, fact in facts.items() if fact is not None}
    TableProperties(
        obs_collection=code,
        dataproduct_type="object",
        hats_nrows=rows,
        hats_col_ra=RA,
        hats_col_dec=DEC,
        hats_col_healpix=INDEX_COLUMN,
        hats_col_healpix_order=INDEX_ORDER,
        moc_sky_fraction=float(coverage.sky_fraction),
        **extra,
    ).to_properties_file(folder)
    part = folder / f".{COVERAGE_FILE}.{os.getpid()}"
    coverage.save(part, format="fits", overwrite=True)
    part.replace(folder / COVERAGE_FILE)
