"""Processes of a stack are found by their mark, whatever they did to their group, and nothing else is touched."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from stdweb.stack import processes

SLEEPER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True)"


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@contextlib.contextmanager
def spawn(code: str, mark: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=processes.marked(mark), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_grandchild_in_its_own_session_is_ended_and_other_stacks_live() -> None:
    with spawn(SLEEPER, "other") as other:
        with spawn(PARENT, "mine") as parent:
            parent.wait()
            wait_until(lambda: len(processes.members("mine")) == 1)
            assert processes.end("mine", grace_s=5) == 1
        assert processes.members("mine") == []
        assert other.poll() is None


def test_one_that_ignores_the_request_is_killed() -> None:
    with spawn(STUBBORN, "stubborn") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert processes.end("stubborn", grace_s=0.2) == 1
        assert process.wait(5) == -9


@pytest.mark.parametrize("content", ["", "no number", "1", "999999999"])
def test_a_pid_file_of_another_process_names_nobody(tmp_path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    assert processes.PidFile(tmp_path / "pid", "mine").read() is None


def test_a_pid_file_names_the_marked_process(tmp_path) -> None:
    file = processes.PidFile(tmp_path / "pid", "mine")
    with spawn(SLEEPER, "mine") as process:
        file.write(process.pid)
        assert file.read() == process.pid
    assert file.read() is None
    file.remove()
    file.remove()


def test_processes_are_recognised_from_their_first_moment() -> None:
    for _ in range(100):  # the kernel shows an empty environment while a program is being started
        with spawn(SLEEPER, "young") as process:
            assert processes.carries(process.pid, "young")
