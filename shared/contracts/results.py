"""Measurements as JSON: what steps write beside their tables, and `GET /api/tasks/{id}/results/` sends."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

TARGETS_FILE: Final = "target.json"
"""Written by `photometry` beside target.vot."""

CANDIDATES_FILE: Final = "candidates_simple.json"
"""Written by `simple_transients` beside candidates_simple.vot."""

SUB_TARGETS_FILE: Final = "sub_target.json"
"""Written by `subtraction` beside sub_target.vot."""

SUB_CANDIDATES_FILE: Final = "candidates.json"
"""Written by `subtraction` beside candidates.vot."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Measurement(_Row):
    """One object. Null: everything at a position outside of the image, the magnitude of a negative flux."""

    name: str
    ra: float | None = Field(description="Right ascension, ICRS, degrees")
    dec: float | None = Field(description="Declination, ICRS, degrees")
    x: float | None = Field(description="Pixels, 0-based")
    y: float | None = Field(description="Pixels, 0-based")
    flux: float | None = Field(description="In the aperture, above the local sky, ADU")
    fluxerr: float | None = Field(description="ADU")
    mag_calib: float | None = Field(description="Magnitude in the instrument's own system, without the colour term")
    mag_calib_err: float | None
    mag_limit: float | None = Field(description="Magnitude of a star with the asked signal to noise at this place")
    detected: bool = Field(description="Whether the flux has the asked signal to noise")
    flags: int = Field(description="Bit mask, see docs/columns.md")


class Measurements(_Row):
    """What was measured, and what the numbers mean."""

    filter: str = Field(description="Band", examples=["R"])
    mag_system: Literal["AB", "Vega"]
    time: str | None = Field(description="Of the observation, ISO 8601, UTC")
    sn: float = Field(description="Signal to noise of limits and detections")
    catalog: str = Field(description="Reference catalogue", examples=["gaiadr3syn"])
    color: str | None = Field(description="Colour of the colour term", examples=["B - V"])
    color_term: float | None = Field(description="Catalogue magnitude = mag_calib + color_term x colour")
    targets: tuple[Measurement, ...]


class SubtractionMeasurements(Measurements):
    """What was measured at the targets in the difference of image and template."""

    method: str = Field(description="Engine of the subtraction", examples=["hotpants"])
    template: str = Field(description="Source of the template", examples=["ps1"])
    template_filter: str = Field(description="Band of the template", examples=["r"])


class Candidate(_Row):
    """One candidate transient."""

    name: str = Field(description="Its position, as is usual for objects without a name")
    ra: float = Field(description="Right ascension, ICRS, degrees")
    dec: float = Field(description="Declination, ICRS, degrees")
    x: float = Field(description="Pixels, 0-based")
    y: float = Field(description="Pixels, 0-based")
    flux: float = Field(description="In the aperture, above the local sky, ADU")
    fluxerr: float = Field(description="ADU")
    mag_calib: float = Field(description="Magnitude in the instrument's own system, without the colour term")
    mag_calib_err: float | None
    flags: int = Field(description="Bit mask, see docs/columns.md")
    cutout: str | None = Field(description="Its file, for `files/` and `cutout/`; null without one")


class Candidates(_Row):
    """What is in the image and in no catalogue, the brightest first."""

    filter: str = Field(description="Band", examples=["R"])
    mag_system: Literal["AB", "Vega"]
    time: str | None = Field(description="Of the observation, ISO 8601, UTC")
    found: int = Field(description="How many there were; at most 100 are listed")
    candidates: tuple[Candidate, ...]
