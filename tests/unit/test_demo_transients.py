"""What the demonstration of transients says of a search."""

import numpy as np
import pytest
from astropy.table import Table
from matplotlib.image import imread

from stdweb.demo_score import draw, score, some, summary

ARCSEC = 1 / 3600


@pytest.fixture
def new() -> Table:
    return Table(
        {
            "ra": [10.0, 10.01, 10.02, 10.03],
            "dec": [40.0, 40.0, 40.0, 40.0],
            "m_nat": [16.5, 18.5, 19.5, 20.5],
            "host": [-1, 7, -1, 9],
        }
    )


@pytest.fixture
def candidates() -> Table:
    return Table(
        {
            "ra": [10.01, 10.5, 10.0, 10.02],
            "dec": [40.0 + 0.5 * ARCSEC, 40.0, 40.0, 40.0 + 5 * ARCSEC],
            "mag_calib": [18.6, 15.0, 16.45, 19.5],
            "mag_calib_err": [0.05, 0.001, 0.004, 0.1],
        }
    )


def test_found_missed_and_false(new: Table, candidates: Table) -> None:
    one = score(new, candidates)
    assert one.found.tolist() == [True, True, False, False]
    assert one.row.tolist() == [2, 0, -1, -1]
    assert one.mag[:2].tolist() == [16.45, 18.6]
    assert one.false == 2
    assert some(new, one, 2) == [0, 1]
    assert some(new, one, 6) == [0, 1]
    none = score(new, candidates[:0])
    assert (none.found.sum(), none.false) == (0, 0)


def test_a_row_per_magnitude_and_place(new: Table, candidates: Table) -> None:
    lines = summary(new, [score(new, candidates), score(new, candidates[:0])])
    assert len(lines) == 8
    assert lines[0] == ["16 – 18 in the field", "1", "1", "-0.050", "0", ""]
    assert lines[5] == ["18 – 19 on a galaxy", "1", "1", "+0.100", "0", ""]
    assert sum(int(line[1]) for line in lines) == 4


def test_the_picture_shows_what_is_there(tmp_path) -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(100, 5, (80, 90))
    template = rng.normal(0, 1, (80, 90))
    image[30, 50] += 1000
    draw(tmp_path / "one.png", {"image": image, "template": template}, [(50.2, 29.8)], ["a star"])
    seen = imread(tmp_path / "one.png")[..., 0]
    half = seen.shape[0] // 2
    darkest = [part[45:-40, 40:-20].min() for part in (seen[:half], seen[half:])]
    assert darkest[0] < 0.1
    assert darkest[1] > 0.3
