"""One plane of an image: stored values in a mapped file, read in bands of rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .fits import Part

_BAND_BYTES: Final = 1 << 20
"""A band that stays in the processor's cache while it is converted and summed up."""

_MAX_BAND_ROWS: Final = 32
_HALF_OF_ALL: Final = 2**63

Bool = NDArray[np.bool_]
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Plane:
    """An image plane, row 0 first.

    Parameters
    ----------
    stored
        Values as they are in the file, any type and byte order.
    bscale, bzero
        Physical value = bscale × stored + bzero.
    blank
        Stored value of pixels without a value; None when there is none.
    mask
        Another plane of the same shape that hides pixels where it is not 0; None without.
    """

    stored: NDArray[Any]
    bscale: float = 1.0
    bzero: float = 0.0
    blank: int | None = None
    mask: "Plane | None" = None

    @classmethod
    def of(cls, content: memoryview, part: Part) -> "Plane":
        """Take the first plane of an image that is not compressed, without reading it."""
        rows, columns = part.shape
        stored = np.frombuffer(content, part.dtype, rows * columns, part.offset)
        bzero, blank = part.bzero, part.blank
        if part.bitpix == 64 and bzero == _HALF_OF_ALL:  # noqa: PLR2004
            # unsigned: adding so much to a float would leave nothing of small values
            stored, bzero = stored.astype(np.uint64) ^ np.uint64(_HALF_OF_ALL), 0.0
            blank = None if blank is None else blank + _HALF_OF_ALL
        return cls(stored.reshape(rows, columns), part.bscale, bzero, blank)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def precision(self) -> np.dtype[Any]:
        """Type to calculate in: single precision where that loses nothing that could be seen."""
        small = self.stored.dtype.kind == "f" and self.stored.dtype.itemsize == 4  # noqa: PLR2004
        return np.dtype(np.float32 if small or self.stored.dtype.itemsize <= 2 else np.float64)  # noqa: PLR2004

    def physical(self, values: Values) -> Values:
        """Turn stored into physical values."""
        if self.bscale == 1 and self.bzero == 0:
            return values
        return values * values.dtype.type(self.bscale) + values.dtype.type(self.bzero)

    def bands(self) -> Iterator[tuple[int, Values, Bool | None]]:
        """Read the plane from its first row to its last.

        Yields
        ------
        tuple
            Number of the first row; stored values as floats, in a buffer that is used again; where there is none
            because of mask or blank value, None when nothing is known to be hidden. Values may be NaN or infinite.
        """
        rows, columns = self.shape
        step = min(max(_BAND_BYTES // (columns * self.precision.itemsize), 8), _MAX_BAND_ROWS, rows)
        buffer = np.empty((step, columns), self.precision)
        for start in range(0, rows, step):
            stored = self.stored[start : start + step]
            band = buffer[: len(stored)]
            np.copyto(band, stored)
            yield start, band, self._hidden(stored, slice(start, start + step), slice(None))

    def take(self, rows: slice, columns: slice) -> Values:
        """Read a part as physical values, NaN where there is none."""
        stored = self.stored[rows, columns]
        values = stored.astype(self.precision)
        good = np.isfinite(values)
        if not good.all():
            values[~good] = np.nan
        hidden = self._hidden(stored, rows, columns)
        if hidden is not None:
            values[hidden] = np.nan
        return self.physical(values)

    def _hidden(self, stored: NDArray[Any], rows: slice, columns: slice) -> Bool | None:
        hidden: Bool | None = None
        if self.blank is not None:
            blank: Bool = stored == self.blank
            hidden = blank if blank.any() else None
        if self.mask is not None:
            masked: Bool = self.mask.stored[rows, columns] != self.mask.zero
            if masked.any():
                hidden = masked if hidden is None else hidden | masked
        return hidden

    @property
    def zero(self) -> float:
        """Stored value that means 0."""
        return -self.bzero / self.bscale
