"""`python -m tests.chaos.soak`: a steady load, no faults, and the memory of every process of ours, which must stay."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from services.gateway.admin import Admin
from stdweb.stack import processes

from . import memory
from .called import Called
from .ledger import Ledger
from .load import Load
from .pictures import make_pictures
from .stack import USER, Stack

_CLIENTS: Final = 6
_SAMPLES: Final = 200
_LONGEST_PAUSE_S: Final = 10.0
_GRACE_S: Final = 3.0


def main() -> int:
    """Run it; the exit code is 0 when all memory stayed, and every answer was as it should be."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        return asyncio.run(_soak(folder, 60 * options.minutes, options.seed))
    finally:
        if (folder / "mark").exists():
            processes.end((folder / "mark").read_text(), _GRACE_S)
        shutil.rmtree(folder, ignore_errors=True)


async def _soak(folder: Path, seconds: float, seed: str) -> int:
    stack = Stack(folder, {"MAX_STEPS_PER_USER": "4"})
    sampler = memory.Sampler()
    try:
        await stack.start()
        pictures = await asyncio.to_thread(make_pictures, folder / "pictures", stack.mirror)
        async with await Admin.connect(stack.store.url) as admin:
            await admin.add_user(USER)
            tokens = [await admin.create_token(USER) for _ in range(_CLIENTS)]
        ledger = Ledger(folder / "ledger.jsonl")
        called = Called(ledger, random.Random(seed))
        await called.start()
        load = Load(stack.gateways, tokens, pictures, ledger, seed=seed, called=called, keep=False)
        await load.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.to_thread(sampler.sample, stack.pids())
            await asyncio.sleep(min(seconds / _SAMPLES, _LONGEST_PAUSE_S))
        await load.stop()
        await called.close()
        ledger.close()
    finally:
        await stack.stop()
    verdicts = memory.judge(sampler.series, sorted(sampler.main))
    wrong = [line for line in ledger.lines if line["what"] in {"violation", "trouble"}]
    rows = [*memory.HEAD, *(verdict.row() for verdict in verdicts)]
    rows.append(f"{seconds / 60:.0f} minutes, {len(load.ended)} runs; wrong answers: {len(wrong)}.")
    sys.stdout.write("\n".join([*rows, *map(str, wrong[:10])]) + "\n")
    return 1 if wrong or any(verdict.bad in {"GREW", "DIED"} for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
