"""Candidates in the difference: found, judged, compared with catalogues, and written."""

from typing import Final

import numpy as np
from astropy.table import Table

from shared.contracts.params import SubtractionParams
from shared.contracts.results import SUB_CANDIDATES_FILE
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
from shared.science.catalogs.columns import DEC, RA
from shared.science.crossmatch import known_sources
from shared.science.cutout_files import CutoutWriter, corner_of, crop
from shared.science.detection import set_magnitudes
from shared.science.difference_photometry import Apertures
from shared.science.difference_search import Found, Options, find_candidates
from shared.science.solution import Inputs
from shared.science.tables import annotate, write_votable
from shared.science.zeropoint import ZeroPoint, set_calibrated
from shared.worker.step import StepContext

from .subtracted import Subtracted

CUTOUTS: Final = "candidates/candidate_{:04d}.cutout"
_META: Final = ("name", "ra", "dec", "x", "y", "mag_calib", "mag_calib_err", "significance", "flags")


def search(ctx: StepContext, params: SubtractionParams, scene: Subtracted, how: Apertures | None = None) -> None:
    """Find candidates and write `candidates.vot`, `candidates.reg`, their JSON and cutouts.

    Parameters
    ----------
    how
        What `measure_targets` gave; None works it out.

    Raises
    ------
    StepError
        When the options or the archives do not allow it.
    """
    inputs = scene.inputs
    # without a centre the radius, which has a default, restricts only when somebody asked for it
    asked = params.filter_center is not None or ctx.config.get("filter_sr0") is not None
    keys = ("filter_center", "filter_sr0")
    cone = cone_of(ctx, inputs, params.filter_center, params.filter_sr0, keys=keys) if asked else None
    options = Options(
        radius_pix=params.rel_aper * inputs.fwhm_pix,
        annulus_pix=(params.rel_bg1 * inputs.fwhm_pix, params.rel_bg2 * inputs.fwhm_pix),
        sn=params.sn,
        min_area=params.minarea,
        shapes=params.filter_prefilter,
        adjust=params.filter_adjust,
    )
    found = find_candidates(scene.difference, scene.image, scene.mask, options, ctx.log, how=how)
    left = in_cone(ctx, _calibrated(found.table, inputs), cone)
    if params.filter_vizier:
        left = _without_known(ctx, inputs, left)
    if params.filter_skybot:
        left = without_bodies(ctx, left, inputs, params.time, key="filter_skybot")
    _write(ctx, params, scene, found, left)


def _calibrated(table: Table, inputs: Inputs) -> Table:
    model = ZeroPoint.from_json(inputs.solution)
    ra, dec = inputs.wcs.all_pix2world(table["x"], table["y"], 0) if len(table) else (np.zeros(0), np.zeros(0))
    table.add_columns([ra, dec], indexes=[4, 4], names=["ra", "dec"])
    set_magnitudes(table)
    set_calibrated(table, model)
    table["mag_filter_name"] = np.full(len(table), inputs.band)
    colors = (str(inputs.solution.get(key)) for key in ("cat_col_color_mag1", "cat_col_color_mag2"))
    table["mag_color_name"] = np.full(len(table), " - ".join(colors))
    table["mag_color_term"] = np.full(len(table), model.color_term)
    usable = np.isfinite(table["ra"]) & np.isfinite(table["dec"]) & np.isfinite(table["mag_calib"])
    return table[usable]


def _without_known(ctx: StepContext, inputs: Inputs, left: Table) -> Table:
    """Drop what catalogues have at the same place, however bright."""
    radius_deg = matching_radius_deg(inputs.fwhm_pix, inputs.pixscale_deg, inputs.rms_arcsec)
    for survey in surveys_for(np.asarray(left["dec"], float)):
        if len(left):
            ra, dec = np.asarray(left["ra"], float), np.asarray(left["dec"], float)
            sources = known_sources(survey, ra, dec, radius_deg, resources=ctx.resources, log=ctx.log)
            left = left[~near_any(left, sources[RA], sources[DEC], radius_deg)]
            ctx.log(f"{len(left)} are not in {survey.title}, within {3600 * radius_deg:.2f} arcsec")
    return left


def _write(ctx: StepContext, params: SubtractionParams, scene: Subtracted, found: Found, left: Table) -> None:
    inputs = scene.inputs
    table = left[:MAX_CANDIDATES]
    if len(left) > len(table):
        ctx.log(f"Note: of {len(left)} candidates the {len(table)} most significant are kept")
    else:
        ctx.log(f"{len(table)} candidates" if len(table) else "No candidates")
    table = named(table, params.time)
    names = _write_cutouts(ctx, params, scene, found, table)
    report(ctx, table)
    write_votable(annotate(table), ctx.work / "candidates.vot")
    region_arcsec = 3600 * inputs.pixscale_deg * max(inputs.fwhm_pix, 1.0)
    (ctx.work / "candidates.reg").write_text(regions(table, region_arcsec))
    facts = summary(table, names, band=inputs.band, time=params.time, found=len(left))
    (ctx.work / SUB_CANDIDATES_FILE).write_text(facts.model_dump_json(indent=1))


def _write_cutouts(
    ctx: StepContext, params: SubtractionParams, scene: Subtracted, found: Found, table: Table
) -> list[str]:
    writer, half = CutoutWriter(scene.inputs.wcs), params.cutout_size
    planes = {
        "image": scene.image,
        "template": scene.template.image,
        "convolved": scene.difference.convolved,
        "diff": scene.difference.difference,
        "footprint": found.footprint,
        "mask": scene.difference.mask,
    }
    names = [CUTOUTS.format(number) for number in range(len(table))]
    if names:
        (ctx.work / CUTOUTS).parent.mkdir(exist_ok=True)
    for row, name in zip(table, names, strict=True):
        corner = corner_of(float(row["x"]), float(row["y"]), half)
        facts = {key: row[key] for key in _META}
        if params.time is not None:
            facts["time"] = params.time
        writer.write(
            ctx.work / name, {key: crop(plane, corner, 2 * half + 1) for key, plane in planes.items()}, facts, corner
        )
    return names
