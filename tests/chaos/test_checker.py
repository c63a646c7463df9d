"""The judge of the campaign catches whatever is planted, and finds nothing where nothing is wrong."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.evidence import Evidence
from tests.chaos.planted import PLANTED, line_of
from tests.chaos.sane import sane


@pytest.fixture
def world(tmp_path: Path) -> Evidence:
    return sane(tmp_path / "volume")


def test_a_sane_world_has_no_violation(world: Evidence) -> None:
    verdict = check(world)
    assert verdict.violations == []
    assert (verdict.counts["tasks"], verdict.counts["runs done"], verdict.counts["commits"]) == (4, 1, 6)


def test_what_had_no_answer_may_have_been_done_or_not(world: Evidence) -> None:
    world.ledger += [{"what": "perhaps", "op": op, "task": 4} for op in ("crop", "destripe")]
    assert check(world).violations == []
    line_of(world, "accepted", "crop")["what"] = line_of(world, "accepted", "destripe")["what"] = "refused"
    assert check(world).violations == []


def test_a_try_without_an_answer_may_come_late(world: Evidence) -> None:
    world.tasks[0] |= {"title": "mine", "asked": '{"gain": 3.0}'}
    (world.volume / "tasks" / "1" / ".inputs" / "notes.txt").write_bytes(b"mine")
    late = [
        {"op": "title", "title": "mine"},
        {"op": "config", "config": {"gain": 3.0}},
        {"op": "upload", "name": "notes.txt", "sha256": hashlib.sha256(b"mine").hexdigest()},
    ]
    for asked, other in zip(late, ({"title": "x"}, {"config": {"gain": 4.0}}, {"sha256": "x"}), strict=True):
        world.ledger += [{"task": 1, **asked, "what": what} for what in ("perhaps", "accepted")]
        world.ledger.append({"task": 1, **asked, **other, "what": "accepted"})
    assert check(world).violations == []
    world.ledger = [line for line in world.ledger if line["what"] != "perhaps"]
    rules = {violation.rule for violation in check(world).violations}
    assert rules == {"title overwritten", "config overwritten", "upload lost"}


@pytest.mark.parametrize(("rule", "plant"), [(rule, plant) for rule, plants in PLANTED.items() for plant in plants])
def test_what_is_planted_is_found(world: Evidence, rule: str, plant: Callable[[Evidence], None]) -> None:
    plant(world)
    assert rule in {violation.rule for violation in check(world).violations}


def test_every_rule_has_a_test() -> None:
    sources = [
        Path(__file__).parent / name for name in ("checker.py", "files.py", "images.py", "leftovers.py", "told.py")
    ]
    text = "".join(source.read_text() for source in sources)
    rules = set(re.findall(r'(?:Violation\(|yield \(?)\s*"([a-z\' ]+)",', text))
    assert rules == set(PLANTED)
