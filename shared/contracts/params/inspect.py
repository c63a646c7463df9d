"""Options of `inspect`."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from .base import BandCode, CatalogCode, Extension, Positive, StepParams, Text


def _iso_time(value: str) -> str:
    """Check a time and give it as ISO 8601 UTC, the zone taken as UTC where none is given."""
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        msg = "not an ISO 8601 time such as 2026-10-15T22:10:00"
        raise ValueError(msg) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(tzinfo=None).isoformat()


IsoTime = Annotated[str, AfterValidator(_iso_time)]


class InspectParams(StepParams):
    """Options of `inspect`; None means: take it from the header, or estimate it."""

    target: Text | None = Field(None, description="Targets, one a line: names, coordinates, or x=123.4 y=567.8")
    time: IsoTime | None = Field(None, description="Observation time, ISO 8601, UTC")
    gain: Annotated[float, Field(ge=0, le=1e6)] | None = Field(None, description="Gain, e-/ADU; 0 counts as 1")
    saturation: Positive | None = Field(None, description="Saturation level, ADU")
    ext: Extension | None = Field(
        None, description="Extension of the image to take, from 0; the first usable one when absent"
    )
    mask_cosmics: bool = Field(True, description="Mask cosmic rays (L.A.Cosmic)")
    filter: BandCode | None = Field(None, description="Band, normalised through the aliases")
    cat_name: CatalogCode | None = Field(None, description="Reference catalogue; by filter and position when absent")
    bg_size: Annotated[int, Field(ge=8, le=8192)] | None = Field(None, description="Background mesh, pixels")
