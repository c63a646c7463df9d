"""The photometry step: files in, files out."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from shared.contracts.bands import CATALOGS
from shared.contracts.params import PhotometryParams
from shared.contracts.results import TARGETS_FILE, Measurements
from shared.errors import DataError, StepError
from shared.science import aperture, detection, shapes
from shared.science.astrometry import Solution
from shared.science.catalogs import CatalogColumns
from shared.science.centroid import windowed_centroids
from shared.science.forced import place_targets, report_targets, summary_of, targets_for
from shared.science.headers import DEFAULT_GAIN
from shared.science.images import quiet_fits, read_image, read_mask, size_of, write_image
from shared.science.masks import custom_mask
from shared.science.tables import annotate, write_parquet, write_votable
from shared.science.wcs import field_of, pixel_scale_deg, wcs_header
from shared.science.zeropoint import Calibrators, Fit, Terms, ZeroPoint, fit_zero_point
from shared.worker.step import StepContext

from . import core, plots, references
from .drawing import Desk
from .targets import write_target_cutouts

_DIGITS: Final = 10
_SKY_MARGIN_PIX: Final = 4
"""Wings of detected objects, left out of the local sky; with 2 pixels the bias at S/N 10 is twice as large."""


@dataclass(frozen=True)
class Sky:
    """Where the image is, and the stars that calibrate it."""

    wcs: WCS
    solution: Solution | None
    cat_name: str
    catalog: Table
    columns: CatalogColumns
    radius_arcsec: float


def warm() -> None:
    """Import what the step needs and load compiled loops, in the fork server."""
    import matplotlib.font_manager
    import sklearn.ensemble  # noqa: F401

    matplotlib.font_manager.fontManager.findfont("DejaVu Sans")
    aperture.warm()
    image = np.ones((8, 8), np.float32)
    place = np.array([4.0])
    windowed_centroids(image, place, place, 2.0)
    windowed_centroids(image, place, place, 2.0, np.zeros((8, 8), bool))


def run(ctx: StepContext) -> dict[str, Any]:
    """Run the step.

    Raises
    ------
    StepError
        When the image, the options or the archives do not allow it.
    """
    if not isinstance(ctx.params, PhotometryParams):
        raise TypeError(type(ctx.params))
    params = ctx.params
    with Desk() as desk, np.errstate(all="ignore"):

        def mark(fraction: float, phase: str) -> None:
            ctx.log(phase[:1].upper() + phase[1:])
            ctx.progress(fraction, phase)

        mark(0.0, "reading the image")
        frame, params = load(ctx, params)
        mark(0.05, "detecting objects")
        objects, fwhm_pix = find_objects(ctx, params, frame)
        plan = core.Aperture.of(params, fwhm_pix)
        mark(0.3, "measuring objects")
        core.measure_objects(objects, frame, plan, fwhm_pix)
        objects = core.bright_enough(objects, params.sn, ctx.log)
        desk.draw(early_plots(ctx.work, frame, objects, fwhm_pix))
        mark(0.4, "astrometry and catalogue")
        sky = look_up(ctx, params, frame, objects, fwhm_pix=fwhm_pix, plan=plan)
        mark(0.7, "calibrating")
        pairs = core.calibrators(
            objects, sky.catalog, sky.columns, params, radius_arcsec=sky.radius_arcsec, log=ctx.log
        )
        fit = core.calibrate(objects, pairs, params, frame.shape, ctx.log)
        finish_columns(objects, params, sky.columns, fit.model)
        noise = core.image_noise(frame, plan)
        limits = core.detection_limits(noise, fit.model, frame.gain, params.sn)
        ctx.log("Limits: " + (", ".join(f"S/N {sn:g}: {mag:.2f}" for sn, mag in limits.items()) or "unknown"))
        annotate(objects)
        drawings = late_plots(ctx.work, frame, objects, sky=sky, fit=fit, noise_adu=noise, limits=limits, sn=params.sn)
        # two children, for two cores; the VOTable is slow to write as well
        desk.draw([partial(write_votable, objects, ctx.work / "objects.vot"), *drawings[::2]])
        desk.draw(drawings[1::2])
        mark(0.8, "writing results")
        if params.diagnose_color:
            rows = diagnose_color(ctx, sky, pairs, frame.shape)
            desk.draw([partial(plots.draw_color_diagnosis, ctx.work / "color_diagnosis.png", rows)])
        write_results(ctx, params.filter, frame.shape, objects=objects, sky=sky, fit=fit)
        mark(0.9, "targets")
        do_targets(ctx, params, frame, sky, plan=plan, fwhm_pix=fwhm_pix, model=fit.model)
        mark(0.95, "waiting for plots")
        desk.wait()
        mark(1.0, "done")
    resolved = {} if ctx.config.get("filter") else {"filter": params.filter}
    return resolved | computed(frame.shape, sky, fit, fwhm_pix=fwhm_pix, limit_mag=limits.get(params.sn))


def load(ctx: StepContext, params: PhotometryParams) -> tuple[core.Frame, PhotometryParams]:
    """Read image and mask, estimate (and keep, if asked to) the background, and complete the options by the header.

    Raises
    ------
    DataError
        When there is no image, or nothing can be measured in it.
    """
    path = ctx.input("image.fits")
    if path is None:
        raise DataError("no_image", "The task has no image; upload one.")
    image, header = read_image(path)
    params = core.from_header(params, ctx.config, header, ctx.log)
    gain = params.gain or DEFAULT_GAIN
    mask_path = ctx.input("mask.fits")
    if mask_path is None:
        ctx.log("No mask: the image was not inspected; non-finite and saturated pixels are masked")
        custom = custom_mask(ctx.input("custom_mask.fits"), image.shape, ctx.log)
        mask = core.simple_mask(image, header, params.saturation, custom, ctx.log)
    else:
        mask = inspected_mask(mask_path, image.shape) | ~np.isfinite(image)
    core.check_image(image, mask)
    background = detection.background(image, mask, params.bg_size)
    ctx.log(f"Image of {size_of(image.shape)} pixels, {100 * mask.mean():.2f} % masked")
    ctx.log(f"Gain {gain:g} e-/ADU")
    ctx.log(f"Background {np.median(background.level):.1f} ± {np.median(background.rms):.2f} ADU")
    if params.inspect_bg:
        write_image(ctx.work / "image_bg.fits", background.level)
        write_image(ctx.work / "image_rms.fits", background.rms)
    frame = core.Frame(image, header, mask, mask, image - background.level, background.rms, gain)
    return frame, params


def inspected_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the mask that `inspect` made.

    Raises
    ------
    DataError
        When it is not of this image: the image was changed since.
    """
    try:
        return read_mask(path, shape)
    except DataError as exc:
        text = f"mask.fits does not fit the image ({size_of(shape)} pixels). Run inspect again."
        raise DataError("mask_shape", text, reason=exc.user_message) from exc


def find_objects(ctx: StepContext, params: PhotometryParams, frame: core.Frame) -> tuple[Table, float]:
    """Detect objects, write the maps, and give objects and FWHM in pixels."""
    options = detection.Options(
        sn=params.sn,
        aper_pix=params.initial_aper,
        smooth_pix=params.initial_r0,
        min_area=params.minarea,
        bg_size_pix=params.bg_size,
        gain=frame.gain,
        threads=ctx.resources.threads,
    )
    found = detection.detect(frame.image, frame.mask, options, ctx.work, ctx.log, program=detection.sextractor())
    write_image(ctx.work / "segmentation.fits", found.segmentation)
    write_image(ctx.work / "filtered.fits", found.filtered)
    frame.sky_mask = frame.mask | shapes.dilated(found.segmentation, _SKY_MARGIN_PIX)
    return found.objects, core.describe_shapes(found.objects, params, ctx.log)


def look_up(
    ctx: StepContext,
    params: PhotometryParams,
    frame: core.Frame,
    objects: Table,
    *,
    fwhm_pix: float,
    plan: core.Aperture,
) -> Sky:
    """Find the image on the sky, get its catalogue and refine the solution."""
    start = references.first_wcs(ctx, params, frame.header, objects, frame.shape)
    name, catalog, columns = references.choose_catalog(ctx, params, start[0], frame.shape)
    wcs, solution = references.refine(
        ctx, params, objects, catalog, columns.mag, start=start, flat=frame.flat, fwhm_pix=fwhm_pix
    )
    wcs.pixel_shape = (frame.shape[1], frame.shape[0])
    references.sky_positions(objects, wcs)
    pixscale = pixel_scale_deg(wcs)
    core.mark_blends(catalog, columns.mag, fwhm_pix, pixscale, plan)
    radius = core.matching_radius_arcsec(params, fwhm_pix, pixscale, solution.rms_arcsec if solution else 0.0)
    return Sky(wcs, solution, name, catalog, columns, radius)


def finish_columns(objects: Table, params: PhotometryParams, columns: CatalogColumns, model: ZeroPoint) -> None:
    """Add what does not differ between objects, as STDPipe's users expect it."""
    objects["mag_filter_name"] = params.filter
    objects["mag_color_name"] = f"{columns.color_mag1} - {columns.color_mag2}"
    objects["mag_color_term"] = model.color_term


def early_plots(work: Path, frame: core.Frame, objects: Table, fwhm_pix: float) -> list[partial[None]]:
    """List the plots that need no calibration."""
    return [
        partial(plots.draw_objects, work / "objects.png", frame.image, objects),
        partial(plots.draw_fwhm, work / "fwhm.png", objects, frame.shape),
        partial(plots.draw_fwhm_mag, work / "fwhm_mag.png", objects, fwhm_pix),
        partial(plots.draw_prefilter, work / "prefilter.png", objects),
    ]


def late_plots(
    work: Path,
    frame: core.Frame,
    objects: Table,
    *,
    sky: Sky,
    fit: Fit,
    noise_adu: float,
    limits: dict[float, float],
    sn: float,
) -> list[partial[None]]:
    """List the plots of the calibration."""
    color = f"{sky.columns.color_mag1} - {sky.columns.color_mag2}"
    model = fit.model
    zp = float(model.evaluate(model.x0, model.y0)[0])
    rms = sky.solution.rms_arcsec if sky.solution else None
    catalog_mag = core.number_column(sky.catalog, sky.columns.mag)
    return [
        partial(plots.draw_photometry, work / "photometry.png", fit, color, everything=False),
        partial(plots.draw_photometry, work / "photometry_unmasked.png", fit, color, everything=True),
        partial(plots.draw_zero_points, work / "photometry_zeropoint.png", fit, frame.shape),
        partial(plots.draw_model, work / "photometry_model.png", model, frame.shape),
        partial(plots.draw_residuals, work / "photometry_residuals.png", fit, frame.shape),
        partial(plots.draw_astrometry, work / "astrometry_dist.png", fit, sky.radius_arcsec, rms),
        partial(plots.draw_limit_histogram, work / "limit_hist.png", objects, catalog_mag, limits.get(sn)),
        partial(plots.draw_limit_sn, work / "limit_sn.png", objects, noise_adu, frame.gain, zp_mag=zp, limits=limits),
    ]


def diagnose_color(
    ctx: StepContext, sky: Sky, pairs: Calibrators, shape: tuple[int, int]
) -> list[tuple[str, float, float]]:
    """Fit a colour term against every band of the catalogue, and give band, term and scatter."""
    rows = []
    for band in CATALOGS[sky.cat_name].filters:
        mag = core.number_column(sky.catalog, f"{band}mag")[pairs.stars]
        magerr = core.number_column(sky.catalog, f"e_{band}mag")[pairs.stars]
        magerr = magerr if np.isfinite(magerr).any() else np.zeros_like(mag)
        trial = replace(pairs, cat_mag=mag, cat_magerr=magerr)
        try:
            model = fit_zero_point(trial, Terms(color=True), shape, log=lambda _: None).model
        except StepError as exc:
            ctx.log(f"Colour diagnosis, {band}: {exc.user_message}")
            continue
        ctx.log(f"Colour diagnosis, {band}: term {model.color_term:+.3f}, scatter {model.scatter:.3f} mag")
        rows.append((band, model.color_term, model.scatter))
    return rows


def write_results(ctx: StepContext, band: str, shape: tuple[int, int], *, objects: Table, sky: Sky, fit: Fit) -> None:
    """Write tables, the solution and the world coordinates."""
    write_parquet(objects, ctx.work / "objects.parquet")
    write_parquet(sky.catalog, ctx.work / "cat.parquet")
    solution = {
        **fit.model.to_json(),
        "filter": band,
        "catalog": sky.cat_name,
        "cat_col_mag": sky.columns.mag,
        "cat_col_color_mag1": sky.columns.color_mag1,
        "cat_col_color_mag2": sky.columns.color_mag2,
        "shape": list(shape),
    }
    (ctx.work / "photometry.json").write_text(json.dumps(solution, indent=1, allow_nan=False))
    header = wcs_header(sky.wcs)
    # as Astrometry.net's: a header without data must have NAXIS = 0
    header["IMAGEW"], header["IMAGEH"] = shape[1], shape[0]
    with quiet_fits():
        fits.PrimaryHDU(header=header).writeto(ctx.work / "image.wcs", overwrite=True, output_verify="silentfix+ignore")


def do_targets(
    ctx: StepContext,
    params: PhotometryParams,
    frame: core.Frame,
    sky: Sky,
    *,
    plan: core.Aperture,
    fwhm_pix: float,
    model: ZeroPoint,
) -> None:
    """Measure targets and write `target.vot` and cutouts; nothing when there are none."""
    targets = targets_for(ctx, params.target, sky.wcs)
    if not targets:
        ctx.log("No targets")
        return
    table = place_targets(targets, sky.wcs)
    if params.centroid_targets:
        x, y = np.asarray(table["x"]), np.asarray(table["y"])
        table["x"], table["y"] = windowed_centroids(frame.flat, x, y, fwhm_pix, frame.mask)
        table["ra"], table["dec"] = sky.wcs.all_pix2world(table["x"], table["y"], 0)
        ctx.log("Targets were recentred")
    core.measure_targets(table, frame, plan, params.sn, model)
    finish_columns(table, params, sky.columns, model)
    if params.time is not None:
        table["time"] = params.time
    report_targets(table, frame.shape, ctx)
    write_votable(annotate(table), ctx.work / "target.vot")
    facts = summary_of(table, band=params.filter, time=params.time, sn=params.sn, catalog=sky.cat_name)
    (ctx.work / TARGETS_FILE).write_text(Measurements(**facts).model_dump_json(indent=1))
    write_target_cutouts(ctx, params, table, frame, sky.wcs)


def computed(shape: tuple[int, int], sky: Sky, fit: Fit, *, fwhm_pix: float, limit_mag: float | None) -> dict[str, Any]:
    """Give the config keys that the step computes; a number that is unknown is left out."""
    ra, dec, radius = field_of(sky.wcs, shape)
    model = fit.model
    rms_arcsec = sky.solution.rms_arcsec if sky.solution else float(np.sqrt(np.mean(fit.pairs.distance_arcsec**2)))
    numbers = {
        "fwhm": fwhm_pix,
        "pixscale": pixel_scale_deg(sky.wcs),
        "field_ra": ra,
        "field_dec": dec,
        "field_sr": radius,
        "zp": float(model.evaluate(model.x0, model.y0)[0]),
        "zp_err": float(model.error(model.x0, model.y0)[0]),
        "mag_limit": np.nan if limit_mag is None else limit_mag,
        "color_term": model.color_term,
        "astrom_rms": rms_arcsec,
    }
    return {
        **{key: round(float(value), _DIGITS) for key, value in numbers.items() if np.isfinite(value)},
        "cat_name": sky.cat_name,
        "cat_col_mag": sky.columns.mag,
        "cat_col_mag_err": sky.columns.mag_err,
        "cat_col_color_mag1": sky.columns.color_mag1,
        "cat_col_color_mag2": sky.columns.color_mag2,
    }
