"""The guided fuzzer's own parts, and what it has found ways with: replayed without it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import DataError, InternalError
from shared.science.fits_layout import BLOCK_BYTES
from tests.support.fuzz_inputs import FuzzInput, dictionary, file_of, seed_inputs
from tests.support.fuzz_targets import try_input
from tests.support.fuzzing_guided import COMPILED, TARGETS, inputs_of

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/data/fuzz"


def test_what_reached_something_new_once_is_still_read_or_refused() -> None:
    """In a process with little memory and an alarm, as the fuzzer's own."""
    code = """if True:
        from tests.support.fuzzing_guided import *
        for name in TARGETS:
            replay(name, [Path(sys.argv[1], name + '.txt')])
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(KEPT)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(outcomes) == len(TARGETS)
    for name, outcome in zip(TARGETS, outcomes, strict=True):
        assert sum(outcome.values()) == len(inputs_of(KEPT / f"{name}.txt")) > 20
        assert min(outcome["read"], outcome["refused"]) > 0


def test_lines_become_cards_and_pixels_fill_blocks() -> None:
    made = file_of(b"\4\5\6SIMPLE  = T\nEND\n=\nab\n=\nXTENSION=\n" + b"x" * 90)
    assert (made.ext, made.numbers, len(made.content)) == (1, (5, 6), 3 * BLOCK_BYTES)
    assert made.content.startswith(b"SIMPLE  = T".ljust(80) + b"END".ljust(80))
    assert made.content[BLOCK_BYTES : 2 * BLOCK_BYTES] == b"ab" * (BLOCK_BYTES // 2)
    assert made.content[2 * BLOCK_BYTES + 80 :] == (b"x" * 80).ljust(BLOCK_BYTES - 80)
    assert file_of(b"\1\0\0anything") == FuzzInput(b"anything", None, (0, 0))
    assert file_of(b"\2").content.startswith(b"\x1f\x8b")


def test_a_fuzzer_begins_with_good_files_and_bad_ones() -> None:
    assert seed_inputs(1, 20) == seed_inputs(1, 20)
    assert len(set(seed_inputs(1, 50))) > 35
    assert all(re.fullmatch(r'"(\\x[0-9a-f]{2})+"', line) for line in dictionary().splitlines())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, True), (DataError("bad_fits", "Bad."), False), (MemoryError(), False), (InternalError("x", "Ours."), None)]
    + [(kind(), None) for kind in (ValueError, KeyError, AssertionError, RecursionError)],
)
def test_what_counts_as_a_finding(error: BaseException | None, outcome: bool | None) -> None:
    def target(_: FuzzInput) -> None:
        if error is not None:
            raise error

    if outcome is not None:
        assert try_input(target, b"") == outcome
        return
    with pytest.raises(type(error)):  # type: ignore[arg-type]
        try_input(target, b"")


def test_nothing_that_numba_compiles_is_changed_by_the_fuzzer() -> None:
    compiled = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("shared", "services")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*(import|from) numba\b", path.read_text(), re.MULTILINE)
    }
    assert len(compiled) > 3
    assert [name for name in compiled if not name.startswith(tuple(COMPILED))] == []
