"""Difference images and what is found in them, against simulated truth: the scoreboard of `docs/quality.md`.

    python bench/quality_difference.py                       long form: every case twice, and a field of 2048 pixels
    python bench/quality_difference.py --short               a few minutes: two cases, nothing is kept
    python bench/quality_difference.py --engines zogy --cases crowded --seeds 3
    python bench/quality_difference.py --report              no more fields: write the report of what is there

Each field and engine is a line in a file below `.stdweb`; what is there is not measured again, so that the long form
can be run in parts. Lines of an older state of the code go with `--fresh`. Each engine runs on one core in a forked
child, after imports. Ends with status 1 when a target is missed.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench_photometry import in_child
from quality_difference_fields import CASES, Case, simulate
from quality_difference_measure import judge, load, run
from quality_difference_report import Results, verdicts, write_report
from threadpoolctl import threadpool_limits

from shared.science.difference import ENGINES

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".stdweb" / "quality" / "difference.jsonl"
SIZE = 1024
LARGE = 2048
SHORT = ("standard", "shallow template")
SHORT_DOUBT_SIGMA = 2.0
"""Two fields have a tenth of the transients: what their number leaves open is no miss."""


def measure_field(case: Case, size: int, seed: int, engines: list[str]) -> list[dict[str, Any]]:
    """Simulate a field and run engines on it."""
    threadpool_limits(1)
    scene = simulate(case, size, seed)
    rows = []
    with tempfile.TemporaryDirectory(prefix="stdweb-quality-") as name:
        for engine in engines:
            out = Path(name) / f"{engine}.npz"
            seconds, processor, memory = in_child(partial(run, engine, scene, out))
            row = {"case": case.name, "size": size, "seed": seed, "engine": engine}
            row |= {"s": seconds, "processor_s": processor, "mb": memory} | judge(scene, load(out))
            rows.append(row)
            print(
                f"{case.name:17s} {size} seed {seed} {engine:9s} {processor:5.1f} s {memory:5.0f} MB, off "
                f"{row['off']:.3f}, on {row['on'] or 0:.2f}, {row['false']} false",
                flush=True,
            )
    return rows


def main() -> None:
    """Measure, report and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--short", action="store_true", help="two cases, one field each, no report")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of these")
    arguments = parser.parse_args()
    rows = [] if arguments.short or not KEPT.exists() else [json.loads(line) for line in KEPT.read_text().splitlines()]
    chosen = [case for case in CASES if case.name in arguments.cases]
    wanted = [(case, SIZE, seed) for seed in arguments.seeds for case in chosen]
    wanted += [(case, LARGE, 1) for case in chosen if case is CASES[0]]
    if arguments.short:
        wanted = [(case, SIZE, 1) for case in chosen if case.name in SHORT]
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    if arguments.fresh:
        keys = {(case.name, size, seed, engine) for case, size, seed in wanted for engine in arguments.engines}
        rows = [row for row in rows if (row["case"], row["size"], row["seed"], row["engine"]) not in keys]
        KEPT.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for case, size, seed in [] if arguments.report else wanted:
        there = {row["engine"] for row in rows if (row["case"], row["size"], row["seed"]) == (case.name, size, seed)}
        engines = [engine for engine in arguments.engines if engine not in there]
        new = measure_field(case, size, seed, engines) if engines else []
        rows += new
        if not arguments.short:
            with KEPT.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
    results = Results(rows)
    if not arguments.short:
        write_report(results, ROOT / "docs")
    missed = [str(one) for one in verdicts(results, SHORT_DOUBT_SIGMA if arguments.short else 0.0) if not one.kept]
    print("\n".join(missed) or "all targets are met")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
