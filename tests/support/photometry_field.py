"""The small simulated field of the tests of photometry."""

from stdweb.sky import Observation
from stdweb.sky.observe import GAIN

SIZE = 512
CONFIG = {"filter": "r", "cat_name": "ps1", "cat_limit": 20.5, "gain": GAIN}


def truth_zero_point(sky: Observation, computed: dict[str, float], rel_aper: float = 1.0) -> float:
    return sky.aperture_zero_point_mag(rel_aper * computed["fwhm"])
