"""The guard itself, and what else goes through it: names and survey pictures."""

import math
import multiprocessing
import time

import numpy as np
import pytest

from shared.errors import TransientError, UsageError
from shared.metrics import REGISTRY
from shared.science.archives import Archive, ask, locked
from shared.science.surveys import survey_for, survey_picture
from shared.science.targets import resolve_targets
from tests.support.archives import Behaviour

pytest_plugins = ["tests.support.archives.fixtures"]

QUICK = Archive("quick", "The quick archive", deadline_s=1.0, attempts=1)
URL = "https://cds.unistra.fr/cgi-bin/nph-sesame/SNV?m31"


def say_nothing(*_):
    pass


def get(http):
    return http.get(URL).text


def test_a_trickle_of_bytes_ends_at_the_deadline(archives, tmp_path):
    archives.behave("sesame", Behaviour.SLOW)
    started = time.monotonic()
    with pytest.raises(TransientError):
        ask(QUICK, get, tmp_path, say_nothing)
    assert 0.9 < time.monotonic() - started < 3  # s


def test_the_breaker_opens_for_all_who_share_the_cache(archives, tmp_path):
    archives.behave("sesame", Behaviour.BROKEN)
    for _ in range(3):
        with pytest.raises(TransientError):
            ask(QUICK, get, tmp_path, say_nothing)
    assert archives.count("sesame") == 3
    until = REGISTRY.get_sample_value("stdweb_archive_paused_until_seconds", {"archive": "quick"})
    assert until == pytest.approx(time.time() + 20, abs=5)  # s
    archives.behave("sesame", Behaviour.OK)
    lines = []
    with pytest.raises(TransientError) as caught:
        ask(QUICK, get, tmp_path, lines.append)
    assert caught.value.code == "archive_unavailable"
    assert archives.count("sesame") == 3
    assert "left alone" in lines[0]
    assert "%J" in ask(QUICK, get, tmp_path / "other", say_nothing)
    assert REGISTRY.get_sample_value("stdweb_archive_paused_until_seconds", {"archive": "quick"}) == 0


def test_one_success_forgets_the_failures(archives, tmp_path):
    for _ in range(2):
        archives.behave("sesame", Behaviour.BROKEN)
        for _ in range(2):
            with pytest.raises(TransientError):
                ask(QUICK, get, tmp_path, say_nothing)
        archives.behave("sesame", Behaviour.OK)
        assert "%J" in ask(QUICK, get, tmp_path, say_nothing)
    assert archives.count("sesame") == 6


def test_certificates_of_others_are_refused(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(TransientError) as caught:
        ask(QUICK, get, tmp_path, say_nothing)
    assert "certificate" in caught.value.details["reason"].lower()


def _hold(path, held, leave):
    with locked(path, 5.0):
        held.set()
        leave.wait(30)


def test_a_lock_is_waited_for_and_freed_by_death(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held, leave))
    holder.start()
    try:
        assert held.wait(30)
        with pytest.raises(TransientError), locked(tmp_path / "lock", 0.2):
            pass
    finally:
        holder.kill()
        holder.join()
    with locked(tmp_path / "lock", 5.0):
        pass


def test_names_are_looked_up_once(archives, resources):
    for spelling in ("M31", "m31"):
        (target,) = resolve_targets(spelling, None, resources, say_nothing)
        assert (target.name, target.ra_deg, target.dec_deg) == (spelling, 10.684708, 41.26875)
        assert target.x is None
    assert archives.count("sesame") == 1


def test_transients_are_asked_of_tns(archives, resources):
    (target,) = resolve_targets("AT2026abc", None, resources, say_nothing)
    assert (target.ra_deg, target.dec_deg) == (150.1, 20.1)


def test_an_unknown_name_tells_its_line(archives, resources):
    with pytest.raises(UsageError, match=r"Line 2 .*Nowhere"):
        resolve_targets("10.5 20.5\nNowhere 1\nM31", None, resources, say_nothing)


def test_a_resolver_that_is_away_is_transient(archives, resources):
    archives.behave("sesame", Behaviour.DOWN)
    started = time.monotonic()
    with pytest.raises(TransientError) as caught:
        resolve_targets("M31", None, resources, say_nothing)
    assert caught.value.code == "archive_unavailable"
    assert time.monotonic() - started < 15  # s


def test_a_broken_answer_is_no_unknown_name(archives, resources):
    archives.behave("sesame", Behaviour.GARBAGE)
    with pytest.raises(TransientError):
        resolve_targets("M31", None, resources, say_nothing)


def picture_of(band, size, resources):
    survey = survey_for(band, 20.0)
    return survey_picture(
        150.0, 20.0, size=size, pixel_scale_arcsec=1.0, survey=survey, resources=resources, log=say_nothing
    )


def test_survey_picture_around_a_position(archives, resources):
    def cut():
        return picture_of("g", 61, resources)

    picture, header = cut()
    assert picture.shape == (61, 61)
    assert np.unravel_index(picture.argmax(), picture.shape) == (30, 30)
    assert header["CRVAL1"] == 150.0
    cut()
    assert archives.count("hips2fits") == 1


def test_asinh_pictures_are_made_linear(archives, resources):
    cuts = {band: picture_of(band, 31, resources)[0] for band in "gr"}
    expected = 2 * np.sinh(cuts["g"] * 0.4 * math.log(10))
    np.testing.assert_allclose(cuts["r"], expected, rtol=1e-6)


@pytest.mark.parametrize("fault", [Behaviour.DOWN, Behaviour.GARBAGE, Behaviour.CUT])
def test_a_picture_that_cannot_be_had_is_transient(archives, resources, fault):
    archives.behave("hips2fits", fault)
    with pytest.raises(TransientError, match="hips2fits cannot be reached"):
        picture_of("r", 61, resources)
