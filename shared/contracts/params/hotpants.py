"""Options of HOTPANTS that a user may set: a closed list, nothing that names a file."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .base import StepParams

Order = Annotated[int, Field(ge=0, le=6)]
Regions = Annotated[int, Field(ge=1, le=16)]
Stamps = Annotated[int, Field(ge=1, le=100)]
HalfWidth = Annotated[int, Field(ge=1, le=100)]
Sigmas = Annotated[float, Field(gt=0, le=1e6)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Fill = Annotated[float, Field(ge=-1e30, le=1e30)]
Side = Literal["t", "i", "u"]

_MAX_GAUSSIANS = 5
_MAX_DEGREE = 8
_MAX_SIGMA_PIX = 50.0


def _numbers(value: Any) -> Any:
    """Take the list as text, too, as it stands on a command line."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


Gaussians = Annotated[tuple[float, ...], Field(max_length=1 + 2 * _MAX_GAUSSIANS), BeforeValidator(_numbers)]


class HotpantsExtra(StepParams):
    """Options of the engine `hotpants`, by the names of the HOTPANTS program; None means: the engine's own choice.

    What is given as null is as if it were not given.
    """

    model_config = ConfigDict(extra="forbid")

    ko: Order = Field(0, description="Order of the polynomial by which the kernel varies over a region")
    bgo: Order = Field(0, description="Order of the polynomial of the background over a region")
    nrx: Regions = Field(1, description="Regions along x, each with a solution of its own")
    nry: Regions = Field(1, description="Regions along y")
    nsx: Stamps = Field(10, description="Stamps along x in a region")
    nsy: Stamps = Field(10, description="Stamps along y in a region")
    nss: Annotated[int, Field(ge=1, le=20)] = Field(3, description="Stars looked for in each stamp")
    r: HalfWidth | None = Field(None, description="Half-width of the kernel, pixels")
    rss: HalfWidth | None = Field(None, description="Half-width of the piece around a star that is fitted, pixels")
    kcs: Annotated[int, Field(ge=1, le=1001)] | None = Field(
        None, description="Step by which a varying kernel is evaluated, pixels"
    )
    ft: Sigmas = Field(20, description="Threshold for stars of the fit, noise of the sky")
    sft: Fraction = Field(0.5, description="By how much the threshold is lowered when stars are too few")
    nft: Fraction = Field(0.1, description="Fraction of stamps that must have a star before the threshold is lowered")
    ssig: Sigmas = Field(3, description="Threshold of clipped statistics, sigma")
    ks: Sigmas = Field(2, description="Threshold for rejecting stars from the fit, sigma")
    kfm: Fraction = Field(0.99, description="Fraction of the kernel that must lie on good pixels")
    okn: bool = Field(False, description="Rescale the noise of good pixels to what is seen")
    fi: Fill | None = Field(None, description="Value of bad pixels of the difference")
    fin: Fill | None = Field(None, description="Value of bad pixels of the noise")
    ng: Gaussians | None = Field(
        None, description="Gaussians of the kernel: their number, then degree and sigma (pixels) of each"
    )
    n: Side = Field("i", description="Accepted and without effect: the difference keeps the zero point of the image")
    c: Side | None = Field(None, description="What is convolved: template, image, or what the program finds better")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    @field_validator("ng")
    @classmethod
    def _gaussians(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        problem = None
        if not value or value[0] not in range(1, _MAX_GAUSSIANS + 1):
            problem = f"must begin with the number of Gaussians, 1 to {_MAX_GAUSSIANS}"
        elif len(value) != 1 + 2 * int(value[0]):
            problem = f"must have {1 + 2 * int(value[0])} numbers for {int(value[0])} Gaussians, has {len(value)}"
        elif any(degree not in range(_MAX_DEGREE + 1) for degree in value[1::2]):
            problem = f"must have whole degrees from 0 to {_MAX_DEGREE}"
        elif any(not 0 < sigma <= _MAX_SIGMA_PIX for sigma in value[2::2]):
            problem = f"must have sigmas above 0 and up to {_MAX_SIGMA_PIX:g} pixels"
        if problem:
            raise ValueError(problem)
        return value

    @property
    def gaussians(self) -> tuple[tuple[int, float], ...] | None:
        """Degree and sigma (pixels) of each Gaussian; None when not given."""
        if self.ng is None:
            return None
        return tuple((int(degree), sigma) for degree, sigma in zip(self.ng[1::2], self.ng[2::2], strict=True))
