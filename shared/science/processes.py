"""Running external programs: no shell, a time limit, typed errors."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ..errors import InternalError, TransientError

Log = Callable[..., None]

_TAIL_LINES: Final = 5
_OUTPUT_BYTES: Final = 1 << 20


def find_program(*names: str) -> str | None:
    """Give the path of the first of `names` that is installed, or None."""
    return next((path for name in names if (path := shutil.which(name))), None)


def run_program(argv: Sequence[str], cwd: Path, timeout_s: float, log: Log) -> str:
    """Run a program and give what it wrote.

    It stays in the process group of the step, so that a cancelled step takes it along; at the time limit the program
    and its own children are killed.

    Parameters
    ----------
    argv
        Program and arguments, handed over as they are: no shell.
    cwd
        Folder to run in; the program's output goes to `program.out` there.
    timeout_s
        Time limit, seconds.
    log
        Takes a line about the run.

    Raises
    ------
    TransientError
        At the time limit, or when the program cannot be started.
    InternalError
        When it ends with another status than 0.
    """
    name = Path(argv[0]).name
    began = time.monotonic()
    output = cwd / "program.out"
    try:
        with output.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603  a list, never a shell; arguments are ours
                list(argv), cwd=cwd, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
            )
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _end(process)
                raise TransientError(
                    "program_timeout", f"{name} did not end within {timeout_s:g} s. Try again, or narrow the search."
                ) from None
            except BaseException:
                _end(process)
                raise
    except OSError as error:
        raise TransientError("program_start", f"{name} could not be started. Try again.", reason=str(error)) from error
    text = _tail(output)
    log(f"{name} ended with status {status} after {time.monotonic() - began:.1f} s")
    if status != 0:
        raise InternalError(
            "program_failed", f"{name} failed with status {status}.", output="\n".join(text.splitlines()[-_TAIL_LINES:])
        )
    return text


def _tail(output: Path) -> str:
    with output.open("rb") as file:
        file.seek(max(output.stat().st_size - _OUTPUT_BYTES, 0))
        return file.read().decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    for pid in [*_descendants(process.pid), process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _descendants(pid: int) -> list[int]:
    """List the processes below `pid`, deepest first; empty where the kernel does not tell."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in tasks.read_text().split()]
        except OSError:
            continue
        for child in children:
            found = [*_descendants(child), child, *found]
    return found
