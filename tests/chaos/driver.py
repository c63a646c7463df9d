"""One part of a campaign: a fresh stack, a load, some faults, and then the judge."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pymongo
import pymongo.errors
import structlog

from services.gateway.admin import Admin

from . import evidence, faults
from .called import Called
from .checker import LASTING, Verdict, Violation, check
from .faults import KINDS, Fault
from .ledger import Ledger
from .load import Load
from .pictures import make_pictures
from .stack import USER, WORKERS, Stack

CLIENTS: Final = 6
_GAP_S: Final = (0.5, 3.0)
_FAULTS_A_RUN: Final = 3.0  # or fewer: what stands still all the time cannot be broken
_FOR_ALL: Final = 2  # lanes for what stops all
_RUNS_BETWEEN: Final = 3  # runs end after a fault that stops all, before the next of these
_PATIENCE_S: Final = 90.0  # with runs that do not end
_RECOVER_S: Final = 60.0
_SETTLE_S: Final = 120.0  # longer than a callback waits whose gateway has died
_QUIET_S: Final = 0.5
_MET_S: Final = 1.0  # of a fault that is over at once
_ATTENTION_S: Final = 60.0  # given to the aftermath of a fault before the next one, where one comes after another

log = structlog.get_logger()


@dataclass
class Result:
    """What came of one part."""

    seed: str
    faults: list[dict[str, Any]] = field(default_factory=list)
    violations: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    commit: str = ""


class Part:
    """Runs one part.

    Parameters
    ----------
    folder
        Of the stack; on it may be mounted a small volume.
    seed
        Of the faults and of what clients do.
    plan
        The faults.
    leases
        Settings of the stack.
    lanes
        How many faults go on at once. With one, the next waits for the aftermath of the one before.
    clients
        How many there are.
    """

    def __init__(
        self,
        folder: Path,
        seed: str,
        plan: list[Fault],
        *,
        leases: dict[str, str],
        lanes: int = 1,
        clients: int = CLIENTS,
    ) -> None:
        self._lanes = lanes
        self._clients = clients
        self._dice = random.Random(seed)
        self._plan = plan
        self._result = Result(seed)
        settings = {**leases, "MAX_STEPS_PER_USER": "4", "LOG_LEVEL": "info"}
        self._stack = Stack(folder, settings)
        self._folder = folder
        self._busy: set[str] = set()
        self._ends_wanted = 0
        self._quiet_s = 0.0
        self._aftermath: set[asyncio.Task[None]] = set()

    async def run(self) -> Result:
        """Run it to its end."""
        began = time.monotonic()
        try:
            await self._stack.start()
            pictures = await asyncio.to_thread(make_pictures, self._folder / "pictures", self._stack.mirror)
            tokens = await self._tokens()
            ledger = Ledger(self._folder / "ledger.jsonl")
            called = Called(ledger, random.Random(f"{self._result.seed}/called"))
            await called.start()
            self._load = Load(
                self._stack.gateways,
                tokens,
                pictures,
                ledger,
                seed=self._result.seed,
                called=called,
                clock=lambda: self._quiet_s,
            )
            watch = asyncio.create_task(self._count_quiet())
            await self._load.start()
            url = f"mongodb://127.0.0.1:{self._stack.ports['store']}/?retryWrites=false"
            client = pymongo.MongoClient(url, serverSelectionTimeoutMS=1000, socketTimeoutMS=5000)
            self._base = client["stdweb"]
            await self._first_end()
            await self._torment()
            log.info("faults done", seconds=round(time.monotonic() - began))
            await self._load.stop()
            for line in self._result.faults:
                line["lost_s"] = _lost_s(line, ledger)
            verdict = await self._settle(ledger)
            await called.close()
            ledger.close()
            client.close()
            watch.cancel()
        finally:
            left = await self._stack.stop()
        verdict.violations += [Violation("process outlives the stack", command) for command in left]
        self._result.violations = [asdict(one) for one in verdict.violations]
        self._result.counts = dict(verdict.counts)
        self._result.seconds = round(time.monotonic() - began, 1)
        return self._result

    async def _tokens(self) -> list[str]:
        async with await Admin.connect(self._stack.store.url) as admin:
            await admin.add_user(USER)
            return [await admin.create_token(USER) for _ in range(self._clients)]

    async def _count_quiet(self) -> None:
        """Count the time in which nothing is done to the stack, and all of it can be used."""
        while True:
            await asyncio.sleep(_QUIET_S)
            if not self._busy and await asyncio.to_thread(self._stack.ready):
                self._quiet_s += _QUIET_S

    async def _first_end(self) -> None:
        """Wait until the stack has done something, so that what is slow once is not taken for a wound."""
        deadline = time.monotonic() + 120
        while not self._load.ended and time.monotonic() < deadline:
            await asyncio.sleep(0.1)

    # ---- faults

    async def _torment(self) -> None:
        if self._lanes == 1:
            await self._lane(iter(self._plan))
        else:  # what stops all has lanes of its own, or the others would soon wait for it
            ones = iter([fault for fault in self._plan if not faults.stops_all(fault)])
            alls = iter([fault for fault in self._plan if faults.stops_all(fault)])
            lanes = [self._lane(alls if lane < _FOR_ALL else ones) for lane in range(max(self._lanes, _FOR_ALL + 1))]
            await asyncio.gather(*lanes)
        await asyncio.gather(*self._aftermath)

    async def _lane(self, plan: Iterator[Fault]) -> None:
        """Inflict one fault after another; beside other lanes, which take theirs from the same plan."""
        for fault in plan:
            await self._pace(fault)
            watches = await self._inflict(fault)
            if self._lanes == 1 and watches:
                await asyncio.wait(watches, timeout=_ATTENTION_S)
            await asyncio.sleep(self._dice.uniform(*_GAP_S))

    async def _pace(self, fault: Fault) -> None:
        """Wait until runs have ended since the last faults, or for some time."""
        deadline = time.monotonic() + _PATIENCE_S
        least = (len(self._result.faults) - self._lanes) / _FAULTS_A_RUN
        if faults.stops_all(fault):
            least = max(least, self._ends_wanted)
        while len(self._load.ended) < least and time.monotonic() < deadline:
            await asyncio.sleep(0.1)

    async def _inflict(self, fault: Fault) -> list[asyncio.Task[None]]:
        victim = fault.victim.partition(" > ")[0]
        while victim in self._busy:  # one fault at a time on each
            await asyncio.sleep(0.1)
        self._busy.add(victim)
        await faults.ready_for(self._stack, fault, faults.BUSY_S if self._lanes > 1 else _ATTENTION_S)
        held = await self._held(victim)
        before = self._stack.pid(victim) if victim in self._stack.deaths() else None
        line: dict[str, Any] = {**asdict(fault), "began": time.time(), "ended": time.time() + 3600}
        self._result.faults.append(line)
        log.info("fault", steps=[step["id"] for _, step in held], **asdict(fault))
        began = time.monotonic()
        try:
            async with KINDS[fault.kind].do(self._stack, fault):
                applied = time.monotonic()
                await asyncio.sleep(fault.hold_s)
        finally:
            self._busy.discard(victim)
            lifted = time.monotonic()
            if faults.stops_all(fault):
                self._ends_wanted = len(self._load.ended) + _RUNS_BETWEEN
            line["ended"] = time.time()
            log.info("fault over", number=fault.number, after_s=round(lifted - began, 2))
        watches = [asyncio.create_task(self._recovery(line, lifted))]
        if before is not None and fault.kind in faults.DEADLY:
            watches.append(asyncio.create_task(self._up(victim, before, line, applied)))
        watches += [asyncio.create_task(self._taken_over(task_id, step, line, applied)) for task_id, step in held]
        self._aftermath |= set(watches)
        return watches

    async def _held(self, victim: str) -> list[tuple[int, dict[str, Any]]]:
        """Give the steps that a worker is at, with their tasks."""
        if victim not in WORKERS:
            return []
        found = []
        for task_id in faults.tasks_of(self._stack, victim):
            step = await asyncio.to_thread(self._current, task_id)
            if step:  # and the store answered
                found.append((task_id, step))
        return found

    def _current(self, task_id: int) -> dict[str, Any] | None:
        """Give the step of a task whose turn it is; asked of the store itself."""
        try:
            doc = self._base["tasks"].find_one({"_id": task_id}, {"run": 1})
        except pymongo.errors.PyMongoError:
            return {}  # not to be had now
        steps = doc["run"]["steps"] if doc and doc.get("run") else []
        return next((step for step in steps if step["status"] not in {"done", "failed", "cancelled"}), None)

    async def _taken_over(self, task_id: int, step: dict[str, Any], line: dict[str, Any], began: float) -> None:
        """Measure how long a step takes whose worker was hit: until another has it, and to its end."""
        others, fault_of_worker = [name for name in WORKERS if name != line["victim"]], line["kind"] == "kill worker"
        while time.monotonic() < began + 2 * _RECOVER_S:
            if (
                fault_of_worker
                and "taken_s" not in line
                and any(task_id in faults.tasks_of(self._stack, name) for name in others)
            ):
                line["taken_s"] = round(time.monotonic() - began, 2)
            current = await asyncio.to_thread(self._current, task_id)
            if current != {} and (current is None or current["id"] != step.get("id")):
                line["step_s"] = max(line.get("step_s", 0.0), round(time.monotonic() - began, 2))
                return
            await asyncio.sleep(0.1)
        line["step_s"] = None

    async def _up(self, victim: str, before: int | None, line: dict[str, Any], began: float) -> None:
        """Measure how long it takes until what died is ready again, under another number."""
        while time.monotonic() < began + 2 * _RECOVER_S:
            if self._stack.ready(victim) and self._stack.pid(victim) != before:
                break
            await asyncio.sleep(0.05)
        line["up_s"] = round(time.monotonic() - began, 2)
        line["ended"] = time.time()

    async def _recovery(self, line: dict[str, Any], lifted: float) -> None:
        """Measure how long it takes until a run that was begun after the fault has ended."""
        while time.monotonic() < lifted + _RECOVER_S:
            ends = [ended for accepted, ended in self._load.ended if accepted >= lifted]
            if ends:
                line["recovered_s"] = round(min(ends) - lifted, 2)
                return
            if self._load.stopping:
                return
            await asyncio.sleep(0.05)
        line["recovered_s"] = None

    # ---- the judge

    async def _settle(self, ledger: Ledger) -> Verdict:
        """Judge as soon as nothing is to be found any more, or when that takes too long."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            try:
                verdict = check(await self._evidence(ledger))
            except (pymongo.errors.PyMongoError, RuntimeError) as error:
                verdict = Verdict([Violation("nothing to be read", repr(error))])
            if all(one.rule in LASTING for one in verdict.violations) or time.monotonic() > deadline:
                return verdict
            await asyncio.sleep(2)

    async def _evidence(self, ledger: Ledger) -> evidence.Evidence:
        stack = self._stack
        tasks, runs, others = await asyncio.to_thread(evidence.read_store, stack.ports["store"])
        return evidence.Evidence(
            ledger=ledger.lines,
            tasks=tasks,
            runs=runs,
            others=others,
            volume=stack.volume,
            queues=await stack.queues(),
            letters=await stack.letters(),
            processes=await asyncio.to_thread(evidence.read_processes, stack.mark),
            supervised=stack.pids(),
            faults=self._result.faults,
            at=time.time(),
        )


def _lost_s(fault: dict[str, Any], ledger: Ledger) -> float:
    """Give the longest time that a client lost by tries that failed, of the requests that met the fault."""
    first, last = fault["began"], fault["began"] + max(fault["hold_s"], _MET_S)
    met = [
        line["lost_s"]
        for line in ledger.lines
        if line["what"] == "accepted" and line["at"] >= first and line["at"] - line["took_s"] <= last
    ]
    return max(met, default=0.0)
