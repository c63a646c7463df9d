"""What the demonstration sets beside the measurements."""

import math

import numpy as np
import pytest

from stdweb.demo import limit_mag, wcs_error_mas
from stdweb.sky.observe import GAIN, READ_NOISE_E, SKY_ADU, true_wcs


@pytest.mark.parametrize("sn", [3.0, 5.0, 10.0])
def test_a_star_at_the_limit_has_the_signal_to_noise_ratio_in_simulated_apertures(sn: float) -> None:
    radius_pix = 3.8
    flux_adu = 10 ** (-0.4 * (limit_mag(27.5, radius_pix, sn) - 27.5))
    pixels = math.pi * radius_pix**2
    rng = np.random.default_rng(3)
    electrons = rng.poisson((flux_adu + SKY_ADU * pixels) * GAIN, 200_000)
    electrons = electrons + rng.normal(0, READ_NOISE_E * math.sqrt(pixels), electrons.size)
    assert flux_adu * GAIN / electrons.std() == pytest.approx(sn, rel=0.01)


def test_a_shifted_wcs_is_off_by_the_shift() -> None:
    true = true_wcs(1000, 1.0, 210.0, 40.0)
    shifted = true.deepcopy()
    shifted.wcs.crpix += [0.03, 0.04]
    shifted.sip = true.sip
    assert wcs_error_mas(true, true, 1000) == 0
    assert wcs_error_mas(shifted, true, 1000) == pytest.approx(50, rel=0.05)
