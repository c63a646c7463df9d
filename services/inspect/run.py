"""The step `inspect`: files in and out."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from shared.contracts.params import InspectParams
from shared.errors import TransientError, UsageError
from shared.science import headers
from shared.science.images import EXTRACTED, read_image, size_of, write_image
from shared.science.masks import build_mask, custom_mask
from shared.science.planes import without_structure
from shared.science.targets import Target, resolve_targets
from shared.science.wcs import pixel_of, usable_wcs, wcs_header
from shared.worker.step import StepContext

from . import core

Log = Callable[..., None]


def warm() -> None:
    """Load what the step needs: compiled functions from their cache, no threads."""
    flat = np.zeros((64, 64), np.float32)
    flat[::2] = 1
    build_mask(flat, 10.0, 1.0, custom=None, mask_cosmics=True, log=lambda *_: None)


def inspect(ctx: StepContext) -> dict[str, Any]:
    """Look at the image: mask, gain, filter, time, targets, place on the sky."""
    params = ctx.params
    if not isinstance(params, InspectParams):
        raise TypeError(type(params).__name__)
    log = ctx.log
    path = ctx.input("image.fits")
    if path is None:
        raise UsageError("no_image", "The task has no image. Upload one as image.fits.")
    ctx.progress(0.05, "reading")
    image, header = read_image(path, params.ext)
    if params.ext is not None or EXTRACTED in header:
        _keep_plane(ctx, image, header, params.ext)
    for line in header.get("HISTORY", []):
        if str(line).startswith("stdweb: "):
            log(str(line).removeprefix("stdweb: ").capitalize())

    stats = core.statistics_of(image)
    log(f"Image of {size_of(image.shape)} pixels")
    log(f"Minimum {stats.minimum:g}, median {stats.median:g}, maximum {stats.maximum:g}, RMS {stats.rms:g} ADU")
    computed: dict[str, Any] = {
        "gain": core.gain_of(params, header, image, stats, log),
        "saturation": core.saturation_of(params, header, stats, log),
        "bg_size": core.mesh_of(params, image.shape, log),
        "filter": params.filter or headers.band_in(header, log),
    }
    log(f"Filter {computed['filter']}" + (", as asked" if params.filter else ""))
    moment = params.time or headers.time_in(header, log)
    if moment is not None:
        computed["time"] = moment
    log(f"Time {moment} UTC" if moment else "Warning: no time of observation in the header; set time if it is known")

    ctx.progress(0.2, "masking")
    mask = build_mask(
        image,
        computed["saturation"],
        computed["gain"],
        custom=custom_mask(ctx.input("custom_mask.fits"), image.shape, log),
        mask_cosmics=params.mask_cosmics,
        log=log,
    )
    write_image(ctx.work / "mask.fits", mask)

    ctx.progress(0.8, "world coordinates")
    wcs = usable_wcs(header)
    place_deg: tuple[float, float] | None = None
    if wcs is None:
        log("Warning: no usable world coordinates in the header, blind matching is switched on")
        computed["blind_match_wcs"] = True
    else:
        computed |= core.field_facts(wcs, image.shape, log)
        place_deg = computed["field_ra"], computed["field_dec"]

    ctx.progress(0.85, "targets")
    targets = _targets(ctx, params, header, wcs, computed=computed, log=log)
    if targets and place_deg is None and math.isfinite(targets[0].dec_deg):
        place_deg = targets[0].ra_deg, targets[0].dec_deg
    _write_cutout(ctx, targets, image, wcs, log)
    computed |= core.suggestions(params, computed["filter"], place_deg, log)
    log("Done")
    return computed


def _keep_plane(ctx: StepContext, image: NDArray[np.float32], header: fits.Header, ext: int | None) -> None:
    """Let later steps see the extension that was asked for, and nothing else of the file.

    The result of an earlier run is written again, because this one hides it.
    """
    if EXTRACTED not in header and ext is not None:
        header[EXTRACTED] = (ext, "extension that the image was made of")
    ctx.log(f"Image taken from extension {header[EXTRACTED]}")
    write_image(ctx.work / "image.fits", image, without_structure(header))


def _targets(
    ctx: StepContext,
    params: InspectParams,
    header: fits.Header,
    wcs: WCS | None,
    *,
    computed: dict[str, Any],
    log: Log,
) -> list[Target]:
    """Resolve what the user asked for, or what the header names; a failure of the latter is only a note."""
    if params.target:
        targets = resolve_targets(params.target, wcs, ctx.resources, log)
    else:
        name = headers.target_in(header)
        if name is None:
            log("No target in config or header")
            return []
        try:
            targets = resolve_targets(name, wcs, ctx.resources, log)
        except (UsageError, TransientError) as error:
            log(f"Note: the target {name!r} of the header is left out. {error.user_message}")
            return []
        computed["target"] = name
    computed["targets"] = [_entry(target) for target in targets]
    if targets and math.isfinite(targets[0].ra_deg):
        computed["target_ra"], computed["target_dec"] = targets[0].ra_deg, targets[0].dec_deg
    return targets


def _entry(target: Target) -> dict[str, Any]:
    known = math.isfinite(target.ra_deg) and math.isfinite(target.dec_deg)
    entry: dict[str, Any] = {
        "name": target.name,
        "ra": target.ra_deg if known else None,
        "dec": target.dec_deg if known else None,
    }
    if target.x is not None and target.y is not None:
        entry |= {"x": target.x, "y": target.y}
    return entry


def _write_cutout(
    ctx: StepContext,
    targets: list[Target],
    image: NDArray[np.float32],
    wcs: WCS | None,
    log: Log,
) -> None:
    if not targets:
        return
    first = targets[0]
    x, y = first.x, first.y
    if x is None or y is None:
        if wcs is None:
            return
        x, y = pixel_of(wcs, first.ra_deg, first.dec_deg)
    part = core.cutout(image, wcs_header(wcs) if wcs is not None else fits.Header(), x, y)
    if part is None:
        log(f"Warning: the target {first.name} is outside of the image")
        return
    log(f"Target {first.name} at x = {x:.1f}, y = {y:.1f}")
    data, cutout_header = part
    for key in ("NAXIS", "NAXIS1", "NAXIS2"):
        cutout_header.remove(key, ignore_missing=True)
    write_image(ctx.work / "image_target.fits", data, cutout_header)
