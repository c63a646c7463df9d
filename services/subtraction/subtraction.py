"""The step `subtraction`: a template, the difference, and what is in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.contracts.params import SubtractionParams
from shared.errors import DataError, UsageError
from shared.science import aperture
from shared.science.detection import background
from shared.science.difference import ENGINES, Options, Pair, hotpants_program
from shared.science.difference.widths import star_widths
from shared.science.headers import DEFAULT_GAIN, gain_in, saturation_in
from shared.science.images import size_of
from shared.science.solution import Inputs, load_photometry
from shared.science.templates import CustomTemplate, Template, get_template, suggested_template
from shared.science.templates import warm as warm_templates
from shared.science.zeropoint import ZeroPoint
from shared.worker.step import StepContext

from .calibration import calibrated
from .products import write_products
from .search import search
from .subtracted import Subtracted
from .target import Places, measure_targets
from .tiles import Box, around, bounding, grid, subtract_parts

_STAR_SN: Final = 20.0
_FEWEST_STARS: Final = 10
"""Fewer stars than this make a part larger."""
_MARGIN_FWHM: Final = 5.0
_WIDTHS_SIDE_PIX: Final = 2048


@dataclass(frozen=True)
class _Plan:
    """What is worked on: the part of the frame for which there must be a template, and its parts, in its pixels."""

    area: Box
    cores: Sequence[Box]
    margin_pix: int


def warm() -> None:
    """Import what the step needs and load compiled loops, in the fork server."""
    for engine in ENGINES:
        import_module(f"shared.science.difference.{engine}")
    warm_templates()
    aperture.warm()


def subtraction(ctx: StepContext) -> dict[str, Any]:
    """Run the step.

    Raises
    ------
    StepError
        When the task, the options or the archives do not allow it.
    """
    if not isinstance(ctx.params, SubtractionParams):
        raise TypeError(type(ctx.params))
    params = ctx.params
    with np.errstate(all="ignore"):
        ctx.progress(0.0, "reading the photometry")
        inputs = _inputs(ctx, params)
        places = Places.of(ctx, params, inputs)
        if params.subtraction_mode == "target":
            _check_targets(places, inputs)
        scene, done, area = _subtracted(ctx, params, inputs, places)
        ctx.progress(0.7, "writing images")
        write_products(ctx.work, scene, done, area, _shape(inputs))
        how = None
        if len(places):
            ctx.progress(0.75, "measuring targets")
            how = measure_targets(ctx, params, scene, places, area)
        if params.subtraction_mode == "detection":
            ctx.progress(0.8, "searching for candidates")
            search(ctx, params, scene, how)
        ctx.progress(1.0, "done")
    return {}


def _inputs(ctx: StepContext, params: SubtractionParams) -> Inputs:
    inputs = load_photometry(ctx)
    ZeroPoint.from_json(inputs.solution)  # before the work, not after it
    ctx.log(
        f"Image of {size_of(inputs.image.shape)} pixels in band {inputs.band}, FWHM {inputs.fwhm_pix:.2f} pixels, "
        f"{100 * inputs.mask.mean():.2f} % masked"
    )
    if not inputs.fwhm_pix > 0:
        raise DataError("bad_photometry", "Photometry left no FWHM, by which apertures are chosen; run it again.")
    inputs = _masked(ctx, params, inputs)
    width_pix = inputs.fwhm_pix
    annulus_pix = params.rel_bg1 * width_pix, params.rel_bg2 * width_pix
    return replace(inputs, solution=calibrated(inputs, params.rel_aper * width_pix, annulus_pix, ctx.log))


def _masked(ctx: StepContext, params: SubtractionParams, inputs: Inputs) -> Inputs:
    """Mask saturated pixels of an image that was not inspected."""
    if ctx.input("mask.fits") is None:
        good = inputs.image[~inputs.mask]
        median = float(np.median(good)) if good.size else 0.0
        level = params.saturation or saturation_in(inputs.header, median, ctx.log)
        if level is not None:
            return replace(inputs, mask=inputs.mask | (inputs.image >= level))
        ctx.log("Warning: neither mask.fits nor a saturation level: saturated stars will leave residuals; run inspect")
    return inputs


def _check_targets(places: Places, inputs: Inputs) -> None:
    if not len(places):
        raise UsageError(
            "no_target",
            "subtraction_mode is target, but the task has no target. Set target, or subtraction_mode to detection.",
        )
    if not places.inside.any():
        raise UsageError(
            "target_outside",
            f"No target lies on the image, which has {size_of(inputs.image.shape)} pixels around RA "
            f"{inputs.field[0]:.4f} Dec {inputs.field[1]:+.4f}. Correct target, or set subtraction_mode to detection.",
        )


def _subtracted(
    ctx: StepContext, params: SubtractionParams, inputs: Inputs, places: Places
) -> tuple[Subtracted, NDArray[np.bool_], Box]:
    """Subtract what the mode wants; around targets more of the frame is taken when that cannot be matched."""
    size_pix = params.sub_size
    while True:
        plan = _plan(params, inputs, places, size_pix)
        try:
            scene, done = _subtract(ctx, params, inputs, plan)
        except DataError as error:
            if plan.area.shape == inputs.image.shape:
                raise
            ctx.log(f"{error.user_message} A larger part of the image is tried")
            size_pix *= 2
        else:
            return scene, done, plan.area


def _plan(params: SubtractionParams, inputs: Inputs, places: Places, size_pix: int) -> _Plan:
    shape = _shape(inputs)
    margin = max(params.sub_overlap, (params.hotpants_extra.r or 0) + 2, round(_MARGIN_FWHM * inputs.fwhm_pix))
    if params.subtraction_mode == "detection":
        area = Box.of(shape)
        return _Plan(area, grid(shape, size_pix), margin)
    x, y = (np.asarray(places.table[name], float)[places.inside] for name in ("x", "y"))
    reach = max(margin, round(params.rel_bg2 * inputs.fwhm_pix) + 2, params.cutout_size)
    good = _stars(inputs)
    while True:
        cores = around(x.tolist(), y.tolist(), shape, size_pix, reach)
        if size_pix >= max(shape) or min(_count(good, core) for core in cores) >= _FEWEST_STARS:
            break
        size_pix *= 2
    area = bounding([core.grown(margin, shape) for core in cores])
    return _Plan(area, [core.within(area) for core in cores], margin)


def _stars(inputs: Inputs) -> NDArray[np.float64]:
    """Give positions of stars by which a part could be matched."""
    objects = inputs.objects
    flux, error = np.asarray(objects["flux"], float), np.asarray(objects["fluxerr"], float)
    good = (flux > _STAR_SN * error) & (np.asarray(objects["flags"]) == 0)
    return np.stack([np.asarray(objects[name], float)[good] for name in ("x", "y")])


def _count(stars: NDArray[np.float64], box: Box) -> int:
    x, y = stars
    return int(((x >= box.left) & (x < box.right) & (y >= box.top) & (y < box.bottom)).sum())


def _subtract(
    ctx: StepContext, params: SubtractionParams, inputs: Inputs, plan: _Plan
) -> tuple[Subtracted, NDArray[np.bool_]]:
    area = plan.area
    image = np.ascontiguousarray(inputs.image[area.slices])
    mask = np.ascontiguousarray(inputs.mask[area.slices])
    gain = params.gain or gain_in(inputs.header, ctx.log) or DEFAULT_GAIN
    if mask.all():
        raise DataError("image_masked", "All pixels of the image are masked. Check saturation and custom_mask.fits.")
    ctx.progress(0.05, "getting the template")
    template = _template(ctx, params, inputs, area)
    level = background(image, mask, params.bg_size).level
    pair = Pair(
        image,
        template.image,
        mask=mask,
        template_mask=template.mask,
        gain=gain,
        template_gain=template.gain,
    )
    widths = _widths(ctx, params, pair, inputs.fwhm_pix)
    if widths is not None:
        pair = replace(pair, fwhm_pix=widths[0], template_fwhm_pix=widths[1])
    ctx.progress(0.3, "subtracting")
    options = Options(
        hotpants=params.hotpants_extra,
        sfft_kernel_poly_order=params.sfft_kernel_poly_order,
        sfft_bg_poly_order=params.sfft_bg_poly_order,
        sfft_flux_poly_order=params.sfft_flux_poly_order,
        threads=ctx.resources.threads,
        program=hotpants_program(),
        work=ctx.work,
    )
    difference, done = subtract_parts(
        params.subtraction_method,
        pair,
        plan.cores,
        options,
        margin_pix=plan.margin_pix,
        log=ctx.log,
        progress=lambda part: ctx.progress(0.3 + 0.4 * part, "subtracting"),
        stars=_stars(inputs) - np.array([[area.left], [area.top]]),
    )
    ctx.log(
        f"Difference: {100 * (~difference.mask).mean():.1f} % of {size_of(image.shape)} pixels are usable, "
        f"scale {difference.scale:.6g}, stars are {difference.fwhm_pix:.2f} pixels wide"
    )
    scene = Subtracted(inputs, image, mask, level, gain, template, difference, params.subtraction_method)
    return scene, done


def _template(ctx: StepContext, params: SubtractionParams, inputs: Inputs, area: Box) -> Template:
    ra_deg, dec_deg, _ = inputs.field
    source = params.template or suggested_template(ra_deg, dec_deg)
    custom = ctx.input("custom_template.fits")
    if source != "custom" and custom is not None:
        ctx.log("Note: custom_template.fits is not used, because template is not custom")
    wcs = inputs.wcs if area.shape == inputs.image.shape else inputs.wcs[area.slices]
    template = get_template(
        source,
        inputs.band,
        wcs,
        area.shape,
        resources=ctx.resources,
        log=ctx.log,
        custom=CustomTemplate(
            custom,
            ctx.input("custom_template_mask.fits"),
            gain=params.custom_template_gain,
            saturation=params.custom_template_saturation,
        ),
        fwhm_pix=params.template_fwhm_override,
    )
    if template.saturation is not None:
        template = replace(template, mask=template.mask | (template.image >= template.saturation))
    return template


def _widths(
    ctx: StepContext, params: SubtractionParams, pair: Pair, image_fwhm_pix: float
) -> tuple[float, float] | None:
    """Measure the widths of stars once, in the middle of the frame, so that the same side is convolved everywhere.

    None when the middle has no good stars: then each part finds its own.
    """
    starts = [max((side - _WIDTHS_SIDE_PIX) // 2, 0) for side in pair.image.shape]
    middle = tuple(slice(start, start + _WIDTHS_SIDE_PIX) for start in starts)
    masks = {name: plane[middle] for name in ("mask", "template_mask") if (plane := getattr(pair, name)) is not None}
    try:
        own, other = star_widths(replace(pair, image=pair.image[middle], template=pair.template[middle], **masks))
    except DataError as error:
        ctx.log(f"Widths of stars are measured part by part: {error.user_message}")
        return None
    if params.template_fwhm_override is not None:
        # the option is in the measure of photometry, twice the half-light radius
        other = params.template_fwhm_override * own / image_fwhm_pix
    ctx.log(f"Stars are {own:.2f} pixels wide in the image and {other:.2f} in the template, at half of their peaks")
    return own, other


def _shape(inputs: Inputs) -> tuple[int, int]:
    rows, columns = inputs.image.shape
    return rows, columns
