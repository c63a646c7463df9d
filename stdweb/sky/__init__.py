"""Simulated observations with known truth, and the catalogues of their sky, for the demo, tests and quality."""

from .mirror import write_mirror
from .observe import Observation, simulate
from .stars import make_sky
from .template import simulate_template
from .wide import simulate_wide

__all__ = ["Observation", "make_sky", "simulate", "simulate_template", "simulate_wide", "write_mirror"]
