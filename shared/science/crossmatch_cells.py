"""The cache of what XMatch told of small cells of the sky."""

import contextlib
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
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

CELL_ORDER: Final = 17  # 1.6 arcsec: larger ones need larger circles to be known as a whole, smaller ones are many
FILE_ORDER: Final = 8  # 14 arcmin: a field is a few files
_ALIKE: Final = 1.1
LOCK_ORDER: Final = 4
LOCK_TIMEOUT_S: Final = 300.0
_KNOWN: Final = b"cells"


@dataclass(frozen=True)
class Circles:
    """Circles of one radius on the sky, ICRS."""

    ra_deg: Floats
    dec_deg: Floats
    radius_deg: float

    def __len__(self) -> int:
        return len(self.ra_deg)

    def cells(self) -> Cells:
        """List the cells that touch the circles; no point of them is farther out than a cell's diagonal."""
        around = MOC.from_cones(
            Longitude(self.ra_deg * u.deg),
            Latitude(self.dec_deg * u.deg),
            radius=self.radius_deg * u.deg,
            max_depth=CELL_ORDER,
            delta_depth=0,
            union_strategy="small_cones",
        )
        cells = np.asarray(around.flatten(), np.uint64)
        reach_deg = self.radius_deg + cell_diagonal_deg(cells) / 2
        return cells[_near(_centers(cells), unit_vectors(self.ra_deg, self.dec_deg), reach_deg)]

    def touching(self, cells: Cells) -> "Circles":
        """Keep the circles that touch any of some cells."""
        reach_deg = self.radius_deg + cell_diagonal_deg(cells) / 2
        touch = _near(unit_vectors(self.ra_deg, self.dec_deg), _centers(cells), reach_deg)
        return Circles(self.ra_deg[touch], self.dec_deg[touch], self.radius_deg)

    def wider(self, by_deg: float) -> "Circles":
        """Give larger circles."""
        return Circles(self.ra_deg, self.dec_deg, self.radius_deg + by_deg)

    def part(self, start: int, stop: int) -> "Circles":
        """Give some of the circles."""
        return Circles(self.ra_deg[start:stop], self.dec_deg[start:stop], self.radius_deg)


def cell_diagonal_deg(cells: Cells) -> float:
    """Give twice the largest distance of a corner from its cell's centre; 0 for no cells."""
    if not cells.size:
        return 0.0
    # neighbours are alike
    some = cells[np.unique(parents(cells, FILE_ORDER), return_index=True)[1]]
    lon, lat = nested.healpix_to_lonlat(some, CELL_ORDER)
    corners_lon, corners_lat = nested.vertices(some, CELL_ORDER)
    return (
        2
        * _ALIKE
        * max(
            float(distance_deg(lon.deg, lat.deg, corner_lon.deg, corner_lat.deg).max())
            for corner_lon, corner_lat in zip(corners_lon.T, corners_lat.T, strict=True)
        )
    )


def _centers(cells: Cells) -> Floats:
    lon, lat = nested.healpix_to_lonlat(cells, CELL_ORDER)
    return unit_vectors(lon.deg, lat.deg)


def _near(points: Floats, others: Floats, radius_deg: float) -> NDArray[np.bool_]:
    """Tell which of some unit vectors are within a radius of any of others."""
    chord = 2 * np.sin(np.deg2rad(radius_deg) / 2)
    return np.asarray(np.isfinite(cKDTree(others).query(points, distance_upper_bound=chord * (1 + 1e-9))[0]))


def parents(cells: Cells, order: int) -> Cells:
    """Give the larger cells that hold small ones."""
    return cells >> np.uint64(2 * (CELL_ORDER - order))


@contextlib.contextmanager
def locked_cells(folder: Path, cells: Cells) -> Iterator[None]:
    """Let nobody else ask for the same part of the sky meanwhile.

    Raises
    ------
    TransientError
        When somebody else does for too long.
    """
    end = time.monotonic() + LOCK_TIMEOUT_S
    with contextlib.ExitStack() as stack:
        for cell in np.unique(parents(cells, LOCK_ORDER)):  # always in ascending order: no two can wait for each other
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
    """

    def __init__(self, folder: Path, columns: tuple[str, ...]) -> None:
        self.folder = folder
        self._columns = columns
        numbers = {name: pa.array([], pa.float64()) for name in columns}
        self._empty = pa.table({**numbers, "cell": pa.array([], pa.uint64())})
        self._loaded: dict[np.uint64, _File] = {}

    def missing(self, cells: Cells) -> Cells:
        """Tell which cells are not known yet."""
        files = parents(cells, FILE_ORDER)
        unknown = [
            cells[files == file][~np.isin(cells[files == file], self._load(file).known)] for file in np.unique(files)
        ]
        return np.concatenate([np.zeros(0, np.uint64), *unknown])

    def read(self, cells: Cells) -> Table:
        """Read the sources of known cells."""
        files = np.unique(parents(cells, FILE_ORDER))
        rows = pa.concat_tables([self._empty, *(self._load(file).rows for file in files)])
        kept = np.isin(rows.column("cell").to_numpy(), cells)
        return Table({name: rows.column(name).to_numpy()[kept] for name in self._columns})

    def add(self, cells: Cells, sources: Table) -> None:
        """Note the sources of cells that were not known; call it holding their lock."""
        arrays = {name: pa.array(np.asarray(sources[name], np.float64)) for name in self._columns}
        new = pa.table({**arrays, "cell": pa.array(np.asarray(sources["cell"], np.uint64))})
        owner = parents(np.asarray(sources["cell"], np.uint64), FILE_ORDER)
        files = parents(cells, FILE_ORDER)
        for file in np.unique(files):
            old = self._load(file)
            known = np.union1d(old.known, cells[files == file])
            rows = pa.concat_tables([old.rows, new.filter(pa.array(owner == file))])
            sink = io.BytesIO()
            pq.write_table(rows.replace_schema_metadata({_KNOWN: known.tobytes()}), sink, compression="zstd")
            write_atomically(self._path(file), sink.getvalue())

    def _path(self, file: np.uint64) -> Path:
        return self.folder / f"cells{CELL_ORDER}" / f"Norder={FILE_ORDER}-Npix={file}.parquet"

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
