"""A service of cheap steps, which do what their config says: `python -m tests.support.steps`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shared.contracts.params import CleanupParams
from shared.contracts.steps import Step
from shared.errors import DataError, TransientError
from shared.worker.runtime import main
from shared.worker.step import StepContext, StepSpec


def row(name: str, time_limit_s: int = 600) -> Step:
    """Make a row of a step table."""
    return Step(
        name=name,
        service="test",
        rank=1,
        state=name,
        params=CleanupParams,
        log=f"{name}.log",
        files=("out.txt", "plots/"),
        time_limit_s=time_limit_s,
    )


PROBE = row("probe")
BRIEF = row("brief", time_limit_s=1)


def run(context: StepContext) -> dict[str, Any]:  # noqa: C901, PLR0912, PLR0915 - a list of things to do
    """Do what `do` says."""
    context.log("doing", context.config.get("do", "nothing"))
    context.progress(0.5, "half")
    action = context.config.get("do")
    gate = context.config.get("gate")
    match action:
        case "files":
            (context.work / "out.txt").write_text("out")
            (context.work / "plots").mkdir()
            (context.work / "plots/a.png").write_text("png")
            (context.work / "junk.txt").write_text("junk")
            (context.work / "junk").mkdir()
            (context.work / "link.txt").symlink_to("/etc/passwd")
        case "wait":
            # the test says when by making the file; the pid tells it that the step runs
            with Path(f"{gate}.pids").open("a") as file:
                file.write(f"{os.getpid()}\n")
            while not Path(gate).exists():
                time.sleep(0.01)
            (context.work / "out.txt").write_text(str(os.getpid()))
        case "data":
            (context.work / "out.txt").write_text("out")
            raise DataError("blank", "The image is blank; take another one.")
        case "full":
            with Path(gate).open("a") as file:
                file.write("again ")
            with Path("/dev/full").open("wb", buffering=0) as device:
                device.write(b"results")
        case "bug":
            raise RuntimeError("secret inside")
        case "nan":
            return {"zp": float("nan")}
        case "passing":
            counter = Path(gate)
            tries = int(counter.read_text()) + 1 if counter.exists() else 1
            counter.write_text(str(tries))
            if tries <= context.config["failures"]:
                raise TransientError("archive_away", "The archive is away; try again later.")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hog":
            hoard = []
            while True:
                hoard.append(bytearray(os.urandom(1) * 2**22))
                time.sleep(0.01)
        case "pid":
            return {"pid": os.getpid()}
        case "leave":
            os.environ["LEFT_BY_A_STEP"] = "1"
            return {"pid": os.getpid()}
        case "ask":
            _ask_archives(context)
        case "family":
            # one in our group, by a shell as stdpipe does it, and one with a session of its own
            sleeper = f"{sys.executable} -c 'import time; time.sleep(600)'"
            os.system(f"{sleeper} & echo $! > {gate}.a")
            alone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            Path(f"{gate}.pids").write_text(f"{os.getpid()}\n{alone.pid}\n{Path(f'{gate}.a').read_text()}")
            while context.config.get("stay", True):
                time.sleep(0.1)
    return {"answer": 42}


def _ask_archives(context: StepContext) -> None:
    from shared.science.archives import VIZIER, Archive, ArchiveFaultError, ask, spared

    def fail(_: object) -> None:
        raise ArchiveFaultError

    for _ in range(2):
        ask(VIZIER, lambda _: None, context.work, context.log)
    spared(VIZIER)
    with contextlib.suppress(TransientError):
        ask(Archive("broken", "a broken archive", 1.0, attempts=1), fail, context.work, context.log)


def warm() -> None:
    """Import nothing, or the science stack where a measurement asks for it; fail while a file says so."""
    if Path(os.environ.get("TEST_WARM_FAILS", "/nonexistent")).exists():
        raise RuntimeError("cannot get warm")
    for name in os.environ.get("TEST_WARM", "").split():
        __import__(name)


SPECS = (StepSpec(PROBE, run, warm), StepSpec(BRIEF, run, warm))

if __name__ == "__main__":
    main("test", SPECS)
