"""The template that the user brings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ...contracts.bands import band_of
from ...errors import DataError, UsageError
from ..archives import Log
from ..images import read_image, read_mask
from ..wcs import field_of, usable_wcs
from .pieces import Image, Mask, Piece, position

DEFAULT_GAIN = 10_000.0


@dataclass(frozen=True)
class CustomTemplate:
    """What the user says of the template.

    Parameters
    ----------
    path
        `custom_template.fits`; None when the task has none.
    mask_path
        `custom_template_mask.fits`, of the template's own shape; None without one.
    gain
        Electrons per unit of the template.
    saturation
        From this level pixels of the template are bad, in its own unit; None for no limit.
    """

    path: Path | None
    mask_path: Path | None = None
    gain: float = DEFAULT_GAIN
    saturation: float | None = None


def custom_piece(custom: CustomTemplate, band: str, log: Log) -> Piece:
    """Read the user's template.

    Parameters
    ----------
    custom
        What the user says of it.
    band
        Of the image, for a warning when the template's header names another.
    log
        Takes lines of the step's log.

    Raises
    ------
    UsageError
        When there is none.
    DataError
        When it or its mask cannot be read, it has no usable WCS, or its mask is of another shape.
    """
    if custom.path is None:
        raise UsageError(
            "no_custom_template",
            "The task has no custom_template.fits. Upload it, or set template to one of the surveys.",
        )
    try:
        image, header = read_image(custom.path)
    except DataError as error:
        raise _unusable("custom_template.fits", error) from error
    header["NAXIS1"], header["NAXIS2"] = image.shape[1], image.shape[0]
    wcs = usable_wcs(header)
    if wcs is None:
        raise DataError(
            "no_template_wcs",
            "custom_template.fits has no usable WCS, so that nobody knows where it belongs. Solve its "
            "astrometry first, for example by a photometry run with it as the image.",
        )
    _warn_of_band(header, band, log)
    mask = ~np.isfinite(image)
    if custom.saturation is not None:
        mask |= image >= custom.saturation
    if custom.mask_path is not None:
        try:
            mask |= read_mask(custom.mask_path, (image.shape[0], image.shape[1]))
        except DataError as error:
            if error.code == "mask_shape":
                raise DataError(
                    "mask_shape",
                    "custom_template_mask.fits and custom_template.fits have different sizes: they must be the same. "
                    "Upload a mask that was made for the template.",
                ) from error
            raise _unusable("custom_template_mask.fits", error) from error

    def read(rows: slice, columns: slice) -> tuple[Image, Mask]:
        return image[rows, columns], mask[rows, columns]

    return Piece(wcs, (image.shape[0], image.shape[1]), read, gain=custom.gain)


def no_overlap(piece: Piece, wcs: WCS, shape: tuple[int, int]) -> UsageError:
    """Make the error of a template that lies elsewhere, or has no good pixel on the frame."""
    there, here = field_of(piece.wcs, piece.shape), field_of(wcs, shape)
    return UsageError(
        "no_template",
        f"custom_template.fits (around {position(*there[:2])}, radius {there[2]:.3f} deg) has no usable pixel on the "
        f"image (around {position(*here[:2])}, radius {here[2]:.3f} deg). Check its WCS, its mask and "
        "custom_template_saturation, or choose another template.",
    )


def _unusable(name: str, error: DataError) -> DataError:
    text = error.user_message.replace("The image", "It").replace("The file", "It")
    return DataError("bad_template", f"{name} cannot be used. {text}", reason=error.code)


def _warn_of_band(header: fits.Header, band: str, log: Log) -> None:
    named = header.get("FILTER")
    other = band_of(named) if isinstance(named, str) else None
    if other is not None and other != band:
        log(f"Warning: custom_template.fits is in {other}, the image in {band}: stars of unusual colour will remain")
