"""Options of `photometry`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from .base import BandCode, CatalogCode, Magnitude, Positive, StepParams, Text
from .inspect import IsoTime

SpatialOrder = Annotated[int, Field(ge=0, le=8)]


class PhotometryParams(StepParams):
    """Options of `photometry`; None means: from the header, from `inspect`, or by the described rule."""

    # what inspect resolved, or the user overrode
    target: Text | None = Field(None, description="Targets, one a line")
    time: IsoTime | None = Field(None, description="Observation time, ISO 8601, UTC")
    gain: Annotated[float, Field(ge=0, le=1e6)] | None = Field(None, description="Gain, e-/ADU")
    saturation: Positive | None = Field(None, description="Saturation level, ADU")
    filter: BandCode = Field("R", description="Band, normalised through the aliases")
    cat_name: CatalogCode | None = Field(None, description="Reference catalogue; by filter and position when absent")
    cat_limit: Magnitude | None = Field(None, description="Faint limit of the query, mag in the catalogue's own band")

    sn: Annotated[float, Field(gt=0, le=1000)] = Field(5, description="Detection threshold, signal to noise")
    initial_aper: Annotated[float, Field(gt=0, le=100)] = Field(3, description="Detection aperture radius, pixels")
    initial_r0: Annotated[float, Field(ge=0, le=100)] = Field(0, description="Smoothing kernel of detection, pixels")
    minarea: Annotated[int, Field(ge=1, le=10000)] = Field(5, description="Connected pixels of a detection")
    bg_size: Annotated[int, Field(ge=8, le=8192)] = Field(256, description="Background mesh, pixels")
    fwhm_override: Annotated[float, Field(gt=0, le=200)] | None = Field(None, description="FWHM to use, pixels")
    prefilter_detections: bool = Field(True, description="Reject odd shapes with an isolation forest")
    rel_aper: Annotated[float, Field(gt=0, le=20)] = Field(1, description="Aperture radius, FWHM")
    rel_bg1: Annotated[float, Field(gt=0, le=100)] = Field(5, description="Inner radius of the sky annulus, FWHM")
    rel_bg2: Annotated[float, Field(gt=0, le=100)] = Field(7, description="Outer radius of the sky annulus, FWHM")
    optimal_extraction: bool = Field(False, description="Weighted (Naylor 1998) instead of plain aperture sums")
    spatial_order: SpatialOrder = Field(2, description="Polynomial order of the zero point over the field")
    bg_order: SpatialOrder | None = Field(None, description="Order of the additive (background) term")
    use_color: bool = Field(True, description="Fit a colour term")
    force_color_term: Annotated[float, Field(ge=-10, le=10)] | None = Field(None, description="Colour term to use")
    nonlin: bool = Field(False, description="Fit a non-linearity term")
    filter_blends: bool = Field(True, description="Leave blended catalogue stars out")
    cat_mag_lower: Magnitude | None = Field(None, description="Bright limit of the calibrators, mag")
    cat_mag_upper: Magnitude | None = Field(None, description="Faint limit of the calibrators, mag")
    sr_override: Annotated[float, Field(gt=0, le=3600)] | None = Field(None, description="Matching radius, arcsec")
    refine_wcs: bool = Field(True, description="Refine the WCS with the catalogue")
    refine_order: Annotated[int, Field(ge=1, le=5)] = Field(3, description="Order of the distortion polynomial")
    blind_match_wcs: bool = Field(False, description="Solve the field blindly")
    blind_match_center: Text | None = Field(None, description="Position to search around: coordinates or a name")
    blind_match_sr0: Annotated[float, Field(gt=0, le=180)] = Field(2, description="Radius to search, degrees")
    blind_match_ps_lo: Annotated[float, Field(gt=0, le=3600)] = Field(0.2, description="Smallest pixel scale, arcsec")
    blind_match_ps_up: Annotated[float, Field(gt=0, le=3600)] = Field(4, description="Largest pixel scale, arcsec")
    centroid_targets: bool = Field(False, description="Recentre targets on the image")
    cutout_size: Annotated[int, Field(ge=5, le=500)] = Field(30, description="Half-size of cutouts, pixels")
    diagnose_color: bool = Field(False, description="Fit colour terms against every band of the catalogue")
    inspect_bg: bool = Field(False, description="Keep background and RMS maps")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for lower, upper in (
            ("rel_bg1", "rel_bg2"),
            ("blind_match_ps_lo", "blind_match_ps_up"),
            ("cat_mag_lower", "cat_mag_upper"),
        ):
            low, high = getattr(self, lower), getattr(self, upper)
            if low is not None and high is not None and low >= high:
                msg = f"{upper}: must be larger than {lower} ({high:g} is not larger than {low:g})"
                raise ValueError(msg)
        return self
