"""Forced photometry of a task's targets: where they are, and what is told of them."""

from typing import Any, Final

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from ..contracts.bands import magnitude_system
from ..contracts.results import Measurement
from ..worker.step import StepContext
from .images import size_of
from .targets import Target, resolve_targets, targets_of

_NUMBERS: Final = ("ra", "dec", "x", "y", "flux", "fluxerr", "mag_calib", "mag_calib_err", "mag_limit")


def targets_for(ctx: StepContext, asked: str | None, wcs: WCS) -> list[Target]:
    """Give the targets that `inspect` resolved; resolve them here if it did not run, or they were changed since.

    Parameters
    ----------
    asked
        The option `target`.
    """
    known = targets_of(ctx.config)
    lines = [line.strip() for line in (asked or "").splitlines() if line.strip()]
    if not lines or [target.name for target in known] == lines:
        return known
    return resolve_targets("\n".join(lines), wcs, ctx.resources, ctx.log)


def place_targets(targets: list[Target], wcs: WCS) -> Table:
    """Give names, sky and pixel positions of targets by the refined solution."""
    x = np.array([np.nan if target.x is None else target.x for target in targets], float)
    y = np.array([np.nan if target.y is None else target.y for target in targets], float)
    ra = np.array([target.ra_deg for target in targets], float)
    dec = np.array([target.dec_deg for target in targets], float)
    by_pixel = np.isfinite(x) & np.isfinite(y)
    if by_pixel.any():
        ra[by_pixel], dec[by_pixel] = wcs.all_pix2world(x[by_pixel], y[by_pixel], 0)
    if not by_pixel.all():
        x[~by_pixel], y[~by_pixel] = wcs.all_world2pix(ra[~by_pixel], dec[~by_pixel], 0, quiet=True)
    return Table({"name": [target.name for target in targets], "ra": ra, "dec": dec, "x": x, "y": y})


def report_targets(table: Table, shape: tuple[int, int], ctx: StepContext) -> None:
    """Say in the log what was measured."""
    for row in table:
        place = f"{row['name']} at x={row['x']:.1f} y={row['y']:.1f}"
        if not np.isfinite(row["flux"]):
            ctx.log(f"Target {place}: outside of the image ({size_of(shape)}) or without good pixels")
        elif np.isfinite(row["mag_calib"]):
            ctx.log(
                f"Target {place}: {row['mag_calib']:.3f} ± {row['mag_calib_err']:.3f} mag, "
                f"limit {row['mag_limit']:.2f}, flags {row['flags']:#x}"
            )
        else:
            ctx.log(f"Target {place}: not detected, limit {row['mag_limit']:.2f}, flags {row['flags']:#x}")


def summary_of(table: Table, *, band: str, time: str | None, sn: float, catalog: str) -> dict[str, Any]:
    """Give what `shared.contracts.results.Measurements` holds."""
    detected = np.asarray(table["flux"]) > sn * np.asarray(table["fluxerr"])
    return {
        "filter": band,
        "mag_system": magnitude_system(band),
        "time": None if time is None else f"{time}Z",
        "sn": sn,
        "catalog": catalog,
        "color": str(table["mag_color_name"][0]),
        "color_term": _number(table["mag_color_term"][0]),
        "targets": tuple(
            Measurement(
                name=str(row["name"]),
                detected=bool(detected[number]),
                flags=int(row["flags"]),
                **{name: _number(row[name]) for name in _NUMBERS},
            )
            for number, row in enumerate(table)
        ),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
