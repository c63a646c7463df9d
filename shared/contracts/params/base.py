"""What the option models of all steps share."""

from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from ..bands import CATALOGS, FILTERS, band_of

MAX_CONFIG_BYTES: Final = 256 * 1024
MAX_KEY_LENGTH: Final = 64


class StepParams(BaseModel):
    """Options of one step; keys that belong to others are ignored, numbers may be given as strings.

    A key whose value is None counts as absent.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        validate_default=False,
    )

    OTHERS_KEY: ClassVar[str] = ""
    """The option that names other tasks; empty for steps without one."""

    @field_validator("*", mode="before")
    @classmethod
    def _flag_or_number(cls, value: Any, info: ValidationInfo) -> Any:
        is_flag = cls.model_fields[str(info.field_name)].annotation in {bool, bool | None}
        if is_flag and isinstance(value, float) and value not in {0.0, 1.0}:
            msg = "must be true or false"  # a number near 0 would count as false
            raise ValueError(msg)
        if not is_flag and isinstance(value, bool):
            msg = "must not be true or false"
            raise ValueError(msg)
        return value

    @classmethod
    def of(cls, config: dict[str, Any]) -> "StepParams":
        """Read the options from a task's config.

        Raises
        ------
        pydantic.ValidationError
            When a known key has a bad value.
        """
        return cls.model_validate({key: value for key, value in config.items() if value is not None})

    @property
    def other_tasks(self) -> tuple[int, ...]:
        """Ids of other tasks whose results the step reads; who starts the run must be allowed to see them."""
        return ()


def _blank_to_none(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _band(value: str) -> str:
    code = band_of(value)
    if code is None:
        msg = f"unknown filter; allowed: {', '.join(FILTERS)} and their aliases (see /api/reference/filters/)"
        raise ValueError(msg)
    return code


def _catalog(value: str) -> str:
    if value not in CATALOGS:
        msg = f"unknown catalogue; allowed: {', '.join(CATALOGS)}"
        raise ValueError(msg)
    return value


Extension = Annotated[int, Field(ge=0, le=999)]
"""Number of a part of a FITS file, from 0."""

Text = Annotated[str, StringConstraints(max_length=4096), BeforeValidator(_blank_to_none)]
BandCode = Annotated[
    str,
    StringConstraints(max_length=64),
    AfterValidator(_band),
    WithJsonSchema(
        {"type": "string", "enum": [name for code, band in FILTERS.items() for name in (code, *band.aliases)]}
    ),
]
CatalogCode = Annotated[
    str,
    StringConstraints(max_length=64),
    AfterValidator(_catalog),
    WithJsonSchema({"type": "string", "enum": list(CATALOGS)}),
]
Positive = Annotated[float, Field(gt=0, le=1e9)]
Magnitude = Annotated[float, Field(ge=-50, le=50)]
