import sys
import time

import psutil
import pytest

from shared.errors import InternalError, TransientError
from shared.science.processes import find_program, run_program


def test_output_comes_back(tmp_path):
    lines: list[str] = []
    text = run_program([sys.executable, "-c", "print('a; b $HOME')"], tmp_path, 20, lines.append)
    assert text == "a; b $HOME\n"
    assert "ended with status 0" in lines[0]


def test_failure_is_typed(tmp_path):
    with pytest.raises(InternalError, match="failed with status 3") as caught:
        run_program([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path, 20, print)
    assert caught.value.details["output"] == "why"


def test_missing_program(tmp_path):
    assert find_program("no-such-program", "python3") is not None
    with pytest.raises(TransientError, match="could not be started"):
        run_program(["no-such-program"], tmp_path, 5, print)


def test_time_limit_takes_the_children_along(tmp_path):
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with pytest.raises(TransientError, match="did not end within"):
        run_program([sys.executable, "-c", code], tmp_path, 3, print)
    pid = int((tmp_path / "program.out").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
