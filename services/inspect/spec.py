"""What the inspect service does: rows of the step table and the functions for them."""

from shared.contracts.steps import STEPS
from shared.worker.step import StepSpec

from .run import cleanup, inspect, warm

SPECS = (StepSpec(STEPS["cleanup"], cleanup, warm), StepSpec(STEPS["inspect"], inspect, warm))
