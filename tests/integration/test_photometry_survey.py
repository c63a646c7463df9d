"""Pictures of a sky survey beside the targets of the photometry step."""

from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from stdweb.sky import Observation
from tests.support.archives import ArchiveServer, Behaviour
from tests.support.photometry import Bench
from tests.support.photometry_field import CONFIG, SIZE, truth_zero_point

pytest_plugins = ["tests.support.archives.fixtures"]

TARGETS = {**CONFIG, "target": "x=200.2 y=300.3\nx=300 y=100", "cutout_size": 20}
SURVEY = "CDS/P/PanSTARRS/DR1/r"


def planes(bench: Bench, number: int) -> dict[str, np.ndarray]:
    with fits.open(bench.work / f"targets/target_{number:04d}.cutout") as hdus:
        return {hdu.name: hdu.data for hdu in hdus[1:]}


def test_every_target_has_the_picture_of_its_place(bench: Bench, archives: ArchiveServer) -> None:
    bench.run(TARGETS)
    places = Table.read(bench.work / "target.vot")
    asked = [parse_qs(urlsplit(request.path).query) for request in archives.asked]
    assert [query["hips"] for query in asked] == [[SURVEY]] * 2
    for number, (query, place) in enumerate(zip(asked, places, strict=True)):
        assert float(query["ra"][0]) == pytest.approx(place["ra"], abs=1e-6)  # degrees
        assert float(query["dec"][0]) == pytest.approx(place["dec"], abs=1e-6)
        assert float(query["fov"][0]) == pytest.approx(41 / 3600, rel=1e-3)
        picture = planes(bench, number)["TEMPLATE"]
        # the stand-in's only source is at the position that was asked for
        assert picture.shape == (41, 41)
        assert np.unravel_index(np.nanargmax(picture), picture.shape) == (20, 20)
        centre = picture[18:23, 18:23]
        assert centre.max() == pytest.approx(2 * np.sinh(0.4 * np.log(10)), rel=0.1)  # asinh undone
    assert "no picture" not in bench.log
    # a second run finds them in the cache
    bench.run(TARGETS)
    assert archives.count("hips2fits") == 2
    assert "TEMPLATE" in planes(bench, 1)


@pytest.mark.parametrize("fault", [Behaviour.DOWN, Behaviour.GARBAGE, Behaviour.TRUNCATED])
def test_without_the_survey_the_step_ends_as_well(
    bench: Bench, archives: ArchiveServer, sky: Observation, fault: Behaviour
) -> None:
    archives.behave("hips2fits", fault)
    computed = bench.run(TARGETS)
    assert computed["zp"] == pytest.approx(truth_zero_point(sky, computed), abs=0.02)
    (warning,) = (line for line in bench.lines if line.startswith("Warning: no picture"))
    assert f"no picture of {SURVEY}, hips2fits cannot be reached at the moment" in warning
    # both of its addresses for the first target, none for the second
    assert archives.count("hips2fits") == 2
    for number in (0, 1):
        assert set(planes(bench, number)) == {"IMAGE", "MASK"}
    assert fits.getdata(bench.work / "segmentation.fits").shape == (SIZE, SIZE)


def test_where_the_survey_has_nothing_the_log_says_so(bench: Bench, archives: ArchiveServer) -> None:
    archives.behave("hips2fits", Behaviour.NOTHING)
    bench.run(TARGETS)
    assert f"Note: no picture of {SURVEY}, the survey has nothing here (2 cutouts)" in bench.lines
    assert "Warning: no picture" not in bench.log
    assert set(planes(bench, 0)) == {"IMAGE", "MASK"}
