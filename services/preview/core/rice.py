"""Undoing Rice compression of tiles, several times faster than astropy does on the whole, with astropy's own codec.

astropy spends most of its time between the tiles, which usually are single rows.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed._compression import (
    decompress_rice_1_c,
    unquantize_double_c,
    unquantize_float_c,
)
from numpy.typing import NDArray

from .fits import Part

_BLOCK_PIX: Final = 32
_PIXEL_BYTES: Final = 4
_DITHER: Final = {"NO_DITHER": 0, "SUBTRACTIVE_DITHER_1": 1, "SUBTRACTIVE_DITHER_2": 2}
_COLUMNS: Final = frozenset(("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA", "ZSCALE", "ZZERO"))


class RiceTiles:
    """A Rice-compressed image of two axes.

    Parameters
    ----------
    content
        The file.
    part
        Where the image is in it.
    table
        The same as a table.
    """

    def __init__(self, content: memoryview, part: Part, table: fits.BinTableHDU) -> None:
        header = table.header
        options = {
            str(header[f"ZNAME{number}"]).upper(): header[f"ZVAL{number}"]
            for number in range(1, 10)
            if f"ZNAME{number}" in header and f"ZVAL{number}" in header
        }
        self._block_pix = int(options.get("BLOCKSIZE", _BLOCK_PIX))
        self._pixel_bytes = int(options.get("BYTEPIX", _PIXEL_BYTES))
        self._part = part
        self._dither = _DITHER.get(str(header.get("ZQUANTIZ", "NO_DITHER")).strip())
        self._seed = int(header.get("ZDITHER0", 0))
        self._blank = header.get("ZBLANK")
        kind = table.columns.dtype.newbyteorder(">")
        self._rows = np.frombuffer(content, kind, int(header["NAXIS2"]), part.offset)
        start = part.offset + int(header.get("THEAP", kind.itemsize * len(self._rows)))
        self._heap = content[start : part.offset + part.size]
        self._known = (
            header["ZCMPTYPE"] in {"RICE_1", "RICE_ONE"}
            and kind.itemsize == header["NAXIS1"]
            and set(kind.names or ()) <= _COLUMNS
        )

    @property
    def quantized(self) -> bool:
        """Whether floating-point pixels were made integers first."""
        return "ZSCALE" in (self._rows.dtype.names or ()) and self._part.bitpix < 0

    @property
    def usable(self) -> bool:
        """Whether this is what `fill` understands; astropy understands the rest."""
        part = self._part
        return (
            self._known
            and len(part.lengths) == len(part.tile or ()) == 2  # noqa: PLR2004
            and len(self._rows) == sum(1 for _ in _tiles(part))
            and bool((self._rows["COMPRESSED_DATA"][:, 0] > 0).all())
            and (part.bitpix > 0 or (self.quantized and self._dither is not None))
            and self._block_pix in {16, 32}
            and self._pixel_bytes in {1, 2, 4}
        )

    def fill(self, image: NDArray[Any]) -> None:
        """Write the stored values of all pixels, NaN where there is none.

        Raises
        ------
        ValueError
            When a tile is damaged; astropy's errors as well.
        """
        places = self._rows["COMPRESSED_DATA"].tolist()
        for number, tile in enumerate(_tiles(self._part)):
            pixels = image[tile]
            count, offset = places[number]
            packed = bytes(self._heap[offset : offset + count])
            if offset < 0 or len(packed) != count:
                raise ValueError(f"tile {number} lies outside of the file")
            data = decompress_rice_1_c(packed, self._block_pix, self._pixel_bytes, pixels.size)
            integers = np.frombuffer(data, f"i{self._pixel_bytes}", pixels.size)
            if not self.quantized:
                pixels[...] = integers.view("u1" if self._pixel_bytes == 1 else integers.dtype).reshape(pixels.shape)
                continue
            pixels[...] = self._floats(number, data, integers).reshape(pixels.shape)
            if self._blank is not None:
                blank = integers == self._blank
                if blank.any():
                    pixels[blank.reshape(pixels.shape)] = np.nan

    def _floats(self, number: int, data: bytes, integers: NDArray[Any]) -> NDArray[Any]:
        scale, zero = float(self._rows["ZSCALE"][number]), float(self._rows["ZZERO"][number])
        if not self._dither:
            return integers * scale + zero
        single = self._part.bitpix == -32  # noqa: PLR2004
        undo = unquantize_float_c if single else unquantize_double_c
        row = number + self._seed
        values = undo(data, row, integers.size, scale, zero, self._dither, 0, 0, 0.0, self._pixel_bytes)
        return np.frombuffer(values, np.float32 if single else np.float64, integers.size)


def _tiles(part: Part) -> Iterator[tuple[slice, slice]]:
    rows, columns = part.shape
    wide, high = part.tile or (columns, 1)
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            yield slice(top, min(top + high, rows)), slice(left, min(left + wide, columns))
