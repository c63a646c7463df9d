"""The cache of what XMatch told of small cells of the sky."""

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table

from .archives import locked, write_atomically
from .catalogs.sky import Cells

CELL_ORDER: Final = 14  # 13 arcsec: larger ones bring more sources that are not asked for, smaller ones more questions
FILE_ORDER: Final = 9
LOCK_ORDER: Final = 4
LOCK_TIMEOUT_S: Final = 300.0
_KNOWN: Final = b"cells"


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

    def missing(self, cells: Cells) -> Cells:
        """Tell which cells are not known yet."""
        files = parents(cells, FILE_ORDER)
        unknown = [
            cells[files == file][~np.isin(cells[files == file], self._load(file)[0])] for file in np.unique(files)
        ]
        return np.concatenate([np.zeros(0, np.uint64), *unknown])

    def read(self, cells: Cells) -> Table:
        """Read the sources of known cells."""
        files = parents(cells, FILE_ORDER)
        tables = [self._load(file)[1] for file in np.unique(files)]
        rows = pa.concat_tables([self._empty(), *tables])
        kept = np.isin(rows.column("cell").to_numpy(), cells)
        return Table({name: rows.column(name).to_numpy()[kept] for name in self._columns})

    def add(self, cells: Cells, sources: Table) -> None:
        """Note the sources of cells that were not known; call it holding their lock."""
        arrays = {name: pa.array(np.asarray(sources[name], np.float64)) for name in self._columns}
        new = pa.table({**arrays, "cell": pa.array(np.asarray(sources["cell"], np.uint64))})
        owner = parents(np.asarray(sources["cell"], np.uint64), FILE_ORDER)
        files = parents(cells, FILE_ORDER)
        for file in np.unique(files):
            known, rows = self._load(file)
            known = np.union1d(known, cells[files == file])
            rows = pa.concat_tables([rows, new.filter(pa.array(owner == file))])
            sink = io.BytesIO()
            pq.write_table(rows.replace_schema_metadata({_KNOWN: known.tobytes()}), sink, compression="zstd")
            write_atomically(self._path(file), sink.getvalue())

    def _path(self, file: np.uint64) -> Path:
        return self.folder / f"Norder={FILE_ORDER}-Npix={file}.parquet"

    def _empty(self) -> pa.Table:
        return pa.table(
            {name: pa.array([], pa.float64()) for name in self._columns} | {"cell": pa.array([], pa.uint64())}
        )

    def _load(self, file: np.uint64) -> tuple[Cells, pa.Table]:
        """Read a file; one that is absent or damaged knows nothing."""
        try:
            rows = pq.ParquetFile(self._path(file)).read()
            known = np.frombuffer((rows.schema.metadata or {})[_KNOWN], np.uint64)
            return known, rows.select([*self._columns, "cell"]).replace_schema_metadata()
        except (OSError, pa.ArrowInvalid, KeyError, ValueError):
            return np.zeros(0, np.uint64), self._empty()
