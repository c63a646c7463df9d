"""Reading the image of a task, whatever FITS dialect it is in, and writing results."""

import gzip
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from astropy.utils.exceptions import AstropyWarning
from erfa import ErfaWarning  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ..errors import DataError
from .fits_layout import BLOCK_BYTES, bytes_to_image

MAX_PIXELS: Final = 450_000_000
"""Largest plane that is read; a little above 20,000 × 20,000."""

EXTRACTED: Final = "STDWEXT"
"""Card of a file that was made of one extension of another: the number of that."""

_MAX_UNPACKED_BYTES: Final = 8 * MAX_PIXELS + 64 * 1024 * 1024
"""Largest content of a gzipped file: one plane of doubles, and headers. Stops decompression bombs."""

_PLANE_AXES: Final = 2
_GZIP_MAGIC: Final = b"\x1f\x8b"
_FITS_MAGIC: Final = b"SIMPLE"

# Pan-STARRS stores f as x = 2.5 log10(e) asinh((f - BOFFSET) / (2 BSOFTEN)); Waters et al. 2020, section 3.4
_ASINH_SCALE: Final = 0.4 * float(np.log(10.0))

# what astropy raises on files that break the standard
FITS_FAULTS: Final = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,  # of tile compression
    AssertionError,
    fits.VerifyError,
    zlib.error,
    CfitsioException,
)

_STRUCTURE: Final = frozenset(
    (
        "SIMPLE",
        "XTENSION",
        "BITPIX",
        "NAXIS",
        "EXTEND",
        "PCOUNT",
        "GCOUNT",
        "GROUPS",
        "TFIELDS",
        "BSCALE",
        "BZERO",
        "BLANK",
        "CHECKSUM",
        "DATASUM",
        "EXTNAME",
        "EXTVER",
        "EXTLEVEL",
        "INHERIT",
        "NEXTEND",
        "END",
        "COMMENT",
        "HISTORY",
    )
)


@contextmanager
def quiet_fits() -> Iterator[None]:
    """Silence the warnings of astropy and numpy about FITS files that bend the standard."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", AstropyWarning)
        warnings.simplefilter("ignore", ErfaWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def read_image(path: Path, ext: int | None = None) -> tuple[NDArray[np.float32], fits.Header]:
    """Read the first usable plane of a FITS file.

    Integers are scaled, tile compression and gzip undone, the asinh scaling of Pan-STARRS undone. Cards that cannot be
    repaired are left out of the header; HISTORY cards tell what was done. Cards of the primary header are added where
    the image is in an extension.

    Parameters
    ----------
    path
        The file.
    ext
        Number of the extension to look at alone; None for the first usable one. A file that was made of an extension,
        which its card `EXTRACTED` says, holds that one only.

    Returns
    -------
    image, header
        The plane, C-contiguous in native byte order, blank pixels NaN; and its header.

    Raises
    ------
    DataError
        When there is no such plane, or the file is damaged.
    """
    with open_plane(path, ext=ext) as plane, quiet_fits():
        with _reading():
            image = _scaled(plane)
        return unscale_asinh(image, plane.header), plane.header


@dataclass(frozen=True)
class Plane:
    """The first usable plane of an open FITS file, before its pixels are read.

    Parameters
    ----------
    hdu
        The part of the file that holds it.
    number
        Of that part, from 0.
    raw_header
        As it was read, with what the primary header adds.
    header
        The same, repaired card by card.
    axes
        Lengths of all axes of the part, the last one is that of a row.
    """

    hdu: Any
    number: int
    raw_header: fits.Header
    header: fits.Header
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.axes[-2], self.axes[-1]

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows, as numbers of the type that astropy gives them.

        Raises
        ------
        DataError
            When the file is damaged there.
        """
        first = (0,) * (len(self.axes) - _PLANE_AXES)
        with _reading(), quiet_fits():
            block: NDArray[Any] = self.hdu.section[(*first, slice(start, stop), slice(None))]
        return block


@contextmanager
def open_plane(path: Path, *, stored: bool = False, ext: int | None = None) -> Iterator[Plane]:
    """Open a file at its first usable plane; see `read_image`.

    Parameters
    ----------
    path
        The file.
    stored
        Whether pixels are given as they are stored, without the scaling by BSCALE and BZERO.
    ext
        Number of the extension to look at alone; None for the first usable one.

    Raises
    ------
    DataError
        When there is no such plane, or the file is damaged.
    """
    size_bytes = _content_bytes(path, ext)
    with ExitStack() as stack:
        with _reading(), quiet_fits():
            hdus = stack.enter_context(
                fits.open(path, mode="readonly", memmap=False, lazy_load_hdus=True, do_not_scale_image_data=stored)
            )
            plane = _first_plane(hdus, size_bytes, ext)
        yield plane


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except FITS_FAULTS as error:
        raise DataError(
            "bad_fits",
            "The image is damaged or not valid FITS: it cannot be read. Try to repair it, or upload it again.",
            reason=f"{type(error).__name__}: {error}",
        ) from error


def write_image(path: Path, image: NDArray[Any], header: fits.Header | None = None) -> None:
    """Write a plain one-plane FITS file; booleans become bytes, an existing file is replaced."""
    data = image.astype(np.uint8) if image.dtype == np.bool_ else image
    with quiet_fits():
        fits.PrimaryHDU(data, header).writeto(path, overwrite=True, output_verify="silentfix+ignore")


def read_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a mask, nonzero or not finite where masked.

    Parameters
    ----------
    path
        The file.
    shape
        Shape that the mask must have, (rows, columns).

    Raises
    ------
    DataError
        When it cannot be read or has another shape.
    """
    image, _ = read_image(path)
    if image.shape != shape:
        raise DataError(
            "mask_shape",
            f"The custom mask has {size_of(image.shape)} pixels, the image {size_of(shape)}: they must be the same. "
            "Upload a mask made for this image.",
        )
    return np.asarray(image != 0)  # NaN differs from 0 too


def size_of(shape: tuple[int, ...]) -> str:
    """Write a shape as people do, width first."""
    return "×".join(str(length) for length in reversed(shape))


def clean_header(header: fits.Header) -> fits.Header:
    """Copy a header card by card, repairing what can be repaired and leaving out the rest."""
    clean = fits.Header()
    for card in header.cards:
        try:
            card.verify("silentfix")
            if card.keyword in {"COMMENT", "HISTORY", ""}:
                clean.append((card.keyword, str(card.value)), end=True)
            elif not isinstance(card.value, fits.card.Undefined):
                clean.append((card.keyword, card.value, card.comment), end=True)
        except FITS_FAULTS:
            continue
    return clean


def _content_bytes(path: Path, ext: int | None) -> int:
    """Give how many bytes there are to read, after a look at what the headers declare."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_FITS_MAGIC))
        size_bytes = path.stat().st_size
        if start[:2] == _GZIP_MAGIC:
            with gzip.open(path, "rb") as unpacked:
                start = unpacked.read(len(_FITS_MAGIC))
                unpacked.seek(0)
                size_bytes = bytes_to_image(unpacked, _MAX_UNPACKED_BYTES, ext) if start == _FITS_MAGIC else size_bytes
        elif start == _FITS_MAGIC:
            with path.open("rb") as file:
                bytes_to_image(file, size_bytes, ext)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError("truncated", "The compressed file is damaged or truncated. Upload it again.") from error
    except OSError as error:
        raise DataError("no_image", "The image cannot be opened. Upload it again.", reason=str(error)) from error
    if start != _FITS_MAGIC:
        what = "is empty" if size_bytes == 0 else "is not a FITS file"
        raise DataError("not_fits", f"The file {what}. Upload an image in FITS format.")
    return size_bytes


def _first_plane(hdus: fits.HDUList, size_bytes: int, ext: int | None) -> Plane:
    ext = _still_there(hdus, ext)
    found: list[str] = []
    number = -1
    for number, hdu in enumerate(_each(hdus)):
        if ext is not None and number < ext:
            continue
        if ext is not None and number > ext:
            break
        if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
            found.append("a table")
            continue
        shape = tuple(int(length) for length in hdu.shape)
        if not shape or min(shape) < 1:
            continue
        if len(shape) < _PLANE_AXES:
            found.append(f"a row of {shape[0]} values")
            continue
        _check_size(hdu, shape, size_bytes)
        return _plane_of(hdus, number, hdu, shape)
    if ext is not None and number < ext:
        raise DataError("no_extension", f"The file has no extension {ext}: its last one is {number}. Change ext.")
    what = f"it holds {', '.join(dict.fromkeys(found))}" if found else "it holds no data"
    if ext is not None:
        raise DataError("no_plane", f"Extension {ext} has no two-dimensional image: {what}. Change ext.")
    raise DataError("no_plane", f"The file has no two-dimensional image: {what}. Upload an image.")


def _still_there(hdus: fits.HDUList, ext: int | None) -> int | None:
    """Tell which extension to look at: in a file that was made of one there is no other."""
    if ext is None or EXTRACTED not in hdus[0].header:
        return ext
    made_of = hdus[0].header[EXTRACTED]
    if made_of != ext:
        raise DataError(
            "other_extension",
            f"Extension {ext} is asked for, but the image was made of extension {made_of} before. Change ext to "
            f"{made_of}, or upload the whole file again.",
        )
    return None


def _each(hdus: fits.HDUList) -> Iterator[Any]:
    """Give one part after the other; those behind the image are never looked at, they may be damaged."""
    number, end = 0, -1
    while True:
        try:
            hdu = hdus[number]
        except IndexError:
            return
        begin = int(hdu.fileinfo()["hdrLoc"])
        if begin <= end:
            # astropy gives a part that it does not know the rest of the file, and gets that of a packed one wrong
            raise ValueError(f"part {number} begins before the one before it")
        yield hdu
        number, end = number + 1, begin


def _check_size(hdu: Any, shape: tuple[int, ...], size_bytes: int) -> None:
    pixels = shape[-1] * shape[-2]
    if pixels > MAX_PIXELS:
        raise DataError(
            "too_large",
            f"The image has {size_of(shape)} pixels, more than the {MAX_PIXELS // 1_000_000} million that can be "
            "processed, or its header is wrong. Crop the image.",
        )
    place = hdu.fileinfo()
    declared_bytes = int(hdu.size) if not isinstance(hdu, fits.CompImageHDU) else int(place["datSpan"])
    there_bytes = max(size_bytes - int(place["datLoc"]), 0)
    # compressed parts are measured with their padding, which writers may leave out
    slack_bytes = BLOCK_BYTES - 1 if isinstance(hdu, fits.CompImageHDU) else 0
    if declared_bytes > there_bytes + slack_bytes:
        raise DataError(
            "truncated",
            f"The image is truncated: its header declares {declared_bytes:,} bytes of pixels, the file holds "
            f"{there_bytes:,}. Upload it again.",
        )
    tile = [int(hdu.tile_shape[k]) for k in range(len(shape))] if isinstance(hdu, fits.CompImageHDU) else [1]
    if int(np.prod(tile, dtype=object)) > MAX_PIXELS:
        raise DataError("too_large", "The compressed tiles of the image are too large. Compress it in smaller tiles.")


def _plane_of(hdus: fits.HDUList, number: int, hdu: Any, shape: tuple[int, ...]) -> Plane:
    raw = hdu.header.copy()
    if number > 0:
        for card in clean_header(hdus[0].header).cards:
            if card.keyword.rstrip("0123456789") not in _STRUCTURE and card.keyword and card.keyword not in raw:
                raw.append((card.keyword, card.value, card.comment), end=True)
    header = clean_header(raw)
    for one in (raw, header):
        if number > 0:
            one.add_history(f"stdweb: image taken from extension {number}")
        if len(shape) > _PLANE_AXES:
            one.add_history(f"stdweb: first plane of {size_of(shape).replace('×', ' x ')}")
    return Plane(hdu, number, raw, header, shape)


def _scaled(plane: Plane) -> NDArray[np.float32]:
    blank, bscale, bzero = (plane.hdu.header.get(key) for key in ("BLANK", "BSCALE", "BZERO"))
    values = plane.rows(0, plane.shape[0])
    image = np.ascontiguousarray(values, dtype=np.float32)
    if isinstance(blank, int) and values.dtype.kind in "iu":  # astropy does not look for blanks in unsigned integers
        image[values == blank * (bscale or 1) + (bzero or 0)] = np.nan
    return image


def unscale_asinh(image: NDArray[np.float32], header: fits.Header) -> NDArray[np.float32]:
    """Give a plane in linear units, and take the cards of the asinh scaling out of its header; others stay."""
    offset, soften = header.get("BOFFSET"), header.get("BSOFTEN")
    if not isinstance(offset, int | float) or not isinstance(soften, int | float):
        return image
    if not np.isfinite([offset, soften]).all():
        return image
    linear = np.float32(offset) + np.float32(2 * soften) * np.sinh(image * np.float32(_ASINH_SCALE))
    for key in ("BOFFSET", "BSOFTEN"):
        header.remove(key)
    header.add_history("stdweb: asinh scaling of Pan-STARRS undone")
    return np.ascontiguousarray(linear, dtype=np.float32)
