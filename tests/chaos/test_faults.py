"""A seed gives its faults: every kind before any comes again, the rest by their shares."""

import random
from collections import Counter

import pytest

from tests.chaos.faults import KINDS, draw, stops_all


def test_the_same_seed_gives_the_same_faults() -> None:
    assert draw(random.Random("a"), 60) == draw(random.Random("a"), 60)
    assert draw(random.Random("a"), 60) != draw(random.Random("b"), 60)


def test_every_kind_comes_before_any_comes_again() -> None:
    assert {fault.kind for fault in draw(random.Random(1), len(KINDS))} == set(KINDS)


def test_then_shares_count() -> None:
    shares = sum(kind.share for kind in KINDS.values())
    seen = Counter(fault.kind for fault in draw(random.Random(1), len(KINDS) + shares))
    assert seen == {name: 1 + kind.share for name, kind in KINDS.items()}


@pytest.mark.parametrize("kind", ["kill broker", "freeze store", "disk full", "broker's disk alarm"])
def test_what_stops_all_is_known(kind: str) -> None:
    assert stops_all(draw(random.Random(1), 1, [kind])[0])


def test_links_stop_all_only_when_they_are_all_links() -> None:
    links = draw(random.Random(1), 200, ["refuse"])
    assert {fault.victim.startswith("all >") for fault in links} == {True, False}
    assert all(stops_all(fault) == fault.victim.startswith("all >") for fault in links)
