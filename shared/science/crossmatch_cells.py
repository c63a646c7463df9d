"""The cache of what XMatch told of small cells of the sky."""

import contextlib
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.coordinates import Latitude, Longitude
from astropy.table import Table
from cdshealpix import nested
from mocpy import MOC
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .archives import locked, write_atomically
from .catalogs.sky import Cells, distance_deg
from .matching import unit_vectors

Floats = NDArray[np.float64]

FINEST_ORDER: Final = 17  # 1.6 arcsec
COARSEST_ORDER: Final = 13  # 26 arcsec
FILE_ORDER: Final = 8  # 14 arcmin: a field is a few files
_CELL_PER_RADIUS: Final = 0.4
"""Larger cells need larger circles to be known as a whole, smaller ones are many."""
_CELL_DEG: Final = 58.63  # side of a cell of order 0
_LARGEST_DEG: Final = 60 / 3600
"""XMatch takes circles of three arcminutes at most, and a cell's diagonal is added to ours."""
_COVER_ORDER: Final = 12
_ALIKE: Final = 1.1
LOCK_ORDER: Final = 4
LOCK_TIMEOUT_S: Final = 300.0
_KNOWN: Final = b"cells"


@dataclass(frozen=True)
class Circles:
    """Circles of one radius on the sky, ICRS, and the order of the cells by which they are kept."""

    ra_deg: Floats
    dec_deg: Floats
    radius_deg: float
    order: int

    @classmethod
    def around(cls, ra_deg: Floats, dec_deg: Floats, radius_deg: float) -> "Circles":
        """Cover what is within a radius of positions."""
        if radius_deg > _LARGEST_DEG:
            cover = _touched(ra_deg, dec_deg, radius_deg, _COVER_ORDER)
            lon, lat = nested.healpix_to_lonlat(cover, _COVER_ORDER)
            return cls(lon.deg, lat.deg, cell_diagonal_deg(cover, _COVER_ORDER) / 2, COARSEST_ORDER)
        order = math.log2(_CELL_DEG / (_CELL_PER_RADIUS * radius_deg))
        return cls(ra_deg, dec_deg, radius_deg, min(max(round(order), COARSEST_ORDER), FINEST_ORDER))

    def __len__(self) -> int:
        return len(self.ra_deg)

    def cells(self) -> Cells:
        """List the cells that touch the circles; no point of them is farther out than a cell's diagonal."""
        cells = _touched(self.ra_deg, self.dec_deg, self.radius_deg, self.order)
        reach_deg = self.radius_deg + cell_diagonal_deg(cells, self.order) / 2
        return cells[_near(_centers(cells, self.order), unit_vectors(self.ra_deg, self.dec_deg), reach_deg)]

    def touching(self, cells: Cells) -> "Circles":
        """Keep the circles that touch any of some cells."""
        reach_deg = self.radius_deg + cell_diagonal_deg(cells, self.order) / 2
        touch = _near(unit_vectors(self.ra_deg, self.dec_deg), _centers(cells, self.order), reach_deg)
        return replace(self, ra_deg=self.ra_deg[touch], dec_deg=self.dec_deg[touch])

    def wider(self, by_deg: float) -> "Circles":
        """Give larger circles."""
        return replace(self, radius_deg=self.radius_deg + by_deg)

    def part(self, start: int, stop: int) -> "Circles":
        """Give some of the circles."""
        return replace(self, ra_deg=self.ra_deg[start:stop], dec_deg=self.dec_deg[start:stop])


def _touched(ra_deg: Floats, dec_deg: Floats, radius_deg: float, order: int) -> Cells:
    """List the cells that touch circles, and some that nearly do."""
    around = MOC.from_cones(
        Longitude(ra_deg * u.deg),
        Latitude(dec_deg * u.deg),
        radius=radius_deg * u.deg,
        max_depth=order,
        delta_depth=0,
        union_strategy="small_cones",
    )
    return np.asarray(around.flatten(), np.uint64)


def cell_diagonal_deg(cells: Cells, order: int) -> float:
    """Give twice the largest distance of a corner from its cell's centre; 0 for no cells."""
    if not cells.size:
        return 0.0
    # neighbours are alike
    some = cells[np.unique(parents(cells, order, FILE_ORDER), return_index=True)[1]]
    lon, lat = nested.healpix_to_lonlat(some, order)
    corners_lon, corners_lat = nested.vertices(some, order)
    away_deg = [
        float(distance_deg(lon.deg, lat.deg, corner_lon.deg, corner_lat.deg).max())
        for corner_lon, corner_lat in zip(corners_lon.T, corners_lat.T, strict=True)
    ]
    return 2 * _ALIKE * max(away_deg)


def _centers(cells: Cells, order: int) -> Floats:
    lon, lat = nested.healpix_to_lonlat(cells, order)
    return unit_vectors(lon.deg, lat.deg)


def _near(points: Floats, others: Floats, radius_deg: float) -> NDArray[np.bool_]:
    """Tell which of some unit vectors are within a radius of any of others."""
    chord = 2 * np.sin(np.deg2rad(radius_deg) / 2)
    return np.asarray(np.isfinite(cKDTree(others).query(points, distance_upper_bound=chord * (1 + 1e-9))[0]))


def parents(cells: Cells, order: int, coarse: int) -> Cells:
    """Give the larger cells that hold small ones."""
    return cells >> np.uint64(2 * (order - coarse))


@contextlib.contextmanager
def locked_cells(folder: Path, cells: Cells, order: int) -> Iterator[None]:
    """Let nobody else ask for the same part of the sky meanwhile.

    Raises
    ------
    TransientError
        When somebody else does for too long.
    """
    end = time.monotonic() + LOCK_TIMEOUT_S
    with contextlib.ExitStack() as stack:
        # always in ascending order: no two can wait for each other
        for cell in np.unique(parents(cells, order, LOCK_ORDER)):
            lock = folder / "locks" / f"Norder={LOCK_ORDER}-Npix={cell}"
            stack.enter_context(locked(lock, timeout_s=max(end - time.monotonic(), 0.0)))
        yield


class CellCache:
    """Sources of one survey: a file per larger cell, which notes the small cells that it knows.

    Parameters
    ----------
    folder
        On the shared volume.
    columns
        Of the sources, all of them numbers.
    order
        Of the small cells.
    """

    def __init__(self, folder: Path, columns: tuple[str, ...], order: int) -> None:
        self.folder = folder
        self._order = order
        self._columns = columns
        numbers = {name: pa.array([], pa.float64()) for name in columns}
        self._empty = pa.table({**numbers, "cell": pa.array([], pa.uint64())})
        self._loaded: dict[np.uint64, _File] = {}

    def missing(self, cells: Cells) -> Cells:
        """Tell which cells are not known yet."""
        files = parents(cells, self._order, FILE_ORDER)
        unknown = [
            cells[files == file][~np.isin(cells[files == file], self._load(file).known)] for file in np.unique(files)
        ]
        return np.concatenate([np.zeros(0, np.uint64), *unknown])

    def read(self, cells: Cells) -> Table:
        """Read the sources of known cells."""
        files = np.unique(parents(cells, self._order, FILE_ORDER))
        rows = pa.concat_tables([self._empty, *(self._load(file).rows for file in files)])
        kept = np.isin(rows.column("cell").to_numpy(), cells)
        return Table({name: rows.column(name).to_numpy()[kept] for name in self._columns})

    def add(self, cells: Cells, sources: Table) -> None:
        """Note the sources of cells that were not known; call it holding their lock."""
        arrays = {name: pa.array(np.asarray(sources[name], np.float64)) for name in self._columns}
        new = pa.table({**arrays, "cell": pa.array(np.asarray(sources["cell"], np.uint64))})
        owner = parents(np.asarray(sources["cell"], np.uint64), self._order, FILE_ORDER)
        files = parents(cells, self._order, FILE_ORDER)
        for file in np.unique(files):
            old = self._load(file)
            known = np.union1d(old.known, cells[files == file])
            rows = pa.concat_tables([old.rows, new.filter(pa.array(owner == file))])
            sink = io.BytesIO()
            pq.write_table(rows.replace_schema_metadata({_KNOWN: known.tobytes()}), sink, compression="zstd")
            write_atomically(self._path(file), sink.getvalue())

    def _path(self, file: np.uint64) -> Path:
        return self.folder / f"cells{self._order}" / f"Norder={FILE_ORDER}-Npix={file}.parquet"

    def _load(self, file: np.uint64) -> "_File":
        """Read a file, if it is another than before; one that is absent or damaged knows nothing."""
        path = self._path(file)
        try:
            facts = path.stat()
            stamp = facts.st_ino, facts.st_mtime_ns, facts.st_size
            if file in self._loaded and self._loaded[file].stamp == stamp:
                return self._loaded[file]
            rows = pq.ParquetFile(path).read(use_threads=False)
            known = np.frombuffer((rows.schema.metadata or {})[_KNOWN], np.uint64)
            rows = rows.select([*self._columns, "cell"]).replace_schema_metadata()
        except (OSError, pa.ArrowInvalid, KeyError, ValueError):
            return _File((), np.zeros(0, np.uint64), self._empty)
        self._loaded[file] = _File(stamp, known, rows)
        return self._loaded[file]


@dataclass(frozen=True)
class _File:
    """What a file has: which cells it knows, and their sources."""

    stamp: tuple[int, ...]
    known: Cells
    rows: pa.Table
