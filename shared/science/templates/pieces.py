"""Pieces of a template, read only as far as the frame needs them, and put together on the frame."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from ...errors import DataError
from ..archives import Log
from ..images import open_plane, size_of, unscale_asinh
from ..wcs import usable_wcs
from .pixelmap import pixel_map
from .resample import REACH_PIX, empty_frame, paint

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_EDGE_PIX: Final = 4
_INT_BYTES: Final = 4


@dataclass(frozen=True)
class Piece:
    """A part of the sky as an archive or the user has it.

    Parameters
    ----------
    wcs
        Its solution.
    shape
        (rows, columns).
    read
        Reads rows and columns: image in flux a pixel, and mask.
    gain
        Electrons per unit of flux; None where nobody says.
    """

    wcs: WCS
    shape: tuple[int, int]
    read: Callable[[slice, slice], tuple[Image, Mask]]
    gain: float | None = None


def put_together(pieces: Iterable[Piece], wcs: WCS, shape: tuple[int, int], threads: int) -> tuple[Image, Mask]:
    """Put pieces onto a frame; where several have a good pixel the first counts, as all show the same exposures."""
    image, mask = empty_frame(shape)
    for piece in pieces:
        places = pixel_map(wcs, shape, piece.wcs)
        if not math.isfinite(places.scale):
            continue
        window = places.window(piece.shape, math.ceil(2 * REACH_PIX * max(places.scale, 1)) + _EDGE_PIX)
        if window is None:
            continue
        part, bad = piece.read(*window)
        paint(image, mask, part, bad, places, origin=(window[0].start, window[1].start), threads=threads)
    return image, mask


@dataclass(frozen=True)
class Sky:
    """Solution, shape and header of a file that an archive sent."""

    wcs: WCS
    shape: tuple[int, int]
    header: fits.Header


def look_at(
    path: Path, ra_deg: float, dec_deg: float, reach_deg: float, *, shape: tuple[int, int] | None = None
) -> Sky:
    """Read where a file of an archive lies, and check it.

    Parameters
    ----------
    path
        The file.
    ra_deg, dec_deg, reach_deg
        Where its middle must be, within `reach_deg`.
    shape
        (rows, columns) that it must have; None when they are not known before.

    Raises
    ------
    DataError
        When it cannot be read, lies elsewhere, or has another shape.
    """
    with open_plane(path) as plane:
        header, found = plane.header, plane.shape
    if shape is not None and found != shape:
        raise DataError("shape", f"it has {size_of(found)} pixels instead of {size_of(shape)}")
    # the first draft of the WCS standard wrote PC001001 for PC1_1
    for i, j in ((1, 1), (1, 2), (2, 1), (2, 2)):
        if f"PC00{i}00{j}" in header:
            header.rename_keyword(f"PC00{i}00{j}", f"PC{i}_{j}")
    header["NAXIS1"], header["NAXIS2"] = found[1], found[0]
    wcs = usable_wcs(header)
    if wcs is None:
        raise DataError("no_wcs", "it has no usable WCS")
    ra, dec = wcs.all_pix2world((found[1] - 1) / 2, (found[0] - 1) / 2, 0)
    off_deg = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(ra_deg, dec_deg, unit="deg")).deg
    if not off_deg <= reach_deg:
        raise DataError("elsewhere", f"it lies {off_deg:.3f} degrees from where it should be")
    return Sky(wcs, found, header)


def read_part(path: Path, rows: slice, columns: slice) -> Image:
    """Read a part of a file's image, the asinh scaling of Pan-STARRS undone.

    Raises
    ------
    DataError
        When the file is damaged there.
    """
    with open_plane(path) as plane:
        part = np.asarray(plane.rows(rows.start, rows.stop)[:, columns], dtype=np.float32)
        return unscale_asinh(np.ascontiguousarray(part), plane.header)


def read_bad(path: Path, shape: tuple[int, int], rows: slice, columns: slice, bad_bits: int) -> Mask:
    """Read which pixels of a part of a file of mask bits have one of some bits, or nothing at all.

    Raises
    ------
    DataError
        When the file is damaged there, or is no mask of an image of `shape`.
    """
    with open_plane(path) as plane:
        if plane.shape != shape:
            raise DataError("mask_shape", f"the mask has {size_of(plane.shape)} pixels, the image {size_of(shape)}")
        bits = plane.rows(rows.start, rows.stop)[:, columns]
    if bits.dtype.kind == "f":  # scaled, or with blank pixels
        bits = np.nan_to_num(bits, nan=bad_bits)
    if bits.dtype.kind == "f" or bits.dtype.itemsize < _INT_BYTES:  # where the sign is the highest bit
        bits = bits.astype(np.int32)
    return np.asarray((bits & bad_bits) != 0)


def position(ra_deg: float, dec_deg: float) -> str:
    """Write a position for users."""
    return f"RA {ra_deg:.4f}, Dec {dec_deg:+.4f}"


def covered(mask: Mask, log: Log) -> float:
    """Give the fraction of a frame that is not masked, and say it."""
    fraction = float(1 - mask.mean())
    log(f"Template: {100 * fraction:.1f} % of the image has a usable template")
    return fraction
