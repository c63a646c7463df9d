"""Which survey's picture is shown for a band."""

import pytest

from shared.contracts.bands import FILTERS
from shared.science.surveys import survey_for


@pytest.mark.parametrize(
    ("band", "dec_deg", "survey"),
    [
        ("R", 10.0, "CDS/P/PanSTARRS/DR1/r"),
        ("B", 10.0, "CDS/P/PanSTARRS/DR1/g"),
        ("y", -29.0, "CDS/P/PanSTARRS/DR1/y"),
        ("V", -40.0, "CDS/P/Skymapper/DR4/g"),
        ("z", -40.0, "CDS/P/skymapper-Z"),
        ("u", -40.0, "CDS/P/skymapper-U"),
        ("Ks", 0.0, "CDS/P/2MASS/K"),
    ],
)
def test_survey_of_a_band(band, dec_deg, survey):
    assert survey_for(band, dec_deg) == survey


def test_every_band_has_a_survey_everywhere():
    assert all(survey_for(band, dec_deg).startswith("CDS/P/") for band in FILTERS for dec_deg in (-60.0, 60.0))
