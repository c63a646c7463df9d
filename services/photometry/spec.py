"""What the photometry service does: a row of the step table and the function for it."""

from shared.contracts.steps import STEPS
from shared.worker.step import StepSpec

from .run import run, warm

SPECS = (StepSpec(STEPS["photometry"], run, warm),)
