"""Parts of the worker that need neither broker nor processes of their own."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shared.cores import available_cores
from shared.errors import DataError, InternalError
from shared.worker import wire
from shared.worker.child import check_plain
from shared.worker.procfs import children_of, kill_tree, members, memory_bytes, snapshot
from shared.worker.results import keep_only


def test_only_listed_regular_files_are_kept(tmp_path: Path) -> None:
    for name in ("a.txt", "junk.txt", "plots/1.png", "plots/deep/2.png", "other/3.png", "plotsx/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "b.txt").symlink_to("/etc/passwd")
    (tmp_path / "plots/link").symlink_to("/etc")
    os.mkfifo(tmp_path / "plots/pipe")
    kept = keep_only(tmp_path, ("a.txt", "b.txt", "plots/"))
    assert [(info.name, info.size) for info in kept] == [("a.txt", 5), ("plots/1.png", 11), ("plots/deep/2.png", 16)]
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {info.name for info in kept}
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, math.nan], {"a": -math.inf}, {1: 2}, object(), Path("x")])
def test_computed_values_that_are_not_plain_are_refused_by_name(value: object) -> None:
    with pytest.raises(InternalError, match="zp"):
        check_plain({"fwhm": 3.2, "zp": value})


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 3), ("100000 100000", 1), ("150000 100000", 2), ("800000 100000", 3), ("1000 100000", 1)],
)
def test_cores_are_those_that_the_container_may_use(quota: str, cores: int, tmp_path: Path) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(f"{quota}\n")
    few = len(os.sched_getaffinity(0))
    assert available_cores(path) == (few if quota.startswith("max") else min(cores, few))
    assert available_cores(tmp_path / "absent") == few


def test_plain_computed_values_pass() -> None:
    check_plain({"a": None, "b": True, "c": [1, 2.5, "x", {"d": [None]}]})


def test_frames_arrive_whole_and_the_end_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            for frame in ({"t": "log", "line": "é" * 1000}, {"t": "done", "computed": {"zp": 1.5}}):
                theirs.sendall(wire.encode(frame))
                assert wire.receive(ours) == frame
            theirs.sendall(wire.encode({"t": "cut"})[:-1])
        with pytest.raises(wire.WireClosed):
            wire.receive(ours)
    with pytest.raises(ValueError, match="JSON"):
        wire.encode({"x": math.nan})


def test_a_process_is_found_measured_and_killed_with_all_below_it() -> None:
    code = (
        "import subprocess, sys, time; "
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
        "print(c.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        found = members(parent.pid, snapshot())
        assert found == {parent.pid, child}
        assert children_of(parent.pid) == {child}
        assert 2**21 < memory_bytes(child) + 2**20 < memory_bytes(parent.pid) < 2**28
        kill_tree(parent.pid)
        parent.wait(10)
    assert not members(parent.pid, snapshot())
    assert child not in {pid for pid, process in snapshot().items() if not process.dead}


def test_computed_values_are_few_enough_for_a_message() -> None:
    check_plain({"targets": ["é" * 1000] * 190})
    with pytest.raises(DataError, match=r"computed 39\d KiB .* at most 384 KiB .* fewer targets"):
        check_plain({"targets": ["é" * 1000] * 200})
