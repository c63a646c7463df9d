"""The report judges times of recovery by the longest, and what was not seen is not kept."""

from typing import Any

import pytest

from tests.chaos.report import FIGURES, figures


def parts(**times: float | None) -> list[dict[str, Any]]:
    good: dict[str, float | None] = {"recovered_s": 12.0, "taken_s": 24.0, "lost_s": 0.1} | times
    faults = [{"kind": kind, figure.key: good[figure.key]} for figure in FIGURES for kind in figure.kinds]
    return [{"faults": [*faults, {"kind": "kill worker"}]}]  # one worker had nothing to do


def test_what_is_below_is_kept() -> None:
    lines, missed = figures(parts())
    assert missed == 0
    assert sum("kept" in line for line in lines) == len(FIGURES)


@pytest.mark.parametrize("time", [{"recovered_s": 15.1}, {"taken_s": 31.0}, {"lost_s": 0.6}, {"recovered_s": None}])
def test_what_is_longer_or_never_came_is_missed(time: dict[str, float | None]) -> None:
    assert figures(parts(**time))[1] == 1


def test_what_was_never_seen_is_missed() -> None:
    assert figures([{"faults": []}])[1] == len(FIGURES)
