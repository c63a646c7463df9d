"""Options of `stack`."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from .base import Extension, StepParams

MAX_STACKED: Final = 200
"""Most images of one stack: each takes its size in room beside the task while they are combined."""

StackMethod = Literal["sum", "clipped_mean", "median"]


def _shared_path(value: str) -> str:
    """Check what can be seen of a path; opening it follows no links, whatever they are named."""
    parts = value.split("/")
    if any(not part or part.startswith(".") or "\\" in part or not part.isprintable() for part in parts):
        msg = "must be paths within the shared data directory, such as night1/m67_001.fits"
        raise ValueError(msg)
    return value


SharedPath = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_shared_path)]


class StackParams(StepParams):
    """Options of `stack`."""

    stack_filenames: Annotated[list[SharedPath], Field(min_length=2, max_length=MAX_STACKED)] | None = Field(
        None, description="Images of the shared data directory to coadd, at least two; the first one gives the grid"
    )
    ext: Extension | None = Field(
        None, description="Extension of each image to take, from 0; the first usable one when absent"
    )
    stack_method: StackMethod = Field("sum", description="How pixels are combined")
    stack_subtract_bg: bool = Field(True, description="Subtract the background of each image first")
    stack_mask_cosmics: bool = Field(False, description="Mask cosmic rays of each image (L.A.Cosmic)")
