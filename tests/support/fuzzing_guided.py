"""Fuzzing that is guided by what of our code an input reaches: libFuzzer through Atheris, in parts that can be resumed.

    python -m tests.support.fuzzing_guided TARGET --executions 50000 --seed 1

goes on from the corpus that earlier ones left, prints a line of JSON for each part, and keeps what it finds in the
folder TARGET-findings beside the corpus. `--replay FILE ...` gives inputs to a target, and `--keep FILE` writes the
smallest corpus that reaches as much to a file; such a file of many inputs can be replayed, too, which needs no Atheris.
"""

import argparse
import base64
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

import numpy as np

from tests.support.fuzz_inputs import MAX_INPUT_BYTES, dictionary, seed_inputs

TARGETS: Final = ("layout", "header", "preview", "crop", "inspect")
SEEDS: Final = 500
PART: Final = {"layout": 500_000, "inspect": 5_000}
"""Executions of a process; what it may have lost of memory ends with it."""

OTHER_PART: Final = 50_000
MEMORY_BYTES: Final = 3 * 2**30
LIMIT_S: Final = 20
MAX_KEPT_BYTES: Final = 1000
OURS: Final = ["shared", "services"]
COMPILED: Final = [
    f"shared.science.{name}"
    for name in ("aperture", "centroid", "cosmics", "selftest", "stacking_combine", "stacking_grid", "templates")
]
"""Numba compiles their bytecode, and would not know what is put into it."""


def _quiet() -> None:
    """Silence warnings, and what astropy looks up in its configuration for every card: a third of the time."""
    from astropy.io import fits

    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    for name in ("enable_record_valued_keyword_cards", "extension_name_case_sensitive", "strip_header_whitespace"):
        setattr(type(fits.conf), name, getattr(fits.conf, name))


def fuzz(target: str, arguments: list[str]) -> None:
    """Run libFuzzer in this process; it ends the process."""
    import atheris

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    _quiet()
    with atheris.instrument_imports(include=OURS, exclude=COMPILED):
        from tests.support import fuzz_targets
    chosen = fuzz_targets.targets(Path(tempfile.mkdtemp()))[target]
    atheris.Setup([sys.argv[0], *arguments], lambda data: fuzz_targets.try_input(chosen, data) and None)
    atheris.Fuzz()


def inputs_of(file: Path) -> list[bytes]:
    """Read one input, or all of a kept corpus."""
    content = file.read_bytes()
    return [base64.b85decode(line) for line in content.split()] if file.suffix == ".txt" else [content]


def replay(target: str, files: list[Path]) -> None:
    """Give inputs to a target, and tell how many were read and refused; a finding raises."""
    from tests.support import fuzz_targets

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    _quiet()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        chosen = fuzz_targets.targets(Path(folder))[target]
        for data in (data for file in files for data in inputs_of(file)):
            signal.alarm(LIMIT_S)  # ends the process
            outcomes["read" if fuzz_targets.try_input(chosen, data) else "refused"] += 1
    sys.stdout.write(json.dumps(outcomes) + "\n")


def keep(target: str, corpus: Path, file: Path) -> None:
    """Write inputs of a corpus, the shortest first, that together go every way through our code that it goes."""
    from tests.support import fuzz_targets

    _quiet()
    ours = tuple(str(Path(name).resolve()) for name in OURS)
    seen: set[tuple[str, int, int]] = set()
    went: set[tuple[str, int, int]] = set()

    def enter(frame: FrameType, *_: object) -> object:
        name, line = frame.f_code.co_filename, frame.f_lineno
        if not name.startswith(ours):
            return None

        def go(frame: FrameType, *_: object) -> object:
            nonlocal line
            went.add((name, line, frame.f_lineno))
            line = frame.f_lineno
            return go

        return go

    kept: list[bytes] = []
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        chosen = fuzz_targets.targets(Path(folder))[target]
        for data in sorted((path.read_bytes() for path in corpus.iterdir()), key=lambda data: (len(data), data)):
            went.clear()
            sys.settrace(enter)
            try:
                fuzz_targets.try_input(chosen, data)
            finally:
                sys.settrace(None)
            if not went <= seen and len(data) <= MAX_KEPT_BYTES:
                kept.append(data)
                seen |= went
    file.write_bytes(b"".join(base64.b85encode(data) + b"\n" for data in kept))


def campaign(target: str, executions: int, seed: int, folder: Path) -> int:
    """Run part after part, each in a process of its own, until so many inputs were tried or one is a finding."""
    corpus, findings, words = folder / target, folder / f"{target}-findings", folder / "words.dict"
    for path in (corpus, findings):
        path.mkdir(parents=True, exist_ok=True)
    words.write_text(dictionary())
    for number, data in enumerate(seed_inputs(1, SEEDS)):
        (corpus / f"seed-{number:03d}").write_bytes(data)
    done = 0
    while done < executions:
        runs = min(PART.get(target, OTHER_PART), executions - done)
        limits = (f"-timeout={LIMIT_S}", "-rss_limit_mb=2500", f"-max_len={MAX_INPUT_BYTES}", "-print_final_stats=1")
        choices = (f"-seed={seed % 2**31 or 1}", f"-runs={runs}", f"-dict={words}", f"-artifact_prefix={findings}/")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=_fast_folder()) as place:
            child = _child(target, *limits, *choices, str(corpus), place=place)
        seconds = time.monotonic() - began
        tried = _last(r"number_of_executed_units: (\d+)", child.stderr) or _last(r"^#(\d+)", child.stderr)
        done += max(tried, 1)
        told = {"target": target, "seed": seed, "executions": tried, "a_second": round(tried / seconds)}
        told |= {"reached": _last(r"cov: (\d+)", child.stderr), "corpus": sum(1 for _ in corpus.iterdir())}
        told |= {"memory_mib": _last(r"peak_rss_mb: +(\d+)", child.stderr), "finding": child.returncode != 0}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({**told, "at": int(time.time())}) + "\n")
        if child.returncode:
            sys.stderr.write(child.stderr[-6000:])
            return 1
        seed += 1
    return 0


def _child(target: str, *arguments: str, place: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __spec__.name, "--child", target, *arguments],
        env={**os.environ, "TMPDIR": place, "OPENBLAS_NUM_THREADS": "1", "XDG_CACHE_HOME": place},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _fast_folder() -> str | None:
    """Give a folder in memory, for the files that are written for each execution; None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.MULTILINE)
    return int(found[-1]) if found else 0


def main() -> int:
    """Run as the arguments say."""
    if sys.argv[1:2] == ["--child"]:
        fuzz(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(".stdweb/fuzz"))
    parser.add_argument("--replay", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if asked.replay:
        replay(asked.target, asked.replay)
        return 0
    if asked.keep:
        keep(asked.target, asked.folder / asked.target, asked.keep)
        return 0
    return campaign(asked.target, asked.executions, asked.seed, asked.folder)


if __name__ == "__main__":
    sys.exit(main())
