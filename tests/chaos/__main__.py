"""`python -m tests.chaos`: a campaign of faults in parts, each with a stack of its own; it goes on where it ended."""

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import structlog

from stdweb.stack import processes

from . import faults, report
from .driver import CLIENTS, Part, Result
from .stack import ROOT, SHORT_LEASES, VOLUME_BYTES, WORKERS

_INSIDE: Final = "CHAOS_NAMESPACE"
_PART: Final = 200
_LANES: Final = 6
_FEW_CLIENTS: Final = 3
_GRACE_S: Final = 3.0


def main() -> int:
    """Run what is missing of a campaign; the exit code is 0 when no promise was broken."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=15)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--part", type=int, default=_PART, help="faults of a part")
    parser.add_argument("--lanes", type=int, default=_LANES, help="faults that go on at once")
    parser.add_argument("--state", type=Path, help="file with the results of parts; kept for a campaign that goes on")
    parser.add_argument("--work", type=Path, help="folder for the stacks; a temporary one by default")
    parser.add_argument("--leases", choices=("short", "default"), default="short")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument(
        "--figures",
        action="store_true",
        help="judge the times of recovery: default leases, few clients, fault by fault",
    )
    parser.add_argument("--kinds", help="only these kinds of faults, separated by commas")
    parser.add_argument("--table", type=Path, help="file in which the table of results is renewed")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the stacks")
    options = parser.parse_args()
    if options.figures:
        options.leases, options.lanes, options.clients = "default", 1, _FEW_CLIENTS
        options.kinds = ",".join(dict.fromkeys(kind for figure in report.FIGURES for kind in figure.kinds))
    _enter_namespace()
    work = options.work or Path(tempfile.mkdtemp(prefix="chaos-"))
    work.mkdir(parents=True, exist_ok=True)
    state = _State(options.state or work / "state.json", options)
    for number in range(len(state.parts), -(-options.faults // options.part)):
        count = min(options.part, options.faults - number * options.part)
        result = _part(work / f"part-{number + 1}", f"{options.seed}/{number + 1}", count, options)
        result.commit = _commit()
        state.add(result)
        sys.stdout.write(report.part(result) + "\n")
        sys.stdout.flush()
    state.close()
    if options.work is None and not options.keep:
        shutil.rmtree(work, ignore_errors=True)
    sys.stdout.write(report.campaign(state.parts) + "\n")
    if options.table is not None:
        report.renew(options.table, state.parts, options.seed)
    missed = 0
    if options.figures:
        lines, missed = report.figures(state.parts)
        sys.stdout.write("\n".join(lines) + "\n")
    return 1 if missed or any(part["violations"] for part in state.parts) else 0


class _State:
    """Results of the parts that are done, in a file."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self._path = path
        names = ("seed", "faults", "part", "lanes", "clients", "leases", "kinds")
        self._of = {name: getattr(options, name) for name in names}
        kept = json.loads(path.read_text()) if path.exists() else {"of": self._of, "parts": []}
        if kept["of"] != self._of:
            raise SystemExit(f"{path} is of another campaign: {kept['of']}. Name another file: --state")
        self.parts: list[dict[str, Any]] = kept["parts"]

    def close(self) -> None:
        """Put the file of a campaign that is over aside: the same command begins another one."""
        self._path.replace(self._path.with_suffix(".last.json"))

    def add(self, result: Result) -> None:
        """Keep the results of a part."""
        self.parts.append(asdict(result))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({"of": self._of, "parts": self.parts}, indent=1))
        fresh.rename(self._path)


def _part(folder: Path, seed: str, count: int, options: argparse.Namespace) -> Result:
    if (folder / "mark").exists():  # of a campaign that was killed
        processes.end((folder / "mark").read_text(), _GRACE_S)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "volume").mkdir(parents=True)
    mounted = _mount(folder / "volume")
    kinds = options.kinds.split(",") if options.kinds else [*faults.KINDS]
    if not mounted:
        kinds = [kind for kind in kinds if kind != "disk full"]
    with (folder / "driver.log").open("w", buffering=1) as log:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.PrintLoggerFactory(log),
            cache_logger_on_first_use=False,
        )
        leases = SHORT_LEASES if options.leases == "short" else {}
        plan = faults.draw(random.Random(f"{seed}/faults"), count, kinds)
        if options.figures:  # a worker whose steps take long enough to be hit
            measuring = [name for name in WORKERS if name.startswith("photometry")]
            plan = [
                replace(one, victim=measuring[one.number % 2]) if one.kind == "kill worker" else one for one in plan
            ]
        result = asyncio.run(
            _guarded(Part(folder, seed, plan, leases=leases, lanes=options.lanes, clients=options.clients))
        )
    if mounted:
        keep = folder / "volume-kept"
        if result.violations and options.keep:
            shutil.copytree(folder / "volume", keep, symlinks=True)
        subprocess.run(["umount", "-l", folder / "volume"], check=False)
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return result


async def _guarded(part: Part) -> Result:
    """Run a part; who is told to end ends its stack as well."""
    task = asyncio.create_task(part.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _commit() -> str:
    """Name the code that was tried."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()


def _enter_namespace() -> None:
    """Become the root of a namespace of our own, where a small volume can be mounted; go on without if that fails."""
    if _INSIDE in os.environ:
        return
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*command, "true"], check=False, capture_output=True) if shutil.which("unshare") else None
    if probe is not None and probe.returncode == 0:
        os.environ[_INSIDE] = "1"
        os.execvp(command[0], [*command, sys.executable, "-m", "tests.chaos", *sys.argv[1:]])


def _mount(volume: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={VOLUME_BYTES}", "chaos", str(volume)]
    return _INSIDE in os.environ and subprocess.run(command, check=False, capture_output=True).returncode == 0


logging.getLogger("aiormq").setLevel(logging.CRITICAL)
sys.exit(main())
