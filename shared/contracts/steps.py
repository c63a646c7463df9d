"""The step table: what can be run, by which service, with which options, and which files it makes."""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict

from .params import (
    CleanupParams,
    InspectParams,
    PhotometryParams,
    SimpleTransientsParams,
    StackParams,
    StepParams,
    SubtractionParams,
)
from .results import CANDIDATES_FILE, SUB_CANDIDATES_FILE, SUB_TARGETS_FILE, TARGETS_FILE

IMAGE_RANK: Final = 0
"""Rank of a change of `image.fits` itself: its commit hides the results of every step."""


class Step(BaseModel):
    """One row of the step table.

    `rank` orders the steps: a commit hides the earlier commits of the same and of every higher rank. `files` are all
    the names that the step may commit, folders ending in a slash; `state` is the stem of the task's states.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    service: str
    rank: int
    state: str
    params: type[StepParams]
    log: str | None
    files: tuple[str, ...]
    time_limit_s: int

    @property
    def queue(self) -> str:
        """Queue of the broker that holds messages of this step; redeclaring with other arguments needs a new name."""
        return f"step.{self.name}.v1"

    @property
    def task_name(self) -> str:
        """Name by which the queue listing shows the step."""
        return f"task_{self.name}"

    @property
    def full_name(self) -> str:
        """Published dotted name of the step."""
        return f"stdweb.celery_tasks.{self.task_name}"


PHOTOMETRY_PLOTS: Final = tuple(
    f"{name}.png"
    for name in (
        "objects",
        "fwhm",
        "fwhm_mag",
        "prefilter",
        "photometry",
        "photometry_unmasked",
        "photometry_zeropoint",
        "photometry_model",
        "photometry_residuals",
        "astrometry_dist",
        "limit_hist",
        "limit_sn",
    )
)

SUBTRACTION_IMAGES: Final = tuple(
    f"sub_{name}.fits"
    for name in (
        "image",
        "mask",
        "template",
        "template_mask",
        "diff",
        "sdiff",
        "conv",
        "ediff",
        "scorr",  # this and the next ones of ZOGY alone
        "fpsf",
        "fpsferr",
    )
)

_TABLE: Final = (
    Step(
        name="cleanup",
        service="inspect",
        rank=2,
        state="cleanup",
        params=CleanupParams,
        log=None,
        files=(),
        time_limit_s=60,
    ),
    Step(
        name="inspect",
        service="inspect",
        rank=3,
        state="inspect",
        params=InspectParams,
        log="inspect.log",
        files=("mask.fits", "image_target.fits", "image.fits"),  # the last one when an extension was asked for
        time_limit_s=900,
    ),
    Step(
        name="photometry",
        service="photometry",
        rank=4,
        state="photometry",
        params=PhotometryParams,
        log="photometry.log",
        files=(
            "objects.parquet",
            "objects.vot",
            "cat.parquet",
            "segmentation.fits",
            "filtered.fits",
            "image_bg.fits",
            "image_rms.fits",
            "photometry.json",
            "image.wcs",
            *PHOTOMETRY_PLOTS,
            "color_diagnosis.png",
            "target.vot",
            TARGETS_FILE,
            "targets/",
        ),
        time_limit_s=3600,
    ),
    Step(
        name="simple_transients",
        service="transients",
        rank=5,
        state="transients_simple",
        params=SimpleTransientsParams,
        log="transients_simple.log",
        files=(
            "candidates_simple.vot",
            "candidates_simple.reg",
            CANDIDATES_FILE,
            "candidates_simple/",
        ),
        time_limit_s=1800,
    ),
    Step(
        name="subtraction",
        service="subtraction",
        rank=6,
        state="subtraction",
        params=SubtractionParams,
        log="subtraction.log",
        files=(
            *SUBTRACTION_IMAGES,
            "candidates.vot",
            "candidates.reg",
            SUB_CANDIDATES_FILE,
            "candidates/",
            "sub_target.vot",
            SUB_TARGETS_FILE,
            "sub_target.cutout",
            "sub_targets/",
        ),
        time_limit_s=3600,
    ),
    Step(
        name="stack",
        service="subtraction",
        rank=1,  # below that of cleanup: what it makes is the task's image, which stays as an upload does
        state="stacking",
        params=StackParams,
        log="stacking.log",
        files=("image.fits", "coverage.fits"),
        time_limit_s=3600,
    ),
)

STEPS: Final[Mapping[str, Step]] = {step.name: step for step in _TABLE}
