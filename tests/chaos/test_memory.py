"""The judge of memory finds what grows, and what dies, and nothing else."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.chaos.memory import Sampler, Series, judge

MIB = 2**20


def series(sizes_mib: list[float], pids: list[tuple[int, ...]] | None = None) -> Series:
    return Series([round(size * MIB) for size in sizes_mib], pids or [(1,)] * len(sizes_mib))


def flat(count: int = 100) -> list[float]:
    dice = random.Random(1)
    return [80 + dice.uniform(-1.5, 1.5) for _ in range(count)]


def verdict(one: Series, name: str = "gateway-1") -> str:
    return judge({name: one}, ["gateway-1"])[0].bad


def test_what_stays_is_flat() -> None:
    assert verdict(series(flat())) == ""
    assert verdict(series([90 - place / 10 for place in range(100)])) == ""


def test_a_warm_up_does_not_count() -> None:
    assert verdict(series([*(20 + 2.5 * place for place in range(25)), *flat(75)])) == ""


@pytest.mark.parametrize("growth", [0.08, 0.3])
def test_what_grows_is_found(growth: float) -> None:
    grown = [size * (1 + growth * place / 75) for place, size in zip(range(-25, 75), flat(), strict=True)]
    found = judge({"gateway-1": series(grown)})[0]
    assert found.bad == "GREW"
    assert found.growth == pytest.approx(0.75 * growth, abs=0.03)  # between the middles of both ends
    assert "GREW" in found.row()


def test_steps_upwards_are_found_but_not_a_single_peak() -> None:
    sizes = flat()
    sizes[60] = 300
    assert verdict(series(sizes)) == ""
    assert verdict(series([*flat(70), *(size + 8 for size in flat(30))])) == "GREW"


def test_broker_and_store_are_told_only() -> None:
    assert verdict(series([10 + place for place in range(100)]), "broker") == "not judged"


def test_who_was_replaced_is_found_where_nobody_should_be() -> None:
    pids = [(1,)] * 50 + [(2,)] * 50
    assert verdict(series(flat(), pids)) == "DIED"
    assert verdict(series(flat(), pids), "preview-1: renderer") == ""


def test_too_few_samples_are_no_proof() -> None:
    with pytest.raises(ValueError, match="too few"):
        verdict(series(flat(20)))


@pytest.fixture
def hog() -> Iterator[int]:
    code = "import sys; held = bytearray(b'x' * (64 * 2**20)); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "renderer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.terminate()


def test_processes_below_a_component_are_measured(hog: int) -> None:
    sampler = Sampler()
    sampler.sample({"me": os.getpid()})
    assert sampler.main == {"me"}
    assert sampler.series["me: renderer"].pids == [(hog,)]
    assert 64 * MIB < sampler.series["me: renderer"].sizes[0] < 128 * MIB
