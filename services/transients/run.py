"""The step `simple_transients`: files in, files out."""

from typing import Any, Final

import numpy as np
from astropy.table import Table

from shared.contracts.bands import magnitude_system
from shared.contracts.params import SimpleTransientsParams
from shared.contracts.results import CANDIDATES_FILE, Candidate, Candidates
from shared.errors import UsageError
from shared.science.catalogs.sky import distance_deg
from shared.science.crossmatch import known_sources
from shared.science.cutouts import Scene, write_cutouts
from shared.science.skybot import known_bodies
from shared.science.solution import Inputs, load_photometry
from shared.science.tables import annotate, write_votable
from shared.science.targets import resolve_targets
from shared.worker.step import StepContext

from . import core
from .inputs import positions_of

_SKYBOT_RADIUS_DEG: Final = 10 / 3600
"""As STDPipe's: ephemerides are geocentric, and bodies move while the image is taken."""
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
        radius_deg = core.matching_radius_deg(inputs.fwhm_pix, inputs.pixscale_deg, inputs.rms_arcsec)
        ctx.log(f"{len(inputs.objects)} objects, matching radius {3600 * radius_deg:.2f} arcsec")
        left = select(ctx, params, inputs, radius_deg)
        ctx.progress(0.2, "cross-matching")
        left = drop_known(ctx, params, inputs, left, radius_deg)
        if params.simple_skybot:
            ctx.progress(0.6, "asking for known bodies")
            left = drop_bodies(ctx, params, inputs, left)
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
    if (cone := cone_of(ctx, params, inputs)) is not None:
        left = left[core.in_cone(left, *cone)]
        ctx.log(f"{len(left)} within {cone[2]:g} deg of RA {cone[0]:.5f} Dec {cone[1]:+.5f}")
    for task_id in params.other_tasks:
        if len(left):
            others = positions_of(ctx, task_id)
            left = left[core.near_any(left, others["ra"], others["dec"], radius_deg)]
            ctx.log(f"{len(left)} were detected in task {task_id} as well")
    return left


def cone_of(ctx: StepContext, params: SimpleTransientsParams, inputs: Inputs) -> tuple[float, float, float] | None:
    """Give centre and radius of the cone, degrees; None when there is none.

    Raises
    ------
    UsageError
        For a centre without a radius, or a cone that does not touch the frame.
    """
    center, radius_deg = params.simple_center, params.simple_sr0
    if center is None and radius_deg is None:
        return None
    if radius_deg is None:
        text = "simple_center was given without a radius; give simple_sr0 in degrees as well."
        raise UsageError("no_radius", text)
    ra, dec, field_deg = inputs.field
    if center is None:
        ctx.log("No simple_center: the cone is around the centre of the image")
    else:
        if len(center.splitlines()) > 1:
            raise UsageError("bad_target", "simple_center names more than one position; give one.")
        found = resolve_targets(center, inputs.wcs, ctx.resources, ctx.log)[0]
        ra, dec = found.ra_deg, found.dec_deg
    away_deg = float(distance_deg(inputs.field[0], inputs.field[1], np.array([ra]), np.array([dec]))[0])
    if not away_deg <= field_deg + radius_deg:
        text = (
            f"The cone of {radius_deg:g} deg around simple_center does not touch the image, whose centre is at RA "
            f"{inputs.field[0]:.4f} Dec {inputs.field[1]:+.4f}, {away_deg:.3f} deg away; change it or leave it out."
        )
        raise UsageError("cone_outside", text)
    return ra, dec, radius_deg


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
    for survey in core.surveys_for(np.asarray(left["dec"], float)):
        if len(left):
            ra, dec = np.asarray(left["ra"], float), np.asarray(left["dec"], float)
            sources = known_sources(survey, ra, dec, reach_deg, resources=ctx.resources, log=ctx.log)
            left = without(core.Known.of(survey.title, sources, core.comparable_columns(survey, inputs.band)), left)
    return left


def drop_bodies(ctx: StepContext, params: SimpleTransientsParams, inputs: Inputs, left: Table) -> Table:
    """Drop known bodies of the solar system.

    Raises
    ------
    UsageError
        When the time of the observation is not known.
    """
    if params.time is None:
        text = "SkyBoT needs the time of the observation, which is not known; set time, or switch simple_skybot off."
        raise UsageError("no_time", text)
    if not len(left):
        return left
    bodies = known_bodies(*inputs.field, params.time, resources=ctx.resources, log=ctx.log)
    here = core.near_any(left, [body.ra_deg for body in bodies], [body.dec_deg for body in bodies], _SKYBOT_RADIUS_DEG)
    ctx.log(f"{(~here).sum()} are none of the {len(bodies)} known bodies in the field")
    return left[~here]


def write(ctx: StepContext, params: SimpleTransientsParams, inputs: Inputs, left: Table) -> None:
    """Write the brightest candidates as table, regions, JSON and cutouts."""
    table = core.brightest(left)
    if len(left) > len(table):
        ctx.log(f"Note: of {len(left)} candidates the {len(table)} brightest are kept")
    else:
        ctx.log(f"{len(table)} candidates" if len(table) else "No candidates")
    table.add_column(np.array(core.names_of(table), dtype="U32"), index=0, name="name")
    if params.time is not None:
        table["time"] = np.full(len(table), params.time)
    scene = Scene(inputs.image, inputs.mask, inputs.wcs, inputs.band, params.time)
    cutouts: list[str | None] = []
    if len(table):
        cutouts = write_cutouts(
            scene,
            table,
            "candidates_simple/candidate_{:04d}.cutout",
            ctx.work,
            half_size_pix=params.cutout_size,
            max_pictures=core.MAX_CANDIDATES,
            resources=ctx.resources,
            log=ctx.log,
            workers=_PICTURES_AT_ONCE,
        )
    for row in table:
        ctx.log(
            f"Candidate {row['name']} at x={row['x']:.1f} y={row['y']:.1f}: "
            f"{row['mag_calib']:.3f} ± {row['mag_calib_err']:.3f} mag"
        )
    write_votable(annotate(table), ctx.work / "candidates_simple.vot")
    region_arcsec = 3600 * inputs.pixscale_deg * max(inputs.fwhm_pix, 1.0)
    (ctx.work / "candidates_simple.reg").write_text(core.regions(table, region_arcsec))
    summary = Candidates(
        filter=inputs.band,
        mag_system=magnitude_system(inputs.band),
        time=None if params.time is None else f"{params.time}Z",
        found=len(left),
        candidates=tuple(_row(row, cutout) for row, cutout in zip(table, cutouts, strict=True)),
    )
    (ctx.work / CANDIDATES_FILE).write_text(summary.model_dump_json(indent=1))


def _row(row: Any, cutout: str | None) -> Candidate:
    numbers = {name: float(row[name]) for name in ("ra", "dec", "x", "y", "flux", "fluxerr", "mag_calib")}
    error = float(row["mag_calib_err"])
    return Candidate(
        name=str(row["name"]),
        mag_calib_err=error if np.isfinite(error) else None,
        flags=int(row["flags"]),
        cutout=cutout,
        **numbers,
    )
