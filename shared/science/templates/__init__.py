"""Templates for image subtraction, on the image's own pixel grid.

The interface is `get_template`::

    template = get_template(
        params.template or suggested_template(ra_deg, dec_deg),
        params.filter,                       # band of the image
        wcs, image.shape,                    # of the whole image, or of the part around a target
        resources=ctx.resources,
        log=ctx.log,
        custom=CustomTemplate(
            ctx.input("custom_template.fits"),
            ctx.input("custom_template_mask.fits"),
            gain=params.custom_template_gain,
            saturation=params.custom_template_saturation,
        ),
        fwhm_pix=params.template_fwhm_override,
    )

Call it once for the whole frame and cut tiles afterwards: what it costs is mostly reading and decoding.

What it gives (`Template`):

- `image`: float32, NaN where the template has no value; `mask`: True wherever a masked, missing or non-finite pixel of
  the template took part.
- `gain`: electrons per unit of `image`, for the photon noise of sources; the noise of the background is in the image
  itself, and neighbouring pixels share it.
- `saturation`: the level in `image` from which pixels are bad; None where the mask says it all.
- `fwhm_pix`: twice the half-light radius of stars, as photometry has it, in pixels of the image.
- `source`, `band` of the template, and `coverage`, the fraction of the image that is not masked.

Flux is kept: a star has the same flux in `image` as in the survey's own pixels (Pan-STARRS: zero point 25, Legacy
Survey: nanomaggies, the others as their HiPS has them), so the gain needs no change. Errors are `UsageError` (no such
band, nothing at this place, field too large), `DataError` (custom template that cannot be used) and `TransientError`
(archive away or lying: retried as a step). `warm` is for the fork server: it loads the tables of cells, and compiles.

Own code where STDPipe has the same: its `get_survey_image` downloads one cell after the other without a limit on time,
keeps unpacked copies, and reprojects each pixel with the WCS library; `get_hips_image` asks for each field anew. The
addresses, bits and scalings are the same.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from astropy.wcs import WCS

from ...contracts.bands import TEMPLATES
from ...errors import InternalError, UsageError
from ...worker.step import Resources
from ..archives import Log
from ..detection import Options, detect_sep
from ..shapes import estimate_fwhm
from ..wcs import field_of, pixel_scale_deg
from .cells import legacy_bricks, ps1_skycells
from .choice import TEMPLATE_BANDS, suggested_template, template_band
from .custom import DEFAULT_GAIN, CustomTemplate, custom_piece, no_overlap
from .pieces import Image, Mask, Piece, covered, position, put_together
from .pixelmap import pixel_map
from .resample import paint, reproject
from .surveys import survey_pieces

__all__ = [
    "TEMPLATE_BANDS",
    "CustomTemplate",
    "Template",
    "get_template",
    "paint",
    "pixel_map",
    "reproject",
    "suggested_template",
    "template_band",
    "warm",
]

_USUAL_FWHM_ARCSEC: Final = {
    "ps1": 1.2,
    "ls": 1.3,
    "skymapper": 2.6,
    "des": 1.0,
    "decaps": 1.1,
    "ztf": 2.0,
    "2mass": 2.8,
}
"""Of each survey, for frames where the template has no star."""
_MAX_FWHM_SIDE_PIX: Final = 2048
"""The FWHM is measured in the middle of larger frames."""


@dataclass(frozen=True)
class Template:
    """A template on the image's pixel grid; see the package."""

    image: Image
    mask: Mask
    gain: float
    saturation: float | None
    fwhm_pix: float
    source: str
    band: str
    coverage: float


def get_template(
    source: str,
    band: str,
    wcs: WCS,
    shape: tuple[int, int],
    *,
    resources: Resources,
    log: Log,
    custom: CustomTemplate | None = None,
    fwhm_pix: float | None = None,
) -> Template:
    """Get a template for an image; see the package.

    Parameters
    ----------
    source
        A key of `shared.contracts.bands.TEMPLATES`.
    band
        Code of the image's band.
    wcs, shape
        Solution of the image, and its (rows, columns).
    resources
        Where the cache is, and how many cores may be used.
    log
        Takes lines of the step's log.
    custom
        The user's template, for `custom`.
    fwhm_pix
        Use this FWHM instead of measuring it, pixels of the image.

    Raises
    ------
    UsageError
        When the survey has nothing here, no such band, or the image is too large for it.
    DataError
        When the custom template cannot be used.
    TransientError
        When an archive cannot be reached, or sends something else.
    """
    began = time.monotonic()
    chosen = template_band(source, band)
    if source == "custom":
        piece = custom_piece(custom or CustomTemplate(None), band, log)
        image, mask = put_together([piece], wcs, shape, resources.threads)
        gain, found = (piece.gain or DEFAULT_GAIN), [piece]
    else:
        log(f"Template: {TEMPLATES[source].name} in band {chosen} for an image in {band}")
        found = []
        pieces = _kept(survey_pieces(source, chosen, wcs, shape, resources=resources, log=log), found)
        image, mask = put_together(pieces, wcs, shape, resources.threads)
        known = [piece.gain for piece in found if piece.gain is not None]
        gain = float(np.median(known)) if known else DEFAULT_GAIN
    if mask.all():
        raise no_overlap(found[0], wcs, shape) if source == "custom" else _nothing_here(source, chosen, wcs, shape)
    coverage = covered(mask, log)
    saturation = _saturation(custom, found, wcs, shape) if source == "custom" else None
    width_pix = fwhm_pix or _measured_fwhm(source, image, mask, wcs, gain=gain, log=log)
    log(f"Template: FWHM {width_pix:.2f} pixels, gain {gain:g}, {len(found)} pieces, {time.monotonic() - began:.1f} s")
    return Template(image, mask, gain, saturation, width_pix, source, chosen, coverage)


def warm() -> None:
    """Load the tables of cells and compile, once, before steps are forked."""
    ps1_skycells()
    legacy_bricks()
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [-1e-4, 1e-4], [10.0, 10.0]
    for step in (1, 4):
        source = np.ones((16 * step, 16 * step), np.float32)
        finer = wcs.deepcopy()
        finer.wcs.cdelt = np.array([-1e-4, 1e-4]) / step
        reproject(source, np.zeros(source.shape, np.bool_), pixel_map(wcs, (8, 8), finer))


def _kept(pieces: Iterable[Piece], found: list[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        found.append(piece)
        yield piece


def _nothing_here(source: str, band: str, wcs: WCS, shape: tuple[int, int]) -> UsageError:
    ra_deg, dec_deg, radius_deg = field_of(wcs, shape)
    others = [code for code in TEMPLATES if code != source]
    return UsageError(
        "no_template",
        f"{TEMPLATES[source].name} has nothing in band {band} within {radius_deg:.2f} deg of "
        f"{position(ra_deg, dec_deg)}. Set template to another one ({', '.join(others)}).",
    )


def _saturation(custom: CustomTemplate | None, found: list[Piece], wcs: WCS, shape: tuple[int, int]) -> float | None:
    """Give the level on the image's grid: flux a pixel grows with the pixel."""
    if custom is None or custom.saturation is None:
        return None
    return custom.saturation * pixel_map(wcs, shape, found[0].wcs).scale ** 2


def _measured_fwhm(source: str, image: Image, mask: Mask, wcs: WCS, *, gain: float, log: Log) -> float:
    starts = [max((side - _MAX_FWHM_SIDE_PIX) // 2, 0) for side in image.shape]
    rows, columns = (slice(start, start + _MAX_FWHM_SIDE_PIX) for start in starts)
    width_pix = _star_width(image[rows, columns], mask[rows, columns], gain, log)
    if width_pix is not None:
        return width_pix
    if source == "custom":
        raise UsageError(
            "no_template_fwhm",
            "No star was found in custom_template.fits, so that its FWHM is unknown. Set template_fwhm_override, in "
            "pixels of the image.",
        )
    width_pix = _USUAL_FWHM_ARCSEC[source] / 3600 / pixel_scale_deg(wcs)
    log(f"No star in the template: its FWHM is taken for the survey's usual one, {width_pix:.2f} pixels")
    return width_pix


def _star_width(image: Image, mask: Mask, gain: float, log: Log) -> float | None:
    known = image[~mask]
    if not known.size:
        return None
    spread = float(np.median(np.abs(known - np.median(known))))
    if not spread > 0:
        return None
    try:  # in units of the noise, which surveys have anywhere from 1e-3 to 1e3
        found = detect_sep(np.ascontiguousarray(image / np.float32(spread)), mask, Options(gain=gain * spread))
    except InternalError as error:
        log(f"Template: {error.user_message}")
        return None
    return estimate_fwhm(found.objects, log)
