"""Edits of a task's image: what may be asked, and the messages between the gateway and the inspect service."""

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, TypeAdapter, WithJsonSchema

from .rpc import FolderRequest, Prepared, Refusal

IMAGE: Final = "image.fits"
ORIGINAL: Final = "image.orig.fits"
"""Where the image stays as it was before its first edit."""

EDIT_LIMIT_S: Final = 120.0
"""Longest work on an edit, seconds; the gateway waits a little longer."""

_FAR_PIX: Final = 1_000_000_000


_TEXT: Final = "^[ ]*([+-]?[0-9]{1,9})?[ ]*$"


def _whole(value: object) -> object:
    """Take numbers as text, as forms have them; an empty text means absence, and a truth value is no number."""
    if isinstance(value, bool) or (isinstance(value, str) and re.fullmatch(_TEXT, value) is None):
        msg = "must be an integer"
        raise ValueError(msg)
    return None if isinstance(value, str) and not value.strip() else value


_Place = Annotated[int, Field(ge=-_FAR_PIX, le=_FAR_PIX)]
_KINDS: Final[tuple[dict[str, JsonValue], ...]] = (
    {"type": "integer", "minimum": -_FAR_PIX, "maximum": _FAR_PIX},
    {"type": "string", "pattern": _TEXT},
    {"type": "null"},
)
Edge = Annotated[_Place | None, BeforeValidator(_whole), WithJsonSchema({"anyOf": list(_KINDS)})]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FixOptions(_Options):
    """A repair of the header; there is nothing to choose."""


class CropOptions(_Options):
    """What is to stay of the image: pixels from x1 up to, but not with, x2, and from y1 up to y2, counted from 0."""

    x1: Edge = Field(None, description="First column; absent = the left edge, negative = from the right")
    y1: Edge = Field(None, description="First row; absent = the lower edge, negative = from the top")
    x2: Edge = Field(None, description="Column after the last; absent = the right edge, negative = from there")
    y2: Edge = Field(None, description="Row after the last; absent = the upper edge, negative = from there")


class DestripeOptions(_Options):
    """Which stripes are to go."""

    direction: Literal["horizontal", "vertical", "both"] = Field("both", description="How the stripes run")


EditOptions = FixOptions | CropOptions | DestripeOptions


class _EditRequest(FolderRequest):
    ext: int | None = Field(None, ge=0, le=999, description="Extension of the file to take, as `inspect` is told")


class FixRequest(_EditRequest):
    """Repair the header."""

    kind: Literal["fix"] = "fix"
    options: FixOptions = FixOptions()


class CropRequest(_EditRequest):
    """Cut a part out."""

    kind: Literal["crop"] = "crop"
    options: CropOptions


class DestripeRequest(_EditRequest):
    """Remove stripes."""

    kind: Literal["destripe"] = "destripe"
    options: DestripeOptions


EditRequest = FixRequest | CropRequest | DestripeRequest
EDIT_REQUEST: Final[TypeAdapter[EditRequest]] = TypeAdapter(Annotated[EditRequest, Field(discriminator="kind")])
EDIT_REPLY: Final[TypeAdapter[Prepared | Refusal]] = TypeAdapter(
    Annotated[Prepared | Refusal, Field(discriminator="kind")]
)
