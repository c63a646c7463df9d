"""`simple_transients` with CDS XMatch and SkyBoT: protocol, cache, and every way in which they fail."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

from shared.errors import TransientError
from shared.metrics import REGISTRY
from shared.science import archives as guard
from shared.science.catalogs.mirror import read_mirror
from shared.science.crossmatch import GAIA, PS1, known_sources
from shared.worker.step import Resources
from stdweb.sky import Observation
from tests.support.archives import ArchiveServer, Behaviour
from tests.support.transients import Search

pytest_plugins = ["tests.support.archives.fixtures"]

FAULTS = [Behaviour.BROKEN, Behaviour.TRUNCATED, Behaviour.CUT, Behaviour.GARBAGE, Behaviour.DOWN]


def cache_hits() -> float:
    """Count the questions that XMatch was spared."""
    return REGISTRY.get_sample_value("stdweb_archive_cache_hits_total", {"archive": "xmatch"}) or 0.0


def say_nothing(*_: object) -> None:
    """Take a line of a log."""


@pytest.fixture
def online(search: Search, sky: Observation, archives: ArchiveServer, tmp_path) -> Iterator[Search]:
    """A task of a site without mirrors; the archives know the same sky."""
    ra, dec, _ = (search.config[name] for name in ("field_ra", "field_dec", "field_sr"))
    local = Resources(cache_dir=tmp_path, mirror_dir=sky.mirror_dir)
    before = archives.tables, archives.bodies
    tables = {
        survey.table: read_mirror(survey.code, ra, dec, 0.2, limit_mag=None, resources=local, log=say_nothing).stars
        for survey in (GAIA, PS1)
    }
    archives.tables, archives.bodies = tables, []
    yield replace(search, mirror_dir=None, cache_dir=tmp_path / "cache")
    archives.tables, archives.bodies = before


def test_xmatch_tells_the_same_as_the_mirror_and_is_asked_once(
    online: Search, search: Search, archives: ArchiveServer
) -> None:
    candidates = online.run()
    assert set(candidates["name"]) == set(search.run()["name"])
    asked = [request.body for request in archives.asked if request.archive == "xmatch"]
    assert len(asked) == 2
    assert ["vizier:I/350/gaiaedr3" in asked[0], "vizier:II/349/ps1" in asked[1]] == [True, True]
    spared = cache_hits()
    online.run(simple_mag_diff=0)
    assert archives.count("xmatch") == 2  # the cells are known
    assert cache_hits() == spared + 2
    online.run(simple_prefilter=False, simple_blends=False)
    new = [request.body for request in archives.asked if request.archive == "xmatch"][2:]
    assert all(len(body) < len(asked[0]) / 2 for body in new)  # at most the cells of the objects that came along


def test_all_sources_around_every_position_are_found(online: Search, archives: ArchiveServer) -> None:
    rng = np.random.default_rng(4)
    ra0, dec0 = online.config["field_ra"], online.config["field_dec"]
    ra, dec = ra0 + rng.uniform(-0.05, 0.05, 200), dec0 + rng.uniform(-0.04, 0.04, 200)
    resources = Resources(cache_dir=online.cache_dir)
    reach_deg = 8 / 3600
    found = known_sources(PS1, ra, dec, reach_deg, resources=resources, log=say_nothing)
    truth = archives.tables[PS1.table]
    places = SkyCoord(ra, dec, unit="deg")
    expected, *_ = SkyCoord(truth["RAJ2000"], truth["DEJ2000"], unit="deg").search_around_sky(
        places, reach_deg * places.ra.unit
    )
    seen, distance, _ = places.match_to_catalog_sky(SkyCoord(found["RAJ2000"], found["DEJ2000"], unit="deg"))
    near = distance.deg < reach_deg
    assert near.sum() == len(set(expected))
    assert len(np.unique(np.c_[found["RAJ2000"], found["DEJ2000"]], axis=0)) == len(found)
    assert np.isfinite(found["rmag"][seen[near]]).mean() > 0.8


@pytest.mark.parametrize("fault", [Behaviour.BROKEN, Behaviour.CUT])
def test_a_fault_that_passes_is_not_noticed(online: Search, archives: ArchiveServer, fault: Behaviour) -> None:
    archives.behave("xmatch", fault, Behaviour.OK)
    assert online.found(online.run()).mean() >= 0.9
    assert archives.count("xmatch") == 3
    assert "asking again" in online.log


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_lasts_is_passing_and_leaves_nothing(
    online: Search, archives: ArchiveServer, fault: Behaviour
) -> None:
    archives.behave("xmatch", fault)
    with pytest.raises(TransientError, match="CDS XMatch cannot be reached at the moment") as caught:
        online.run()
    assert caught.value.code == "archive_unavailable"
    assert archives.count("xmatch") == 3
    assert not list(online.work.glob("candidates*"))
    # left alone for a while
    with pytest.raises(TransientError):
        online.run()
    assert archives.count("xmatch") == 3


def test_a_trickle_of_bytes_ends(online: Search, archives: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.science.crossmatch.XMATCH", replace(guard.XMATCH, deadline_s=1.0, attempts=1))
    archives.behave("xmatch", Behaviour.SLOW)
    with pytest.raises(TransientError, match="CDS XMatch"):
        online.run()


def test_a_table_that_xmatch_has_not_is_a_fault(online: Search, archives: ArchiveServer) -> None:
    del archives.tables[PS1.table]
    with pytest.raises(TransientError, match="CDS XMatch"):
        online.run()


def test_a_field_without_sources_is_known_to_be_empty(online: Search, archives: ArchiveServer) -> None:
    archives.tables = {name: table[:0] for name, table in archives.tables.items()}
    first = online.run()
    assert online.found(first).mean() >= 0.9
    assert archives.count("xmatch") == 2
    assert set(online.run()["name"]) == set(first["name"])
    assert archives.count("xmatch") == 2


def test_two_at_once_ask_once(online: Search, archives: ArchiveServer) -> None:
    ra, dec = np.array([online.config["field_ra"]]), np.array([online.config["field_dec"]])
    resources = Resources(cache_dir=online.cache_dir)
    counts: list[int] = []
    gate = threading.Barrier(3)

    def ask() -> None:
        gate.wait(10)
        counts.append(len(known_sources(PS1, ra, dec, 20 / 3600, resources=resources, log=say_nothing)))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(counts) == 3
    assert len(set(counts)) == 1
    assert archives.count("xmatch") == 1


def test_a_damaged_cache_is_asked_for_again(online: Search, archives: ArchiveServer) -> None:
    names = set(online.run()["name"])
    for path in (online.cache_dir / "crossmatch").rglob("*.parquet"):
        path.write_bytes(b"PAR1")
    assert set(online.run()["name"]) == names
    assert archives.count("xmatch") == 4


def body_at(candidates: Table, row: int, arcsec: float) -> tuple[str, float, float, float]:
    return f"({row}) Test", float(candidates["ra"][row]), float(candidates["dec"][row]) + arcsec / 3600, 17.0


def test_known_bodies_are_dropped_when_asked_for(search: Search, online: Search, archives: ArchiveServer) -> None:
    candidates = search.run()
    archives.bodies = [body_at(candidates, 1, 3.0), body_at(candidates, 2, 30.0), ("far", 10.0, 0.0, 15.0)]
    search.cache_dir = online.cache_dir
    assert len(search.run()) == len(candidates)
    assert archives.count("skybot") == 0
    kept = search.run(simple_skybot=True)
    assert set(candidates["name"]) - set(kept["name"]) == {candidates["name"][1]}
    (asked,) = (request for request in archives.asked if request.archive == "skybot")
    assert "-ep=2461347.39976" in asked.path  # JD of 2026-11-02T21:35:40
    search.run(simple_skybot=True)
    assert archives.count("skybot") == 1
    search.run(simple_skybot=True, time="2026-11-03T00:00:00")
    assert archives.count("skybot") == 2


def test_no_bodies_in_the_field(search: Search, online: Search, archives: ArchiveServer) -> None:
    search.cache_dir = online.cache_dir
    assert len(search.run(simple_skybot=True)) == len(search.run())
    assert "none of the 0 known bodies" not in search.log


@pytest.mark.parametrize("fault", FAULTS)
def test_skybot_that_fails_is_passing_and_named(
    search: Search, online: Search, archives: ArchiveServer, fault: Behaviour
) -> None:
    archives.behave("skybot", fault)
    search.cache_dir = online.cache_dir
    with pytest.raises(TransientError, match="SkyBoT cannot be reached"):
        search.run(simple_skybot=True)
    assert archives.count("skybot") == 3


def test_every_candidate_has_a_picture_of_its_place(search: Search, archives: ArchiveServer, tmp_path) -> None:
    search.cache_dir = tmp_path / "cache"
    candidates = search.run(cutout_size=10)
    assert archives.count("hips2fits") == len(candidates)
    from astropy.io import fits

    for path in sorted((search.work / "candidates_simple").iterdir()):
        with fits.open(path) as hdus:
            assert {hdu.name for hdu in hdus[1:]} == {"IMAGE", "MASK", "TEMPLATE"}
            picture = hdus["TEMPLATE"].data
        assert np.unravel_index(np.nanargmax(picture), picture.shape) == (
            pytest.approx(10, abs=1),
            pytest.approx(10, abs=1),
        )


@pytest.mark.parametrize("fault", [Behaviour.DOWN, Behaviour.NOTHING])
def test_pictures_are_not_worth_failing_for(
    search: Search, archives: ArchiveServer, tmp_path, fault: Behaviour
) -> None:
    search.cache_dir = tmp_path / "cache"
    archives.behave("hips2fits", fault)
    assert len(search.run()) > 10
    assert sum("no picture" in line for line in search.lines) == 1
