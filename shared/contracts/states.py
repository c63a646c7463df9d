"""Names of the states of a task and of a step, as clients see them and as the store keeps them."""

from enum import StrEnum
from typing import Final

INITIAL: Final = "initial"
UPLOADED: Final = "uploaded"
RUNNING: Final = "running"
CANCELLED: Final = "cancelled"


def done(stem: str) -> str:
    """Name the state of a task whose last step ended well; `stem` is `Step.state`."""
    return f"{stem}_done"


def failed(stem: str) -> str:
    """Name the state of a task of which a step failed; `stem` is `Step.state`."""
    return f"{stem}_failed"


class StepStatus(StrEnum):
    """Where one step of a run is."""

    SCHEDULED = "scheduled"  # waits for the step before it
    WAITING = "waiting"  # its turn has come; held back in the store by fair share
    READY = "ready"  # released: in its queue, or about to be
    STARTED = "started"  # a service works on it
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the step."""
        return self in {StepStatus.DONE, StepStatus.FAILED, StepStatus.CANCELLED}
