"""Plain copies of compressed files, which can be mapped into memory."""

import gzip
import mmap
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError

from .fits import BLOCK_BYTES, MIN_AXES, Part

MAX_UNPACKED_BYTES: Final = 2**31
"""Largest content of a gzipped file that is looked at. Stops decompression bombs."""

_CHUNK_BYTES: Final = 1 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"


def is_gzipped(content: memoryview) -> bool:
    """Tell whether a whole file is gzipped."""
    return bytes(content[:2]) == _GZIP_MAGIC


def copy_of_gzipped(source: BinaryIO, target: BinaryIO, check_room: Callable[[int], None]) -> None:
    """Unpack a gzipped file.

    Parameters
    ----------
    check_room
        Raises an error when there is no room for so many bytes more.

    Raises
    ------
    DataError
        When it is damaged, or holds too much.
    """
    size = 0
    try:
        with gzip.GzipFile(fileobj=source, mode="rb") as unpacked:
            while chunk := unpacked.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > MAX_UNPACKED_BYTES:
                    raise DataError(
                        "too_large",
                        f"The file unpacks to more than the {MAX_UNPACKED_BYTES // 2**30} GiB that can be shown."
                        " Upload it without gzip.",
                        parameter="path",
                    )
                check_room(len(chunk))
                target.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            "truncated", "The compressed file is damaged or truncated. Upload it again.", parameter="path"
        ) from error


def copy_of_compressed(path: Path, part: Part, target: BinaryIO) -> None:
    """Undo the tile compression of an image, and write its first plane as a plain FITS file.

    Parameters
    ----------
    path
        The file.
    part
        Which image; its size has been checked.
    target
        Takes the copy; it is mapped into memory, so that no second one is needed there.

    Raises
    ------
    DataError
        When the compressed data are damaged.
    """
    from astropy.io import fits

    from shared.science.images import FITS_FAULTS

    rows, columns = part.shape
    cards = {"SIMPLE": "T", "BITPIX": part.bitpix, "NAXIS": 2, "NAXIS1": columns, "NAXIS2": rows}
    cards |= {"BSCALE": repr(part.bscale), "BZERO": repr(part.bzero)}
    if part.blank is not None:
        cards["BLANK"] = part.blank
    text = "".join(f"{key:<8}= {value!s:>20}".ljust(80) for key, value in cards.items()) + "END"
    target.write(text.encode().ljust(BLOCK_BYTES))
    size = rows * columns * abs(part.bitpix) // 8
    os.posix_fallocate(target.fileno(), BLOCK_BYTES, size)  # writing to a map of a full disk would kill the process
    image = np.frombuffer(mmap.mmap(target.fileno(), BLOCK_BYTES + size), part.dtype, rows * columns, BLOCK_BYTES)
    image = image.reshape(rows, columns)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=True, lazy_load_hdus=True, disable_image_compression=True) as hdus:
                if _fill_from_rice(path, part, hdus[part.number], image):
                    return
            with fits.open(path, memmap=True, lazy_load_hdus=True, do_not_scale_image_data=True) as hdus:
                _fill(hdus[part.number], image)
    except FITS_FAULTS as error:
        raise DataError(
            "bad_fits",
            "The compressed image is damaged and cannot be unpacked. Upload it again.",
            parameter="path",
            reason=f"{type(error).__name__}: {error}",
        ) from error


def _fill_from_rice(path: Path, part: Part, table: Any, image: NDArray[Any]) -> bool:
    from .rice import RiceTiles

    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    tiles = RiceTiles(content, part, table)
    if tiles.usable:
        tiles.fill(image)
    return tiles.usable


def _fill(hdu: Any, image: NDArray[Any]) -> None:
    more_axes = (0,) * (len(hdu.shape) - MIN_AXES)
    # single planes are cut out of cubes; of the rest astropy reads all tiles at once faster
    image[...] = hdu.section[(*more_axes, slice(None), slice(None))] if more_axes else hdu.data
