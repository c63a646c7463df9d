"""Forced photometry of the task's targets, and their cutouts."""

from typing import Final

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from shared.contracts.bands import magnitude_system
from shared.contracts.params import PhotometryParams
from shared.contracts.results import Measurement, Measurements
from shared.science.cutouts import Scene, write_cutouts
from shared.science.targets import Target, resolve_targets, targets_of
from shared.worker.step import StepContext

from .core import Frame

_MAX_SURVEY_CUTOUTS: Final = 20
"""A long list of targets must not become as many questions to an archive."""
_NUMBERS: Final = ("ra", "dec", "x", "y", "flux", "fluxerr", "mag_calib", "mag_calib_err", "mag_limit")


def targets_for(ctx: StepContext, params: PhotometryParams, wcs: WCS) -> list[Target]:
    """Give the targets that `inspect` resolved; resolve them here if it did not run, or they were changed since."""
    known = targets_of(ctx.config)
    asked = [line.strip() for line in (params.target or "").splitlines() if line.strip()]
    if not asked or [target.name for target in known] == asked:
        return known
    return resolve_targets("\n".join(asked), wcs, ctx.resources, ctx.log)


def report_targets(table: Table, shape: tuple[int, int], ctx: StepContext) -> None:
    """Say in the log what was measured."""
    for row in table:
        place = f"{row['name']} at x={row['x']:.1f} y={row['y']:.1f}"
        if not np.isfinite(row["flux"]):
            ctx.log(f"Target {place}: outside of the image ({shape[1]}x{shape[0]}) or without good pixels")
        elif np.isfinite(row["mag_calib"]):
            ctx.log(
                f"Target {place}: {row['mag_calib']:.3f} ± {row['mag_calib_err']:.3f} mag, "
                f"limit {row['mag_limit']:.2f}, flags {row['flags']:#x}"
            )
        else:
            ctx.log(f"Target {place}: not detected, limit {row['mag_limit']:.2f}, flags {row['flags']:#x}")


def summary(table: Table, params: PhotometryParams, cat_name: str) -> Measurements:
    """Write the table of targets as the API gives it."""
    detected = np.asarray(table["flux"]) > params.sn * np.asarray(table["fluxerr"])
    return Measurements(
        filter=params.filter,
        mag_system=magnitude_system(params.filter),
        time=None if params.time is None else f"{params.time}Z",
        sn=params.sn,
        catalog=cat_name,
        color=str(table["mag_color_name"][0]),
        color_term=_number(table["mag_color_term"][0]),
        targets=tuple(
            Measurement(
                name=str(row["name"]),
                detected=bool(detected[number]),
                flags=int(row["flags"]),
                **{name: _number(row[name]) for name in _NUMBERS},
            )
            for number, row in enumerate(table)
        ),
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def write_target_cutouts(ctx: StepContext, params: PhotometryParams, table: Table, frame: Frame, wcs: WCS) -> None:
    """Write a cutout for every target within the image: image, mask, and the sky survey if it can be reached."""
    write_cutouts(
        Scene(frame.image, frame.mask, wcs, params.filter, params.time),
        table,
        "targets/target_{:04d}.cutout",
        ctx.work,
        half_size_pix=params.cutout_size,
        max_pictures=_MAX_SURVEY_CUTOUTS,
        resources=ctx.resources,
        log=ctx.log,
    )
