"""Options of `subtraction`."""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema, model_validator

from ..bands import TEMPLATES
from .base import Positive, StepParams, Text
from .hotpants import HotpantsExtra
from .inspect import IsoTime

SubtractionMethod = Literal["hotpants", "zogy", "sfft"]
SubtractionMode = Literal["detection", "target"]
SfftOrder = Annotated[int, Field(ge=0, le=4)]

MIN_SUB_SIZE: Final = 128
"""A smaller part has too few stars to be matched by."""


def _template(value: str) -> str:
    if value not in TEMPLATES:
        msg = f"unknown template; allowed: {', '.join(TEMPLATES)}"
        raise ValueError(msg)
    return value


TemplateCode = Annotated[
    str,
    StringConstraints(max_length=64),
    AfterValidator(_template),
    WithJsonSchema({"type": "string", "enum": list(TEMPLATES)}),
]


class SubtractionParams(StepParams):
    """Options of `subtraction`; None means: what `inspect` found, or the described rule."""

    # what inspect resolved, or the user overrode
    target: Text | None = Field(None, description="Targets, one a line")
    time: IsoTime | None = Field(None, description="Observation time, ISO 8601, UTC")
    gain: Annotated[float, Field(ge=0, le=1e6)] | None = Field(None, description="Gain, e-/ADU")
    saturation: Positive | None = Field(None, description="Saturation level, ADU")

    # as in photometry
    sn: Annotated[float, Field(gt=0, le=1000)] = Field(5, description="Detection threshold, signal to noise")
    minarea: Annotated[int, Field(ge=1, le=10000)] = Field(5, description="Connected pixels of a detection")
    bg_size: Annotated[int, Field(ge=8, le=8192)] = Field(256, description="Background mesh, pixels")
    rel_aper: Annotated[float, Field(gt=0, le=20)] = Field(1, description="Aperture radius, FWHM")
    rel_bg1: Annotated[float, Field(gt=0, le=100)] = Field(5, description="Inner radius of the sky annulus, FWHM")
    rel_bg2: Annotated[float, Field(gt=0, le=100)] = Field(7, description="Outer radius of the sky annulus, FWHM")
    cutout_size: Annotated[int, Field(ge=5, le=500)] = Field(30, description="Half-size of cutouts, pixels")

    template: TemplateCode | None = Field(None, description="Source of the template; by position when absent")
    custom_template_gain: Annotated[float, Field(gt=0, le=1e9)] = Field(
        10000, description="Gain of custom_template.fits, e-/ADU"
    )
    custom_template_saturation: Positive | None = Field(None, description="Saturation of custom_template.fits, ADU")
    template_fwhm_override: Annotated[float, Field(gt=0, le=200)] | None = Field(
        None, description="FWHM of the template, pixels of the image"
    )
    subtraction_method: SubtractionMethod = Field("hotpants", description="Engine")
    subtraction_mode: SubtractionMode = Field(
        "detection", description="Search for candidates (targets are measured too), or measure the targets only"
    )
    hotpants_extra: HotpantsExtra = Field(HotpantsExtra(), description="Options of the engine hotpants")
    sfft_kernel_poly_order: SfftOrder = Field(0, description="Order of SFFT's kernel over a part")
    sfft_bg_poly_order: SfftOrder = Field(0, description="Order of SFFT's background over a part")
    sfft_flux_poly_order: SfftOrder = Field(0, description="Order of SFFT's photometric scale over a part")
    sub_size: Annotated[int, Field(ge=MIN_SUB_SIZE, le=16384)] = Field(
        1000, description="Side of the parts that are subtracted one by one, pixels"
    )
    sub_overlap: Annotated[int, Field(ge=0, le=1000)] = Field(50, description="Overlap of the parts, pixels")

    filter_center: Text | None = Field(
        None, description="Centre of the search: coordinates, x=123.4 y=567.8 or a name; of the image when absent"
    )
    filter_sr0: Annotated[float, Field(gt=0, le=180)] = Field(1, description="Radius of the search, degrees")
    filter_prefilter: bool = Field(True, description="Drop candidates of odd shape")
    filter_adjust: bool = Field(True, description="Drop dipoles, which a shift by a fraction of a pixel explains")
    filter_vizier: bool = Field(False, description="Drop candidates that catalogues have")
    filter_skybot: bool = Field(False, description="Drop known solar-system objects (SkyBoT)")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.rel_bg1 >= self.rel_bg2:
            msg = f"rel_bg2: must be larger than rel_bg1 ({self.rel_bg2:g} is not larger than {self.rel_bg1:g})"
            raise ValueError(msg)
        return self
