"""Every option of every step: default, unit, bound. The gateway validates with these models, services run with them."""

from .base import MAX_CONFIG_BYTES, MAX_KEY_LENGTH, StepParams
from .cleanup import CleanupParams
from .inspect import InspectParams
from .photometry import PhotometryParams
from .stack import StackParams
from .subtraction import SubtractionParams
from .transients import SimpleTransientsParams

__all__ = [
    "MAX_CONFIG_BYTES",
    "MAX_KEY_LENGTH",
    "CleanupParams",
    "InspectParams",
    "PhotometryParams",
    "SimpleTransientsParams",
    "StackParams",
    "StepParams",
    "SubtractionParams",
]
