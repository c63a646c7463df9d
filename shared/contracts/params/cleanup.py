"""Options of `cleanup`: it has none."""

from .base import StepParams


class CleanupParams(StepParams):
    """No options: the outputs of every step are removed, what was asked for stays."""
