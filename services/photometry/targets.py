"""Forced photometry of the task's targets, and their cutouts."""

from typing import Final

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from stdpipe.cutouts import get_cutout, write_cutout

from shared.contracts.bands import magnitude_system
from shared.contracts.params import PhotometryParams
from shared.contracts.results import Measurement, Measurements
from shared.errors import StepError
from shared.science.images import quiet_fits
from shared.science.surveys import survey_cutout
from shared.science.targets import Target, resolve_targets, targets_of
from shared.science.wcs import pixel_scale_deg, wcs_header
from shared.worker.step import StepContext

from .core import Frame

_MAX_SURVEY_CUTOUTS: Final = 20
"""A long list of targets must not become as many questions to an archive."""
_NUMBERS: Final = ("ra", "dec", "x", "y", "flux", "fluxerr", "mag_calib", "mag_calib_err", "mag_limit")
_META: Final = ("name", "ra", "dec", "x", "y", "mag", "magerr", "mag_calib", "mag_calib_err", "mag_limit", "flags")


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


def write_cutouts(
    ctx: StepContext,
    params: PhotometryParams,
    table: Table,
    frame: Frame,
    wcs: WCS,
) -> None:
    """Write a cutout for every target within the image: image, mask, and the sky survey if it can be reached."""
    folder = ctx.work / "targets"
    folder.mkdir(exist_ok=True)
    inside = frame.covers(np.asarray(table["x"], float), np.asarray(table["y"], float))
    scale_arcsec = 3600 * pixel_scale_deg(wcs)
    size = 2 * params.cutout_size + 1
    header = wcs_header(wcs)
    reachable = True
    for number, row in enumerate(table):
        if not inside[number]:
            continue
        facts = {name: _plain(row[name]) for name in _META if name in table.colnames}
        cutout = get_cutout(
            frame.image, facts, params.cutout_size, header=header, mask=frame.mask, time=params.time, name=facts["name"]
        )
        if reachable and number < _MAX_SURVEY_CUTOUTS:
            picture = None
            try:
                picture = survey_cutout(
                    float(row["ra"]),
                    float(row["dec"]),
                    size=size,
                    pixel_scale_arcsec=scale_arcsec,
                    band=params.filter,
                    resources=ctx.resources,
                    log=ctx.log,
                )
            except StepError as exc:
                ctx.log(f"No survey images: {exc.user_message}")
            reachable = picture is not None
            if picture is not None:
                cutout["template"] = on_grid(picture[0], picture[1], cutout["header"], size)
        with quiet_fits():
            write_cutout(cutout, str(folder / f"target_{number:04d}.cutout"))


def on_grid(picture: NDArray[np.float64], header: fits.Header, onto: fits.Header, size: int) -> NDArray[np.float32]:
    """Resample a survey picture, bilinear, to the grid of a cutout, so that both look the same way."""
    from scipy.ndimage import map_coordinates

    y, x = np.mgrid[0:size, 0:size]
    ra, dec = WCS(onto).all_pix2world(x.ravel(), y.ravel(), 0)
    px, py = WCS(header).all_world2pix(ra, dec, 0, quiet=True)
    values = map_coordinates(picture, [py, px], order=1, mode="nearest")
    half = 0.5
    values[(px < -half) | (py < -half) | (px > picture.shape[1] - half) | (py > picture.shape[0] - half)] = np.nan
    return np.asarray(values.reshape(size, size), np.float32)


def _plain(value: object) -> object:
    """Give a value as the cutout's header can hold it: ASCII text, numbers."""
    if isinstance(value, str):
        return value.encode("ascii", "replace").decode()
    return value.item() if isinstance(value, np.generic) else value
