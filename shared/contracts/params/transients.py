"""Options of `simple_transients`."""

import re
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BeforeValidator, Field

from .base import StepParams, Text
from .inspect import IsoTime

MAX_OTHERS: Final = 20
_SEPARATORS: Final = re.compile(r"[\s,;]+")
_TASK_ID: Final = re.compile(r"[1-9][0-9]{0,14}")


def _joined(value: Any) -> Any:
    """Take a list of ids as well: clients hold them as one."""
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return value


def _task_ids(text: str) -> str:
    names = [name for name in _SEPARATORS.split(text) if name]
    if bad := [name for name in names if not _TASK_ID.fullmatch(name)]:
        msg = f"{bad[0][:32]!r} is no id of a task; give ids separated by commas, such as 12,15"
        raise ValueError(msg)
    if len(set(names)) > MAX_OTHERS:
        msg = f"may name at most {MAX_OTHERS} tasks"
        raise ValueError(msg)
    return ",".join(dict.fromkeys(names))


TaskIds = Annotated[str, AfterValidator(_task_ids), BeforeValidator(_joined)]


class SimpleTransientsParams(StepParams):
    """Options of `simple_transients`; None means: no such condition."""

    OTHERS_KEY: ClassVar[str] = "simple_others"

    time: IsoTime | None = Field(None, description="Observation time, ISO 8601, UTC")
    cutout_size: Annotated[int, Field(ge=5, le=500)] = Field(30, description="Half-size of cutouts, pixels")

    simple_center: Text | None = Field(None, description="Centre of the cone: coordinates, x=123.4 y=567.8 or a name")
    simple_sr0: Annotated[float, Field(gt=0, le=180)] | None = Field(None, description="Radius of the cone, degrees")
    simple_mag_diff: Annotated[float, Field(ge=0, le=50)] = Field(
        2, description="A match not fainter than the object by this many magnitudes rejects it; 0: every match does"
    )
    simple_prefilter: bool = Field(True, description="Drop objects of odd shape")
    simple_blends: bool = Field(True, description="Reject blends of catalogue stars")
    simple_skybot: bool = Field(False, description="Reject known solar-system objects (SkyBoT)")
    simple_others: TaskIds | None = Field(
        None, description="Ids of tasks, separated by commas, in which the object must have been detected as well"
    )

    @property
    def other_tasks(self) -> tuple[int, ...]:
        """Ids of other tasks whose results the step reads; who starts the run must be allowed to see them."""
        return tuple(int(name) for name in (self.simple_others or "").split(",") if name)
