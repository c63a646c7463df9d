"""What the demonstration sets beside the measurements."""

import math

import numpy as np
import pytest
from astropy.table import Table

from stdweb.demo import limit_mag, position_errors_arcsec
from stdweb.sky.observe import GAIN, READ_NOISE_E, SKY_ADU


@pytest.mark.parametrize("sn", [3.0, 5.0, 10.0])
def test_a_star_at_the_limit_has_the_signal_to_noise_ratio_in_simulated_apertures(sn: float) -> None:
    radius_pix = 3.8
    flux_adu = 10 ** (-0.4 * (limit_mag(27.5, radius_pix, sn) - 27.5))
    pixels = math.pi * radius_pix**2
    rng = np.random.default_rng(3)
    electrons = rng.poisson((flux_adu + SKY_ADU * pixels) * GAIN, 200_000)
    electrons = electrons + rng.normal(0, READ_NOISE_E * math.sqrt(pixels), electrons.size)
    assert flux_adu * GAIN / electrons.std() == pytest.approx(sn, rel=0.01)


def test_position_errors_are_of_bright_stars_inside() -> None:
    truth = Table({"ra": [10.0, 10.1, 10.2], "dec": [0.0, 0.0, 0.0], "re": [0.0, 0.0, 0.0]})
    objects = Table(
        {
            "x": [500.0, 500.0, 20.0],
            "y": [500.0, 500.0, 500.0],
            "ra": [10.0 + 0.05 / 3600, 10.1, 10.2],
            "dec": [0.0, 0.3 / 3600, 0.0],
            "magerr": [0.01, 0.3, 0.01],
            "flags": [0, 0, 0],
        }
    )
    np.testing.assert_allclose(position_errors_arcsec(objects, truth, 1000), [0.05], atol=1e-6)
