"""The step `simple_transients`: files in, files out."""

from typing import Any, Final

import numpy as np
from astropy.table import Table

from shared.contracts.params import SimpleTransientsParams
from shared.contracts.results import CANDIDATES_FILE
from shared.science.candidates import (
    MAX_CANDIDATES,
    cone_of,
    in_cone,
    matching_radius_deg,
    named,
    near_any,
    regions,
    report,
    summary,
    surveys_for,
    without_bodies,
)
from shared.science.crossmatch import known_sources
from shared.science.cutouts import Scene, write_cutouts
from shared.science.solution import Inputs, load_photometry
from shared.science.tables import annotate, write_votable
from shared.worker.step import StepContext

from . import core
from .inputs import positions_of

_PICTURES_AT_ONCE: Final = 4


def run(ctx: StepContext) -> dict[str, Any]:
    """Run the step.

    Raises
    ------
    StepError
        When the task, the options or the archives do not allow it.
    """
    if not isinstance(ctx.params, SimpleTransientsParams):
        raise TypeError(type(ctx.params))
    params = ctx.params
    with np.errstate(all="ignore"):
        ctx.progress(0.0, "reading the photometry")
        inputs = load_photometry(ctx)
        radius_deg = matching_radius_deg(inputs.fwhm_pix, inputs.pixscale_deg, inputs.rms_arcsec)
        ctx.log(f"{len(inputs.objects)} objects, matching radius {3600 * radius_deg:.2f} arcsec")
        left = select(ctx, params, inputs, radius_deg)
        ctx.progress(0.2, "cross-matching")
        left = drop_known(ctx, params, inputs, left, radius_deg)
        if params.simple_skybot:
            ctx.progress(0.6, "asking for known bodies")
            left = without_bodies(ctx, left, inputs, params.time, key="simple_skybot")
        ctx.progress(0.7, "writing candidates")
        write(ctx, params, inputs, left)
        ctx.progress(1.0, "done")
    return {}


def select(ctx: StepContext, params: SimpleTransientsParams, inputs: Inputs, radius_deg: float) -> Table:
    """Keep well measured objects, in the cone and in the other tasks if that is asked for."""
    objects = inputs.objects
    good = core.good_flags(objects["flags"], prefilter=params.simple_prefilter)
    good &= np.isfinite(objects["mag_calib"]) & np.isfinite(objects["ra"]) & np.isfinite(objects["dec"])
    left = objects[good]
    ctx.log(f"{len(left)} of them have good flags{' and shapes' if params.simple_prefilter else ''}")
    keys = ("simple_center", "simple_sr0")
    left = in_cone(ctx, left, cone_of(ctx, inputs, params.simple_center, params.simple_sr0, keys=keys))
    for task_id in params.other_tasks:
        if len(left):
            others = positions_of(ctx, task_id)
            left = left[near_any(left, others["ra"], others["dec"], radius_deg)]
            ctx.log(f"{len(left)} were detected in task {task_id} as well")
    return left


def drop_known(
    ctx: StepContext, params: SimpleTransientsParams, inputs: Inputs, left: Table, radius_deg: float
) -> Table:
    """Drop what catalogues have: first the reference catalogue, which is here, then the surveys."""
    reach_deg = max(inputs.fwhm_pix * inputs.pixscale_deg, radius_deg)

    def without(known: core.Known, left: Table) -> Table:
        rest = left[~core.matched(left, known, radius_deg, params.simple_mag_diff)]
        blended = 0
        if params.simple_blends and len(rest):
            mixed = core.blends(rest, known, radius_deg, reach_deg, params.simple_mag_diff)
            blended = int(mixed.sum())
            rest = rest[~mixed]
        words = f", {blended} of those dropped are blends" if blended else ""
        ctx.log(f"{len(rest)} are not in {known.title}{words}")
        return rest

    if inputs.catalog is None:
        ctx.log("Note: cat.parquet is gone, all objects are looked up in the surveys")
    elif len(inputs.catalog) and len(left):
        name = str(inputs.solution.get("catalog", "unknown"))
        left = without(core.reference_stars(f"the reference catalogue ({name})", inputs.catalog, inputs.solution), left)
    for survey in surveys_for(np.asarray(left["dec"], float)):
        if len(left):
            ra, dec = np.asarray(left["ra"], float), np.asarray(left["dec"], float)
            sources = known_sources(survey, ra, dec, reach_deg, resources=ctx.resources, log=ctx.log)
            left = without(core.Known.of(survey.title, sources, core.comparable_columns(survey, inputs.band)), left)
    return left


def write(ctx: StepContext, params: SimpleTransientsParams, inputs: Inputs, left: Table) -> None:
    """Write the brightest candidates as table, regions, JSON and cutouts."""
    table = core.brightest(left)
    if len(left) > len(table):
        ctx.log(f"Note: of {len(left)} candidates the {len(table)} brightest are kept")
    else:
        ctx.log(f"{len(table)} candidates" if len(table) else "No candidates")
    table = named(table, params.time)
    scene = Scene(inputs.image, inputs.mask, inputs.wcs, inputs.band, params.time)
    cutouts: list[str | None] = []
    if len(table):
        cutouts = write_cutouts(
            scene,
            table,
            "candidates_simple/candidate_{:04d}.cutout",
            ctx.work,
            half_size_pix=params.cutout_size,
            max_pictures=MAX_CANDIDATES,
            resources=ctx.resources,
            log=ctx.log,
            workers=_PICTURES_AT_ONCE,
        )
    report(ctx, table)
    write_votable(annotate(table), ctx.work / "candidates_simple.vot")
    region_arcsec = 3600 * inputs.pixscale_deg * max(inputs.fwhm_pix, 1.0)
    (ctx.work / "candidates_simple.reg").write_text(regions(table, region_arcsec))
    facts = summary(table, cutouts, band=inputs.band, time=params.time, found=len(left))
    (ctx.work / CANDIDATES_FILE).write_text(facts.model_dump_json(indent=1))
