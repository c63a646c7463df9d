"""`subtraction` with the template of a survey, from a server that speaks as the archive does."""

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from shared.errors import TransientError, UsageError
from tests.support.archives import ArchiveServer, Behaviour
from tests.support.archives.images import Stars
from tests.support.difference import Shape, Sky
from tests.support.subtraction import Task, make_task

pytest_plugins = ["tests.support.archives.fixtures"]


@pytest.fixture
def task(archives: ArchiveServer, tmp_path: Path) -> Task:
    made = make_task(tmp_path / "field", image=Sky(Shape(4.0)), size=256, stars=80, new=9)
    (made.folder / "custom_template.fits").unlink()
    sky = made.wcs.all_pix2world(made.stars[:, :2], 0)
    archives.stars = Stars(sky[:, 0], sky[:, 1], 3.0 * made.stars[:, 2])
    return made


def test_new_stars_are_measured_against_a_survey(task: Task, archives: ArchiveServer) -> None:
    table = task.at_targets(template="ztf")
    relative = np.asarray(table["flux"]) / task.new[:, 2] - 1
    assert np.abs(relative).max() < 0.06
    assert abs(np.median(relative)) < 0.02
    assert "Template: ZTF DR7 (HiPS) in band r" in task.log
    asked = len(archives.asked)
    assert asked
    # the second run finds it in the cache, for a part of the frame as well
    x, y, _ = task.new[4]
    one = Table.read(
        task.run(template="ztf", subtraction_mode="target", target=f"x={x} y={y}", sub_size=160) / "sub_target.vot"
    )
    assert float(one["flux"][0]) == pytest.approx(task.new[4, 2], rel=0.05)
    assert len(archives.asked) == asked


def test_surveys_that_are_away_or_have_nothing_here(task: Task, archives: ArchiveServer) -> None:
    archives.behave("hips2fits", Behaviour.ABSENT)
    with pytest.raises(UsageError, match="has nothing in band r"):
        task.run(template="ztf")
    task.cache_dir = task.folder / "another"  # which does not know yet
    archives.behave("hips2fits", Behaviour.DOWN)
    with pytest.raises(TransientError, match="hips2fits cannot be reached"):
        task.run(template="ztf")
