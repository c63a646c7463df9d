"""Plain copies of compressed files, which can be mapped into memory."""

import gzip
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from shared.errors import DataError

from .fits import BLOCK_BYTES, MAX_PIXELS, Part

MAX_UNPACKED_BYTES: Final = 2**31
"""Largest content of a gzipped file that is looked at. Stops decompression bombs."""

_CHUNK_BYTES: Final = 1 << 20
_ROWS: Final = 256
_GZIP_MAGIC: Final = b"\x1f\x8b"


def is_gzipped(content: memoryview) -> bool:
    """Tell whether a whole file is gzipped."""
    return bytes(content[:2]) == _GZIP_MAGIC


def copy_of_gzipped(source: BinaryIO, target: BinaryIO) -> None:
    """Unpack a gzipped file.

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
        Takes the copy.

    Raises
    ------
    DataError
        When the compressed data are damaged.
    """
    stored, scaling = _decode(path, part)
    rows, columns = stored.shape
    kind = -8 * stored.dtype.itemsize if stored.dtype.kind == "f" else 8 * stored.dtype.itemsize
    cards = {"SIMPLE": "T", "BITPIX": kind, "NAXIS": 2, "NAXIS1": columns, "NAXIS2": rows, **scaling}
    text = "".join(f"{key:<8}= {value!s:>20}".ljust(80) for key, value in cards.items()) + "END"
    target.write(text.encode().ljust(BLOCK_BYTES))
    big = stored.dtype.newbyteorder(">")
    target.writelines(stored[start : start + _ROWS].astype(big, order="C").data for start in range(0, rows, _ROWS))


def _decode(path: Path, part: Part) -> tuple[np.ndarray[Any, Any], dict[str, object]]:
    from astropy.io import fits

    from shared.science.images import FITS_FAULTS

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=True, lazy_load_hdus=True, do_not_scale_image_data=True) as hdus:
                hdu = hdus[part.number]
                if int(np.prod(hdu.shape, dtype=object)) > MAX_PIXELS:
                    data = hdu.section[(0,) * (len(hdu.shape) - 2)]
                else:
                    data = hdu.data
                while data.ndim > 2:  # noqa: PLR2004
                    data = data[0]
                header = hdu.header
                scaling = {key: header[key] for key in ("BSCALE", "BZERO", "BLANK") if key in header}
    except FITS_FAULTS as error:
        raise DataError(
            "bad_fits",
            "The compressed image is damaged and cannot be unpacked. Upload it again.",
            parameter="path",
            reason=f"{type(error).__name__}: {error}",
        ) from error
    return data, scaling
