"""Every archive in every way in which it fails: a passing failure that names it, soon, of which nothing is kept."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from shared.errors import TransientError
from shared.science import archives as guard
from shared.science.catalogs import fetch_catalog
from shared.science.crossmatch import PS1, known_sources
from shared.science.skybot import known_bodies
from shared.science.surveys import survey_picture
from shared.science.targets import resolve_targets
from shared.science.templates import get_template
from shared.worker.step import Resources
from tests.support.archives import ArchiveServer, Behaviour
from tests.support.archives.images import Stars
from tests.support.reprojection import tan

pytest_plugins = ["tests.support.archives.fixtures"]

RA_DEG, DEC_DEG = 150.0, 20.0
DEADLINE_S = 0.5
TEMPLATE_SHAPE = (60, 60)
FAULTS = (
    Behaviour.SLOW,
    Behaviour.BROKEN,
    Behaviour.TRUNCATED,
    Behaviour.CUT,
    Behaviour.GARBAGE,
    Behaviour.DOWN,
)


def say_nothing(*_: object) -> None:
    """Take a line of a log."""


@dataclass(frozen=True)
class Question:
    """What is asked of an archive.

    Parameters
    ----------
    archive
        Its name at the server.
    constant
        Where the code keeps how patient it is.
    title
        Its name for users.
    ask
        The question.
    answered
        Whether the answer is right.
    """

    archive: str
    constant: str
    title: str
    ask: Callable[[Resources], Any]
    answered: Callable[[Any], bool]


def catalog(resources: Resources) -> Any:
    return fetch_catalog("ps1", RA_DEG, DEC_DEG, 0.05, band="r", limit_mag=20, resources=resources, log=say_nothing)


def sources(resources: Resources) -> Any:
    ra, dec = RA_DEG + np.linspace(-0.5, 0.5, 40), np.full(40, DEC_DEG)
    return known_sources(PS1, ra, dec, 50 / 3600, resources=resources, log=say_nothing)


def bodies(resources: Resources) -> Any:
    return known_bodies(RA_DEG, DEC_DEG, 0.1, "2026-11-02T21:35:40", resources=resources, log=say_nothing)


def position(name: str) -> Callable[[Resources], Any]:
    return lambda resources: resolve_targets(name, None, resources, say_nothing)[0].ra_deg


def picture(resources: Resources) -> Any:
    place = {"size": 21, "pixel_scale_arcsec": 1.0, "survey": "CDS/P/PanSTARRS/DR1/g"}
    return survey_picture(RA_DEG, DEC_DEG, **place, resources=resources, log=say_nothing)


def template(source: str, band: str) -> Callable[[Resources], Any]:
    wcs = tan(1.2, TEMPLATE_SHAPE, rotation_deg=0.0, ra_deg=RA_DEG, dec_deg=DEC_DEG)
    return lambda resources: get_template(
        source, band, wcs.deepcopy(), TEMPLATE_SHAPE, resources=resources, log=say_nothing
    )


def covered(found: Any) -> bool:
    return found.coverage > 0.9


QUESTIONS = (
    Question("vizier", "shared.science.catalogs.cells.VIZIER", "VizieR", catalog, lambda stars: len(stars) > 0),
    Question("xmatch", "shared.science.crossmatch.XMATCH", "CDS XMatch", sources, lambda stars: len(stars) > 0),
    Question("skybot", "shared.science.skybot.SKYBOT", "SkyBoT", bodies, lambda found: found[0].name == "Test"),
    Question("sesame", "shared.science.targets.SESAME", "Sesame", position("M31"), lambda ra: ra == 10.684708),
    Question(
        "tns",
        "shared.science.targets.TNS",
        "the transient name resolver",
        position("AT2026abc"),
        lambda ra: ra == 150.1,
    ),
    Question("hips2fits", "shared.science.surveys.HIPS", "hips2fits", picture, lambda found: found[0].max() > 0),
    Question(
        "hips2fits", "shared.science.templates.surveys.HIPS_TEMPLATES", "hips2fits", template("ztf", "g"), covered
    ),
    Question("ps1", "shared.science.templates.surveys.PS1", "the Pan-STARRS archive", template("ps1", "r"), covered),
    Question(
        "legacysurvey",
        "shared.science.templates.surveys.LEGACY",
        "the Legacy Survey archive",
        template("ls", "r"),
        covered,
    ),
)


@pytest.fixture
def archive_of(
    request: pytest.FixtureRequest, archives: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> tuple[Question, ArchiveServer]:
    """Give an archive, and what it has."""
    question: Question = request.param
    flux = np.array([2e4])
    archives.stars = Stars(np.array([RA_DEG]), np.array([DEC_DEG]), flux) if covered is question.answered else None
    monkeypatch.setattr(archives, "bodies", [("Test", RA_DEG, DEC_DEG, 17.0)])
    return question, archives


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize(
    "archive_of", QUESTIONS, indirect=True, ids=[question.constant.rpartition(".")[2] for question in QUESTIONS]
)
def test_a_fault_is_a_passing_failure_that_names_the_archive(
    archive_of: tuple[Question, ArchiveServer], resources: Resources, fault: Behaviour
) -> None:
    question, server = archive_of
    server.behave(question.archive, fault)
    began = time.monotonic()
    with impatient(question), pytest.raises(TransientError) as caught:
        question.ask(resources)
    assert time.monotonic() - began < 20  # s, on a busy machine
    assert caught.value.code == "archive_unavailable"
    assert caught.value.user_message.startswith(f"{question.title} cannot be reached at the moment")
    asked = server.count(question.archive)
    assert asked >= 1
    # nothing of it is kept
    assert not [path for path in resources.cache_dir.rglob("*.fits") if not path.name.startswith(".")]
    if question.answered is covered:  # to ask for images again takes time; other tests do
        return
    server.behave(question.archive, Behaviour.OK)
    shutil.rmtree(resources.cache_dir / "archives")  # what the breaker has counted
    assert question.answered(question.ask(resources))
    assert server.count(question.archive) > asked


@contextmanager
def impatient(question: Question) -> Iterator[None]:
    """Let an archive be asked once, for half a second."""
    module, _, name = question.constant.rpartition(".")
    patient = getattr(import_module(module), name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(question.constant, replace(patient, deadline_s=DEADLINE_S, attempts=1))
        yield


def test_the_table_is_whole() -> None:
    """A new archive has to be added above."""
    known = {value for value in vars(guard).values() if isinstance(value, guard.Archive)}
    assert {question.title for question in QUESTIONS} == {archive.title for archive in known}
