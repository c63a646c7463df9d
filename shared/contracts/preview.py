"""Pictures of FITS files: what may be asked, and the messages between the gateway and the preview service."""

import hashlib
import json
import os
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator

from .rpc import Refusal, Request, RpcMessage

MAX_HEIGHT: Final = 16384
"""Pictures of very narrow images are cut down to so many rows; a JPEG cannot have more than four times as many."""

CACHE_FOLDER: Final = "cache/preview"
"""Where pictures lie, relative to the shared volume."""

MASK: Final = "custom_mask.fits"
"""The file of a task that says which pixels of its image are not to be shown."""

SUFFIXES: Final = {"jpeg": ".jpg", "png": ".png"}
CONTENT_TYPES: Final = {"jpeg": "image/jpeg", "png": "image/png"}

_RENDERING: Final = 1
"""Raised when the same options give another picture than before."""


class PictureOptions(BaseModel):
    """What every picture can be told."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    width: int = Field(800, ge=16, le=8192, description="Width of the picture, pixels")
    format: Literal["jpeg", "png"] = Field("jpeg", description="Kind of picture")
    quality: int = Field(80, ge=1, le=100, description="Quality of a JPEG")


class CutoutOptions(PictureOptions):
    """What the picture of a cutout can be told."""


class PreviewOptions(PictureOptions):
    """What the picture of an image can be told."""

    ext: int = Field(-1, ge=-1, le=999, description="Number of the extension, from 0; -1 is the last one with an image")
    cmap: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_]+$")] = Field(
        "Blues_r", description="Name of a colour map of matplotlib"
    )
    stretch: Literal["linear", "log", "sqrt", "asinh"] = Field("linear", description="From values to brightness")
    qmin: float = Field(0.5, ge=0, le=100, description="Percentile that gets the first colour")
    qmax: float = Field(
        99.5, ge=0, le=100, validate_default=True, description="Percentile that gets the last colour; above qmin"
    )
    r0: float = Field(0.0, ge=0, le=100, description="Gaussian smoothing before display, sigma in pixels of the image")

    @field_validator("qmax")
    @classmethod
    def _above_qmin(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("qmin", -1):
            msg = f"must be above qmin, which is {info.data['qmin']:g}"
            raise ValueError(msg)
        return value


class _PictureRequest(Request):
    task_id: int | None = Field(description="Whose file it is; None for the shared data directory")
    path: str = Field(description="Name of the file, relative")
    user: str = Field("", description="Who asks, for fair shares")


class PreviewRequest(_PictureRequest):
    """Make the picture of an image."""

    kind: Literal["preview"] = "preview"
    options: PreviewOptions


class CutoutRequest(_PictureRequest):
    """Make the picture of a cutout: its planes side by side."""

    kind: Literal["cutout"] = "cutout"
    options: CutoutOptions


class PictureMade(RpcMessage):
    """The picture lies in the cache."""

    kind: Literal["made"] = "made"
    key: str = Field(
        pattern="^[0-9a-f]{40}$", description="What `picture_key` gives for the files that were shown; no path"
    )
    size: int = Field(description="Bytes")


PictureRequest = Annotated[PreviewRequest | CutoutRequest, Field(discriminator="kind")]
PictureReply = Annotated[PictureMade | Refusal, Field(discriminator="kind")]

PICTURE_REQUEST: Final[TypeAdapter[PreviewRequest | CutoutRequest]] = TypeAdapter(PictureRequest)
PICTURE_REPLY: Final[TypeAdapter[PictureMade | Refusal]] = TypeAdapter(PictureReply)


def shows_mask(task_id: int | None, path: str) -> bool:
    """Tell whether the task's mask is applied to a file."""
    return task_id is not None and path == "image.fits"


def content_key(*files: os.stat_result | None) -> str:
    """Name the content of files, by what changes whenever they are replaced.

    The number of the device is left out: hosts that share a volume do not agree on it.
    """
    facts = [None if file is None else (file.st_ino, file.st_mtime_ns, file.st_size) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def picture_key(options: PictureOptions, image: os.stat_result, mask: os.stat_result | None) -> str:
    """Name a picture: the same for the same files and options, in every process of ours.

    Parameters
    ----------
    options
        What was asked.
    image, mask
        Status of the files; None without a mask.
    """
    asked = options.model_dump()
    if options.format == "png":
        asked.pop("quality")
    facts = [_RENDERING, type(options).__name__, asked, content_key(image, mask)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def picture_name(key: str, options: PictureOptions) -> str:
    """Name the file of a picture, relative to the cache's folder."""
    return key + SUFFIXES[options.format]
