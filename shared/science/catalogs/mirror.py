"""Reading local catalogue mirrors in HATS layout: `<mirror_dir>/<code>/dataset/Norder=k/Dir=d/Npix=n.parquet`.

Read with pyarrow alone: the `hats` package takes seconds to import and opens more than a cone needs. It writes the
mirrors, see `stdweb catalog`.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.coordinates import Latitude, Longitude
from astropy.table import Table
from mocpy import MOC

from ...worker.step import Resources
from ..archives import Log
from .cells import select, to_astropy
from .columns import DEC, RA, kept_columns
from .sky import cone_cells

INDEX_ORDER: Final = 29
INDEX_COLUMN: Final = "_healpix_29"
COVERAGE_FILE: Final = "coverage.fits"
COVERAGE_ORDER: Final = 8
DIRECTORY_SIZE: Final = 10_000
COMPLETE: Final = 0.999  # cells at the rim of a cone are approximated


@dataclass(frozen=True)
class LocalStars:
    """What a mirror has of a cone.

    Parameters
    ----------
    stars
        Rows in the cone.
    fraction
        Part of the cone that the mirror covers, 0 to 1.
    """

    stars: Table
    fraction: float

    @property
    def complete(self) -> bool:
        """Tell whether the mirror covers the whole cone."""
        return self.fraction >= COMPLETE


def read_mirror(
    code: str,
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    *,
    limit_mag: float | None,
    resources: Resources,
    log: Log,
) -> LocalStars | None:
    """Get the stars of a cone from the local mirror; None where it covers nothing of it or does not exist.

    Parameters as `fetch_catalog`. Reads only the partitions, row groups and columns that the cone needs.
    """
    if resources.mirror_dir is None:
        return None
    folder = resources.mirror_dir / code
    try:
        properties = read_properties(folder)
    except FileNotFoundError:
        return None
    try:
        partitions = read_partitions(folder)
        fraction = covered_fraction(folder, partitions, ra_deg, dec_deg, radius_deg)
        if fraction <= 0:
            log(f"The local mirror of {code} does not cover this field")
            return None
        paths = [folder / partition_path(order, pixel, properties) for order, pixel in partitions]
        touched = [
            path
            for path, partition in zip(paths, partitions, strict=True)
            if _touches(partition, ra_deg, dec_deg, radius_deg)
        ]
        rows = _read(touched, code, properties, _ranges(ra_deg, dec_deg, radius_deg))
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        log(f"The local mirror of {code} is damaged ({type(error).__name__}: {error}), it is left aside")
        return None
    if not {RA, DEC} <= set(rows.column_names):
        log(f"The local mirror of {code} has not the columns of VizieR, it is left aside")
        return None
    if "stdweb_note" in properties:
        log(f"The local mirror of {code}: {properties['stdweb_note']}")
    depth = float(properties.get("stdweb_limit_mag", "nan"))
    if np.isfinite(depth) and (limit_mag is None or limit_mag > depth):
        log(f"The local mirror of {code} ends at {depth:g} mag")
    stars = select(to_astropy(rows, code), code, ra_deg, dec_deg, radius_deg, limit_mag=limit_mag)
    return LocalStars(stars, fraction)


def read_properties(folder: Path) -> dict[str, str]:
    """Read the properties of a HATS catalogue.

    Raises
    ------
    FileNotFoundError
        When `folder` holds none.
    """
    path = folder / "hats.properties"
    lines = (path if path.exists() else folder / "properties").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def read_partitions(folder: Path) -> list[tuple[int, int]]:
    """List the partitions of a HATS catalogue as order and nested pixel."""
    try:
        with (folder / "partition_info.csv").open(newline="") as file:
            return [(int(row["Norder"]), int(row["Npix"])) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return found_partitions(folder)


def found_partitions(folder: Path) -> list[tuple[int, int]]:
    """List the partitions whose files are there."""
    names = (folder / "dataset").glob("Norder=*/Dir=*/Npix=*")
    found = ((path.parts[-3].partition("=")[2], path.name.partition("=")[2].partition(".")[0]) for path in names)
    return sorted((int(order), int(pixel)) for order, pixel in found)


def partition_path(order: int, pixel: int, properties: Mapping[str, str]) -> Path:
    """Give the path of a partition below the catalogue's folder."""
    suffix = properties.get("hats_npix_suffix", ".parquet").rstrip("/")
    directory = pixel // DIRECTORY_SIZE * DIRECTORY_SIZE
    return Path("dataset") / f"Norder={order}" / f"Dir={directory}" / f"Npix={pixel}{suffix}"


def read_coverage(folder: Path, partitions: list[tuple[int, int]]) -> MOC:
    """Give the sky that a mirror holds: what its maker noted, else all of its partitions."""
    path = folder / COVERAGE_FILE
    if path.exists():
        return MOC.load(path, format="fits")
    if not partitions:
        return MOC.new_empty(COVERAGE_ORDER)
    orders, pixels = np.array(partitions, dtype=np.uint64).T
    return MOC.from_healpix_cells(pixels, orders.astype(np.uint8), int(orders.max()))


def covered_fraction(
    folder: Path, partitions: list[tuple[int, int]], ra_deg: float, dec_deg: float, radius_deg: float
) -> float:
    """Tell which part of a cone a mirror holds, 0 to 1."""
    # two orders finer than the cells, so that a rim which only touches a missing cell does not count
    center = Longitude(ra_deg * u.deg), Latitude(dec_deg * u.deg)
    cone = MOC.from_cone(*center, radius=max(radius_deg, 1e-3) * u.deg, max_depth=COVERAGE_ORDER + 3)
    common = cone.intersection(read_coverage(folder, partitions))
    return float(common.sky_fraction / cone.sky_fraction)


def _touches(partition: tuple[int, int], ra_deg: float, dec_deg: float, radius_deg: float) -> bool:
    order, pixel = partition
    return pixel in cone_cells(ra_deg, dec_deg, radius_deg, order)[0]


def _ranges(ra_deg: float, dec_deg: float, radius_deg: float) -> list[tuple[int, int]]:
    """Give the ranges of the spatial index that hold the cone, few rather than tight."""
    order = int(np.clip(np.floor(np.log2(58.6 / max(radius_deg, 1e-3))), 3, 12))  # cells of about the radius
    cells = np.sort(cone_cells(ra_deg, dec_deg, radius_deg, order)[0].astype(np.int64))
    starts = cells[np.insert(np.diff(cells) > 1, 0, True)]
    ends = cells[np.append(np.diff(cells) > 1, True)] + 1
    shift = 2 * (INDEX_ORDER - order)
    return [(int(start) << shift, int(end) << shift) for start, end in zip(starts, ends, strict=True)]


def _read(paths: list[Path], code: str, properties: Mapping[str, str], ranges: list[tuple[int, int]]) -> pa.Table:
    """Read the row groups whose spatial index may lie in the ranges."""
    index = properties.get("hats_col_healpix", INDEX_COLUMN)
    comparable = properties.get("hats_col_healpix_order", str(INDEX_ORDER)) == str(INDEX_ORDER)
    tables = [pa.table({name: pa.array([], pa.float64()) for name in kept_columns(code)})]
    for path in paths:
        file = pq.ParquetFile(path)
        stored = file.schema_arrow.names
        position = stored.index(index) if comparable and index in stored else None
        groups = [
            number
            for number in range(file.num_row_groups)
            if position is None or _overlaps(file.metadata.row_group(number).column(position).statistics, ranges)
        ]
        names = [name for name in kept_columns(code) if name in stored]
        tables.append(file.read_row_groups(groups, columns=names, use_threads=False))
    filled = [table for table in tables if table.num_rows] or tables[:1]
    return pa.concat_tables(filled, promote_options="permissive")


def _overlaps(statistics: pq.Statistics | None, ranges: list[tuple[int, int]]) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    return any(first <= statistics.max and statistics.min < end for first, end in ranges)
