"""Cutouts of the task's targets."""

from typing import Final

from astropy.table import Table
from astropy.wcs import WCS

from shared.contracts.params import PhotometryParams
from shared.science.cutouts import Scene, write_cutouts
from shared.worker.step import StepContext

from .core import Frame

_MAX_SURVEY_CUTOUTS: Final = 20
"""A long list of targets must not become as many questions to an archive."""


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
