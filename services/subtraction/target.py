"""Forced photometry of the task's targets in the difference."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from shared.contracts.params import SubtractionParams
from shared.contracts.results import SUB_TARGETS_FILE, SubtractionMeasurements
from shared.science.cutout_files import CutoutWriter, corner_of, crop
from shared.science.detection import set_magnitudes
from shared.science.difference_photometry import Apertures, apertures, measure
from shared.science.forced import place_targets, report_targets, summary_of, targets_for
from shared.science.limits import limiting_flux
from shared.science.solution import Inputs
from shared.science.tables import annotate, write_votable
from shared.science.zeropoint import ZeroPoint, set_calibrated
from shared.worker.step import StepContext

from .subtracted import Subtracted
from .tiles import Box

FIRST_CUTOUT: Final = "sub_target.cutout"
OTHER_CUTOUTS: Final = "sub_targets/target_{:04d}.cutout"
_MAX_MASKED: Final = 0.5
"""Of the aperture: with more the rest says little of the flux."""
_META: Final = ("name", "ra", "dec", "x", "y", "mag_calib", "mag_calib_err", "mag_limit", "flags")

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Places:
    """Targets with their sky and pixel positions in the frame, and which of them lie on it."""

    table: Table
    inside: Bools

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def of(cls, ctx: StepContext, params: SubtractionParams, inputs: Inputs) -> "Places":
        """Locate the targets by the solution of photometry."""
        table = place_targets(targets_for(ctx, params.target, inputs.wcs), inputs.wcs)
        x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
        rows, columns = inputs.image.shape
        half = 0.5
        inside = (x > -half) & (x < columns - half) & (y > -half) & (y < rows - half)
        return cls(table, np.asarray(inside, bool))


def measure_targets(
    ctx: StepContext, params: SubtractionParams, scene: Subtracted, places: Places, box: Box
) -> Apertures:
    """Measure targets and write `sub_target.vot`, its JSON, and cutouts; give how they were measured.

    Parameters
    ----------
    scene
        The difference of a part of the frame, or of all.
    box
        That part.
    """
    inputs, table = scene.inputs, places.table.copy()
    model = ZeroPoint.from_json(inputs.solution)
    x, y = (np.where(places.inside, np.asarray(table[name], float), np.nan) for name in ("x", "y"))
    fwhm_pix = inputs.fwhm_pix
    how = apertures(
        scene.difference,
        scene.image,
        scene.mask,
        radius_pix=params.rel_aper * fwhm_pix,
        annulus_pix=(params.rel_bg1 * fwhm_pix, params.rel_bg2 * fwhm_pix),
    )
    ctx.log(
        f"Targets: aperture of {how.radius_pix:.2f} pixels, flux correction {how.correction:.4f}, "
        f"noise factor {how.noise_factor:.3f}"
    )
    found = measure(scene.difference, x - box.left, y - box.top, how)
    hidden = _masked_share(scene.difference.mask, x - box.left, y - box.top, how.radius_pix) > _MAX_MASKED
    for row in np.flatnonzero(hidden & places.inside):
        ctx.log(f"Target {table['name'][row]}: on masked pixels of image or template, it cannot be measured")
    table["flux"] = np.where(hidden, np.nan, found.flux)
    table["fluxerr"] = np.where(hidden, np.nan, found.fluxerr)
    table["bg_local"], table["npix_aper"], table["flags"] = found.sky, found.npix, found.flags
    set_magnitudes(table)
    set_calibrated(table, model)
    table["mag_limit"] = _limits(table, scene, model, params.sn)
    table["mag_filter_name"] = inputs.band
    table["mag_color_name"] = " - ".join(
        str(inputs.solution.get(key)) for key in ("cat_col_color_mag1", "cat_col_color_mag2")
    )
    table["mag_color_term"] = model.color_term
    if params.time is not None:
        table["time"] = params.time
    report_targets(table, (inputs.image.shape[0], inputs.image.shape[1]), ctx)
    write_votable(annotate(table), ctx.work / "sub_target.vot")
    facts = summary_of(
        table, band=inputs.band, time=params.time, sn=params.sn, catalog=str(inputs.solution.get("catalog", ""))
    )
    summary = SubtractionMeasurements(
        **facts, method=scene.engine, template=scene.template.source, template_filter=scene.template.band
    )
    (ctx.work / SUB_TARGETS_FILE).write_text(summary.model_dump_json(indent=1))
    _write_cutouts(ctx, params, scene, table, inside=places.inside, box=box)
    return how


def _limits(table: Table, scene: Subtracted, model: ZeroPoint, sn: float) -> NDArray[np.float64]:
    """Give the magnitude that would have the asked signal to noise at each place, without the target's own noise."""
    flux, error = np.asarray(table["flux"], float), np.asarray(table["fluxerr"], float)
    noise_adu = np.sqrt(np.maximum(error**2 - np.maximum(flux, 0) / scene.gain, 0.01 * error**2))
    mag = -2.5 * np.log10(limiting_flux(noise_adu, scene.gain, sn))
    return np.asarray(mag + model.evaluate(table["x"], table["y"], mag), np.float64)


def _masked_share(
    mask: Bools, x: NDArray[np.float64], y: NDArray[np.float64], radius_pix: float
) -> NDArray[np.float64]:
    """Give the part of each aperture on masked pixels; what is beyond the edge counts as masked."""
    reach = int(np.ceil(radius_pix))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(dx, dy) <= radius_pix
    share = np.zeros(x.size)
    for number in np.flatnonzero(np.isfinite(x) & np.isfinite(y)):
        around = crop(~mask, (round(x[number]) - reach, round(y[number]) - reach), 2 * reach + 1)
        share[number] = 1 - around[disc].mean()
    return share


def _write_cutouts(
    ctx: StepContext, params: SubtractionParams, scene: Subtracted, table: Table, *, inside: Bools, box: Box
) -> None:
    """Write a cutout for each target on the frame: the first beside the table, the others, by row, in a folder."""
    writer = CutoutWriter(scene.inputs.wcs)
    found = scene.difference
    planes = {
        "image": scene.image,
        "template": scene.template.image,
        "convolved": found.convolved,
        "diff": found.difference,
        "mask": found.mask,
    }
    half = params.cutout_size
    rows = np.flatnonzero(inside).tolist()
    for number in rows:
        row, name = table[number], FIRST_CUTOUT if number == rows[0] else OTHER_CUTOUTS.format(number)
        (ctx.work / name).parent.mkdir(exist_ok=True)
        left, bottom = corner_of(float(row["x"]), float(row["y"]), half)
        inner = (left - box.left, bottom - box.top)
        parts = {key: crop(plane, inner, 2 * half + 1) for key, plane in planes.items()}
        facts = {key: row[key] for key in _META}
        if params.time is not None:
            facts["time"] = params.time
        writer.write(ctx.work / name, parts, facts, (left, bottom))
