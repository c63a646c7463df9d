"""The way of a step from request to result, without its science: dispatch, many chains at once, large uploads.

Starts a stack of its own. The baselines, measured in the same run: what the broker alone needs for one confirmed
publication and its delivery, on the same node; and the rate at which one client alone updates tasks in the same store,
which tells how fast the machine was, too.
"""

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import aiohttp
import pymongo

from services.gateway.admin import Admin
from shared.broker import Delivery, connect
from shared.broker.topology import CONTROL_EXCHANGE, EVENTS_EXCHANGE, control_route
from shared.contracts.messages import Cancel, StepDone
from stdweb.settings import DEMO_USER, StackState
from stdweb.stack.supervisor import Report

ROOT = Path(__file__).parents[1]
CHUNK = b"\0" * 2**20


@contextmanager
def stack() -> Iterator[StackState]:
    """Run a stack in a folder and on a port of its own."""
    root = Path(tempfile.mkdtemp(prefix="stdweb-bench-"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    env = os.environ | {"STDWEB_PORT": str(port), "PYTHONPATH": str(ROOT), "STDWEB_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "stdweb.stack"]
    try:
        subprocess.run([*command, "up"], cwd=root, env=env, check=True, stdout=subprocess.DEVNULL)
        yield StackState.started(root / ".stdweb")
    finally:
        subprocess.run([*command, "down"], cwd=root, env=env, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(root, ignore_errors=True)


def quantile(values: list[float], q: float) -> float:
    """Give the value below which a fraction q of the values lies."""
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


class Api:
    """A client of the stack."""

    def __init__(self, state: StackState, session: aiohttp.ClientSession, token: str) -> None:
        self.base = state.base_url
        headers = {"Authorization": f"Token {token}"}
        self.get = partial(session.get, headers=headers)
        self.post = partial(session.post, headers=headers)

    @classmethod
    async def login(cls, state: StackState, session: aiohttp.ClientSession) -> Self:
        """Make a client of the demo user."""
        form = {"username": DEMO_USER, "password": state.demo_password}
        async with session.post(f"{state.base_url}/auth/token/", data=form) as answer:
            answer.raise_for_status()
            return cls(state, session, (await answer.json())["token"])

    @classmethod
    async def users(cls, state: StackState, session: aiohttp.ClientSession, count: int) -> list[Self]:
        """Make clients of so many new users."""
        async with await Admin.connect(state.mongo_url) as admin:
            names = [f"bench-{number}" for number in range(count)]
            for name in names:
                await admin.add_user(name, None)
            return [cls(state, session, await admin.create_token(name)) for name in names]

    async def create(self) -> int:
        """Make a task without an image."""
        async with self.post(f"{self.base}/tasks/", json={"original_name": "bench"}) as answer:
            answer.raise_for_status()
            return int((await answer.json())["id"])

    async def process(self, task: int, steps: list[str]) -> float:
        """Start a chain; returns the wall-clock time of the answer, seconds."""
        async with self.post(f"{self.base}/tasks/{task}/process/", json={"steps": steps}) as answer:
            at = time.time()
            answer.raise_for_status()
            return at

    async def state(self, task: int) -> str:
        """Read the state of a task."""
        async with self.get(f"{self.base}/tasks/{task}/state/") as answer:
            answer.raise_for_status()
            return str((await answer.json())["state"])

    async def completed(self, task: int) -> datetime:
        """Read when the last run of a task ended."""
        async with self.get(f"{self.base}/tasks/{task}/") as answer:
            answer.raise_for_status()
            return datetime.fromisoformat((await answer.json())["completed"])

    async def wait(self, task: int, poll_s: float) -> str:
        """Poll until a task is no longer running."""
        while "running" in (state := await self.state(task)):
            await asyncio.sleep(poll_s)
        return state


async def broker_alone(state: StackState, count: int) -> float:
    """Median time from publishing a message to its delivery, seconds."""
    broker = connect(state.amqp_url, "bench", settle_s=20)
    arrived: asyncio.Queue[float] = asyncio.Queue()

    async def take(_: Delivery) -> None:
        arrived.put_nowait(time.perf_counter())

    await broker.ready()
    await broker.listen(CONTROL_EXCHANGE, [""], take)
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        await broker.publish(
            control_route(), Cancel(task_id=0, run_id="bench", at=datetime.now(UTC)), message_id="bench"
        )
        times.append(await arrived.get() - begin)
    await broker.close()
    return statistics.median(times)


async def dispatch(state: StackState, api: Api, count: int) -> list[float]:
    """Times from the answer of `process` to the child running, seconds; the commit is in them."""
    broker = connect(state.amqp_url, "bench", settle_s=20)
    started: dict[int, asyncio.Future[float]] = {}

    async def take(delivery: Delivery) -> None:
        report = StepDone.model_validate_json(delivery.body)
        if report.task_id in started and not started[report.task_id].done():  # a report may come twice
            started[report.task_id].set_result(report.at.timestamp() - report.seconds)

    await broker.ready()
    await broker.listen(EVENTS_EXCHANGE, ["done"], take)
    times = []
    for _ in range(count):
        task = await api.create()
        started[task] = asyncio.get_running_loop().create_future()
        answered = await api.process(task, ["cleanup"])
        times.append(await asyncio.wait_for(started[task], 60) - answered)
        await api.wait(task, 0.02)
        await asyncio.sleep(0.1)  # the pool has its next child ready, as for a user who comes by now and then
    await broker.close()
    return times


def store_alone(state: StackState, count: int) -> float:
    """Updates per second of documents like tasks, by compare-and-set, one after the other."""
    with pymongo.MongoClient[dict[str, Any]](state.mongo_url) as client:
        documents = client["bench"]["tasks"]
        for keys in (["user", "state", "_id"], ["work", "_id"]):
            documents.create_index(keys)
        run = {"id": "r" * 32, "steps": [{"id": "s" * 32, "name": "cleanup", "status": "started"}]}
        for number in range(count):
            task = {"_id": number, "user": "bench", "state": "uploaded", "work": "d|uploaded", "rev": 0, "run": run}
            documents.insert_one(task)
        begin = time.perf_counter()
        for number in range(count):
            new = {"state": "running", "work": "r|bench|cleanup", "rev": 1, "run": run}
            documents.update_one({"_id": number, "rev": 0}, {"$set": new})
        return count / (time.perf_counter() - begin)


async def chains(clients: list[Api], count: int, steps: list[str]) -> tuple[float, dict[str, int]]:
    """Let clients submit chains at once; returns chains per second, and how many ended in which state.

    The time is that from the first request to the last task's `completed`.
    """
    tasks = [[await api.create() for _ in range(count // len(clients))] for api in clients]
    ended: Counter[str] = Counter()

    async def client(api: Api, mine: list[int]) -> datetime:
        for task in mine:
            await api.process(task, steps)
        for task in mine:
            ended[await api.wait(task, 1.0)] += 1
        return max([await api.completed(task) for task in mine])

    begin = datetime.now(UTC)
    last = max(await asyncio.gather(*(client(*work) for work in zip(clients, tasks, strict=True))))
    return sum(map(len, tasks)) / (last - begin).total_seconds(), ended


async def _zeros(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(CHUNK)):
        yield CHUNK


async def uploads(state: StackState, api: Api, count: int, size: int) -> tuple[float, float, float]:
    """Upload large files at once; returns the gateway's peak RSS in MB, p50 and p99 of `state` in ms meanwhile."""
    report = Report.read(state.folder)
    assert report is not None
    pid = report.components["gateway"].pid
    task = await api.create()
    rss, latency = [], []

    async def send(index: int) -> None:
        with aiohttp.MultipartWriter("form-data") as form:
            part = form.append(_zeros(size))
            url = f"{api.base}/tasks/{task}/files/large{index}.bin"
            part.set_content_disposition("form-data", name="file", filename=f"large{index}.bin")
            async with api.post(url, data=form) as answer:
                answer.raise_for_status()

    sending = asyncio.gather(*(send(index) for index in range(count)))
    while not sending.done():
        begin = time.perf_counter()
        await api.state(task)
        latency.append(time.perf_counter() - begin)
        status = Path(f"/proc/{pid}/status").read_text()
        rss.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        await asyncio.sleep(0.02)
    await sending
    return max(rss), 1e3 * statistics.median(latency), 1e3 * quantile(latency, 0.99)


async def run(state: StackState, args: argparse.Namespace) -> bool:
    """Measure everything, print it, and tell whether every chain ended done."""
    timeout = aiohttp.ClientTimeout(total=900)
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        api = await Api.login(state, session)
        baseline = await broker_alone(state, 200)
        times = await dispatch(state, api, args.dispatches)
        median = statistics.median(times)
        print(f"broker alone, publish to delivery     {1e3 * baseline:8.2f} ms median")
        print(
            f"answer of process to child running    {1e3 * median:8.2f} ms median, "
            f"{1e3 * quantile(times, 0.9):.2f} ms p90: {median / baseline:.1f} x the broker alone (wanted: below 25 ms)"
        )
        updates = await asyncio.to_thread(store_alone, state, 300)
        print(f"store alone, one client               {updates:8.1f} updates/s")
        good = True
        users = await Api.users(state, session, args.clients)
        for whose, clients in (("one user", [api] * args.clients), ("a user each", users)):
            rate, ended = await chains(clients, args.chains, ["cleanup"])
            good &= set(ended) == {"cleanup_done"}
            print(
                f"{args.chains} chains, {args.clients} clients, {whose:11} {rate:8.1f} chains/s: "
                f"{rate / updates:.2f} x that (wanted: at least 60/s); ended: {dict(ended)}"
            )
        peak, p50, p99 = await uploads(state, api, 4, args.upload_mb * 2**20)
        print(
            f"4 uploads of {args.upload_mb} MB at once           gateway {peak:8.1f} MB (wanted: below 150); "
            f"state p50 {p50:.1f} ms, p99 {p99:.1f} ms (wanted: below 100 ms)"
        )
    return good


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dispatches", type=int, default=100)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--chains", type=int, default=2000)
    parser.add_argument("--upload-mb", type=int, default=1024)
    args = parser.parse_args()
    with stack() as state:
        good = asyncio.run(run(state, args))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
