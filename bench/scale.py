"""What more workers of one step bring, what a burst of 10,000 steps does, and what a step costs broker and store.

    python bench/scale.py                                    everything, some 15 minutes
    python bench/scale.py --only ceiling burst --chains 500

Starts stacks of its own; `docs/scaling.md` reckons with what is printed. Ends with status 1 when a step was lost.

ceiling   Broker and workers without a store: this program plays the gateway, and keeps states in memory.
sleeping  A mix of chains whose `photometry` sleeps, against the number of workers of it: what the plumbing loses.
real      Chains of a real `inspect`, against the number of workers of it: what the cores give.
burst     Chains of 10,000 steps asked for at once by 50 users, for workers that do nothing; `state` is asked meanwhile.
"""

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path

import aiohttp
import structlog
from bench_plumbing import Api, quantile
from pydantic import TypeAdapter
from scale_site import Cost, Workers, site, sleepers

from shared.broker import Delivery, connect, step_route
from shared.broker.topology import REPORTS_QUEUE
from shared.contracts.messages import StepDone, StepFailed, StepMessage, StepStarted
from shared.contracts.steps import STEPS
from shared.taskdir import TasksRoot
from stdweb.sky import simulate

COUNTS = (1, 2, 4)
MIX = (
    ("inspect", "photometry"),
    ("inspect", "photometry"),
    ("inspect", "photometry", "simple_transients"),
    ("inspect", "photometry", "subtraction"),
)
"""What people ask for: photometry of all images, a search in half of them."""
BURST = ("inspect", "photometry", "simple_transients", "subtraction")
CLIENTS = 50
POLL_S = 1.0
SLEEP_S = 0.5
PER_WORKER = 24
SIZE_PIX = 1024

REPORT: TypeAdapter[StepStarted | StepDone | StepFailed] = TypeAdapter(StepStarted | StepDone | StepFailed)


def told(cost: Cost, steps: int) -> str:
    """Say what a step cost."""
    used = ", ".join(f"{name} {1e3 * value / steps:.1f}" for name, value in sorted(cost.cpu_s.items()))
    written = ", ".join(f"{name} {value / steps / 1024:.0f}" for name, value in sorted(cost.written.items()) if value)
    return f"of a step, ms of processor: {used}; KiB written: {written}"


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session for many clients."""
    timeout = aiohttp.ClientTimeout(total=1800)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=64)) as opened:
        yield opened


async def ceiling(args: argparse.Namespace) -> bool:
    """Steps per second of broker and workers."""
    count = args.steps
    async with site(sleepers({"cleanup": 0.0}, args.workers, args.slots), gateway=False) as running:
        broker = connect(running.state.amqp_url, "scale", settle_s=20)
        root = TasksRoot(running.state.volume)
        done: Counter[int] = Counter()
        over = asyncio.Event()

        async def take(delivery: Delivery) -> None:
            report = REPORT.validate_json(delivery.body)
            if isinstance(report, StepDone):
                done[report.task_id] += 1
                if len(done) == count:
                    over.set()
            await delivery.ack()

        async def ask(tasks: Sequence[int]) -> None:
            for task in tasks:
                await broker.publish(step_route("cleanup"), _message(task), message_id=f"s{task}")

        await broker.consume(REPORTS_QUEUE, take, prefetch=200)
        for task in range(count):
            root.task(task).create()
        before, began = running.cost(), time.perf_counter()
        await asyncio.gather(*(ask(range(first, count, CLIENTS)) for first in range(CLIENTS)))
        await over.wait()
        seconds = time.perf_counter() - began
        cost = running.cost().since(before)
        await broker.close()
    print(
        f"{count} steps, broker and {args.workers} workers of {args.slots} slots {count / seconds:8.1f} steps/s "
        "(wanted: 300)"
    )
    print(f"    {told(cost, count)}")
    return set(done.values()) == {1}


def _message(task: int) -> StepMessage:
    return StepMessage(
        task_id=task,
        run_id=f"r{task}",
        at=datetime.now(UTC),
        step_id=f"s{task}",
        step="cleanup",
        attempt=1,
        seq=1,
        position=1,
        total=1,
        config={},
    )


async def ended(clients: list[Api], tasks: list[int], chains: list[tuple[str, ...]]) -> tuple[float, int]:
    """Start a chain of each task; returns the seconds until all have ended, and how many did not end done."""

    async def client(index: int) -> tuple[datetime, int]:
        api, bad, last = clients[index], 0, datetime.min.replace(tzinfo=UTC)
        mine = range(index, len(tasks), len(clients))
        for number in mine:
            await api.process(tasks[number], list(chains[number]))
        for number in mine:
            state = await api.wait(tasks[number], POLL_S)
            bad += state != f"{STEPS[chains[number][-1]].state}_done"
            last = max(last, await api.completed(tasks[number]))
        return last, bad

    began = datetime.now(UTC)
    results = await asyncio.gather(*(client(index) for index in range(len(clients))))
    return (max(last for last, _ in results) - began).total_seconds(), sum(bad for _, bad in results)


async def sleeping(_: argparse.Namespace) -> bool:
    """Throughput of a mix of chains against the number of workers whose step sleeps."""
    others = sleepers(dict.fromkeys(("inspect", "simple_transients", "subtraction"), 0.0), slots=2)
    rates, lost = {}, 0
    for count in COUNTS:
        async with site(sleepers({"photometry": SLEEP_S}, count), others) as running, session() as opened:
            (api,) = await Api.users(running.state, opened, 1)
            chains = list(islice(cycle(MIX), PER_WORKER * count))
            tasks = [await api.create() for _ in chains]
            seconds, bad = await ended([api], tasks, chains)
        rates[count], lost = len(chains) / seconds, lost + bad
        print(
            f"photometry sleeps {SLEEP_S} s, {count} workers {rates[count]:11.2f} chains/s: "
            f"{rates[count] / (count * rates[1]):.1%} of {count} times one worker (wanted: 95 %), "
            f"{rates[count] * SLEEP_S / count:.1%} of what the sleep allows"
        )
    return not lost


async def real(_: argparse.Namespace) -> bool:
    """Throughput of a real step against the number of its workers."""
    rates, lost = {}, 0
    with tempfile.TemporaryDirectory(prefix="stdweb-scale-") as folder:
        image = simulate(Path(folder), size=SIZE_PIX).image
        for count in COUNTS:
            async with site(Workers("services.inspect", count)) as running, session() as opened:
                (api,) = await Api.users(running.state, opened, 1)
                tasks = [await upload(api, image) for _ in range(PER_WORKER)]
                before = running.cost()
                seconds, bad = await ended([api], tasks, [("inspect",)] * len(tasks))
                cost = running.cost().since(before)
            rates[count], lost = len(tasks) / seconds, lost + bad
            print(
                f"inspect of {SIZE_PIX} x {SIZE_PIX} pixels, {count} workers {rates[count]:8.2f} steps/s: "
                f"{rates[count] / rates[1]:.2f} x one worker"
            )
            print(f"    {told(cost, len(tasks))}")
    return not lost


async def upload(api: Api, image: Path) -> int:
    """Make a task with an image."""
    with image.open("rb") as file:
        async with api.post(f"{api.base}/tasks/", data={"file": file}) as answer:
            answer.raise_for_status()
            return int((await answer.json())["id"])


async def burst(args: argparse.Namespace) -> bool:
    """Drain very many steps that were asked for at once."""
    steps = args.chains * len(BURST)
    services = [sleepers({step: 0.0}, slots=args.slots) for step in BURST]
    async with site(*services) as running, session() as opened:
        clients = await Api.users(running.state, opened, CLIENTS)
        tasks = [await clients[number % CLIENTS].create() for number in range(args.chains)]
        before = running.cost()
        work = asyncio.create_task(ended(clients, tasks, [BURST] * args.chains))
        latency_ms = []
        for task in cycle(range(args.chains)):
            if work.done():
                break
            began = time.perf_counter()
            await clients[task % CLIENTS].state(tasks[task])
            latency_ms.append(1e3 * (time.perf_counter() - began))
            await asyncio.sleep(0.05)
        seconds, bad = await work
        cost = running.cost().since(before)
    print(
        f"burst of {steps} steps in {args.chains} chains of {CLIENTS} users: {steps / seconds:.1f} steps/s with the "
        f"embedded store (wanted: 100), {bad} not done (wanted: 0); state p50 {statistics.median(latency_ms):.1f} ms, "
        f"p99 {quantile(latency_ms, 0.99):.1f} ms (wanted: below 100)"
    )
    print(f"    {told(cost, steps)}")
    return not bad


PARTS = {"ceiling": ceiling, "sleeping": sleeping, "real": real, "burst": burst}


async def measure(args: argparse.Namespace) -> int:
    """Run the parts; the exit code is 0 when nothing was lost."""
    good = True
    for name in args.only:
        good &= await PARTS[name](args)
    return 0 if good else 1


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=3000, help="of the ceiling")
    parser.add_argument("--chains", type=int, default=2500, help="of the burst, four steps each")
    parser.add_argument("--workers", type=int, default=2, help="of the ceiling; the burst has one for each step")
    parser.add_argument("--slots", type=int, default=2, help="of each of them")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    return asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
