"""Images that the step leaves: all on the pixels of the task's image, each with its coordinates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from shared.science.images import clean_header, write_image
from shared.science.wcs import wcs_header

from .subtracted import Subtracted
from .tiles import Box

_KEPT: Final = (
    "OBJECT",
    "DATE-OBS",
    "TIME-OBS",
    "MJD-OBS",
    "UT",
    "EXPTIME",
    "EXPOSURE",
    "TELESCOP",
    "INSTRUME",
    "OBSERVER",
)
"""Cards of the image that say what was observed. Its others are no longer true: solutions, saturation, statistics."""
_STRUCTURE: Final = ("NAXIS", "NAXIS1", "NAXIS2")


@dataclass(frozen=True)
class _Product:
    """One file: its pixels, their unit, and what they are."""

    name: str
    pixels: Callable[[], NDArray[Any]]
    unit: str | None
    text: str
    flux: bool = False
    """Whether the zero point of the image holds."""


def write_products(work: Path, scene: Subtracted, done: NDArray[np.bool_], box: Box, shape: tuple[int, int]) -> None:
    """Write images of the whole frame; pixels that were not subtracted are NaN, and masked.

    Parameters
    ----------
    done
        Where a part was subtracted, of the shape of the scene.
    box
        Where the scene is in the frame.
    shape
        Of the frame.
    """
    base = _base_header(scene)
    whole = box.shape == shape
    for product in _products(scene, done):
        pixels = product.pixels()
        if not whole:
            framed = np.full(shape, 1 if pixels.dtype == np.bool_ else np.nan, pixels.dtype)
            framed[box.slices] = pixels
            pixels = framed
        header = base.copy()
        if product.unit is not None:
            header["BUNIT"] = product.unit
        if product.flux:
            header["GAIN"] = (scene.gain, "e-/ADU")
        header["CONTENT"] = product.text
        write_image(work / product.name, pixels, header)


def _products(scene: Subtracted, done: NDArray[np.bool_]) -> Iterator[_Product]:
    found, template = scene.difference, scene.template

    def seen(plane: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        return lambda: np.where(done, plane, np.float32(np.nan))

    yield _Product("sub_image.fits", lambda: scene.image - scene.level, "adu", "image less its background", flux=True)
    yield _Product("sub_mask.fits", lambda: found.mask, None, "1 where the difference means nothing")
    yield _Product("sub_template.fits", lambda: template.image, None, "template, in its own unit")
    yield _Product("sub_template_mask.fits", lambda: template.mask, None, "1 where the template is bad")
    yield _Product("sub_conv.fits", seen(found.convolved), "adu", "matched template that was subtracted", flux=True)
    yield _Product("sub_diff.fits", seen(found.difference), "adu", "image minus template", flux=True)
    yield _Product("sub_ediff.fits", seen(found.noise), "adu", "noise of the difference")
    yield _Product("sub_sdiff.fits", seen(found.significance), None, "difference over its noise")
    if found.scores is not None:
        yield _Product("sub_scorr.fits", seen(found.scores.scorr), None, "significance of a point source, ZOGY")
        yield _Product("sub_fpsf.fits", seen(found.scores.flux), "adu", "flux of a point source, ZOGY")
        yield _Product("sub_fpsferr.fits", seen(found.scores.flux_error), "adu", "error of that flux")


def _base_header(scene: Subtracted) -> fits.Header:
    header = fits.Header()
    known = clean_header(scene.inputs.header)
    for key in _KEPT:
        if key in known:
            header.append(known.cards[key])
    for card in wcs_header(scene.inputs.wcs).cards:
        if card.keyword not in _STRUCTURE and card.keyword not in header:
            header.append(card)
    found, template = scene.difference, scene.template
    header["FILTER"] = (scene.inputs.band, "band of the image")
    header["SUBMETH"] = (scene.engine, "engine of the subtraction")
    header["TMPL"] = (template.source, "source of the template")
    header["TMPLBAND"] = (template.band, "band of the template")
    header["SUBSCALE"] = (found.scale, "flux in the image over that in the template")
    header["SUBFWHM"] = (found.fwhm_pix, "[pix] width of a star in the difference")
    header["SUBCONV"] = (found.convolved_side, "what was convolved")
    return header
