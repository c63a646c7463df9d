"""Small requests, listings and downloads: time of an answer, and the processor time of the gateway's process alone.

Starts a stack of its own. Processor time counts user and system of all threads of the gateway, and nothing of client,
store or broker.
`--only state --seconds 60` keeps the load on one kind of request, for a profiler.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Queue, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import aiohttp
import psutil
from bench_plumbing import quantile, stack

from services.gateway.admin import Admin
from services.gateway.model import Task, now
from services.gateway.storage import Store, Tasks
from stdweb.settings import StackState
from stdweb.stack.supervisor import Report

USER = "bench"
FIRST = 1_000_000  # ids far above those that the stack gives
DOWNLOAD = 64 * 2**20
WANTED_CPU_MS = 1.2


def gateway_process(state: StackState) -> psutil.Process:
    """Find the gateway of the stack."""
    report = Report.read(state.folder)
    assert report is not None
    return psutil.Process(report.components["gateway"].pid)


def cpu_s(process: psutil.Process) -> float:
    """Processor time that a process has used, seconds: user and system, all threads."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def fill(mongo_url: str, count: int) -> str:
    """Make a user with many tasks, straight in the store. Returns a token."""
    async with await Admin.connect(mongo_url) as admin:
        await admin.add_user(USER)
        token = await admin.create_token(USER)
    store = Store(mongo_url)
    tasks, at = Tasks(store), now()
    config = {"filter": "R", "sn": 5, "gain": 1.0, "target": "M 31", "cat_name": "ps1"}
    computed = {"inspect": {"fwhm": 3.1, "time": "2026-11-23 01:02:03", "ra": 10.68, "dec": 41.27, "radius": 0.2}}
    for index in range(count):
        await tasks.insert(
            Task(
                id=FIRST + index,
                original_name=f"m31_{index}.fits",
                title=f"M 31, exposure {index}",
                user=USER,
                groups=(),
                created=at,
                modified=at,
                state="inspect_done",
                asked=config,
                computed=computed,
            )
        )
    store.close()
    return token


async def load(urls: list[str], token: str, process: psutil.Process, seconds: float) -> tuple[list[float], float]:
    """Let a client ask for each address again and again, on a connection of its own that it keeps.

    Returns
    -------
    Times of the answers, seconds, and the processor time of the gateway for one, seconds.
    """
    times: list[float] = []
    headers = {"Authorization": f"Token {token}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=len(urls)), headers=headers) as session:

        async def client(url: str, until: float) -> None:
            while (began := time.perf_counter()) < until:
                async with session.get(url) as answer:
                    await answer.read()
                    assert answer.status == 200, answer.status
                times.append(time.perf_counter() - began)

        await asyncio.gather(*(client(url, time.perf_counter() + seconds / 5) for url in urls))  # warm up
        times.clear()
        before = cpu_s(process)
        await asyncio.gather(*(client(url, time.perf_counter() + seconds) for url in urls))
        used = cpu_s(process) - before
    return times, used / len(times)


def _serve(path: Path, ports: "Queue[int]") -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports.put(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            with connection, path.open("rb") as file:
                connection.recv(4096)
                connection.sendfile(file)


@contextmanager
def plain_server(path: Path) -> Iterator[int]:
    """Let a process send a file over loopback to whoever connects, by sendfile and nothing else; gives the port."""
    spawn = get_context("spawn")
    ports: Queue[int] = spawn.Queue()
    process = spawn.Process(target=_serve, args=(path, ports), daemon=True)
    process.start()
    try:
        yield ports.get(timeout=30)
    finally:
        process.terminate()
        process.join()


def drain(port: int, request: bytes, least: int) -> float:
    """Send a request and read at least so many bytes. Returns the seconds that it took."""
    buffer = bytearray(2**20)
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        got = 0
        while got < least:
            count = connection.recv_into(buffer)
            assert count, "the answer ended early"
            got += count
    return time.perf_counter() - began


async def downloads(state: StackState, token: str, process: psutil.Process, count: int) -> None:
    """Compare downloads with the same bytes from a server that does nothing else."""
    content = os.urandom(2**20) * (DOWNLOAD // 2**20)
    where = urlsplit(state.base_url)
    headers = {"Authorization": f"Token {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{state.base_url}/tasks/", json={"original_name": "large"}) as answer:
            task = (await answer.json())["id"]
        form = aiohttp.FormData()
        form.add_field("file", content, filename="large.bin")
        async with session.post(f"{state.base_url}/tasks/{task}/files/large.bin", data=form) as answer:
            answer.raise_for_status()
    request = (
        f"GET {where.path}/tasks/{task}/files/large.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: Token {token}\r\n\r\n"
    ).encode()
    with TemporaryDirectory(prefix="stdweb-bench-") as folder:
        path = Path(folder) / "large.bin"
        path.write_bytes(content)
        plain, ours, used = [], [], 0.0
        with plain_server(path) as port:
            for _ in range(count):
                plain.append(await asyncio.to_thread(drain, port, b"x", DOWNLOAD))
                before = cpu_s(process)
                ours.append(await asyncio.to_thread(drain, where.port or 80, request, DOWNLOAD))
                used += cpu_s(process) - before
    rates = [DOWNLOAD / 1e6 / statistics.median(times) for times in (ours, plain)]
    print(
        f"download of 64 MB    {rates[0]:8.0f} MB/s, {rates[0] / rates[1]:.0%} of a plain server's {rates[1]:.0f} MB/s "
        f"(wanted: at least 60 %); gateway {1e3 * used / count:.1f} ms of CPU"
    )


async def run(state: StackState, args: argparse.Namespace) -> bool:
    """Measure, print, and tell whether polling costs as little as wanted."""
    token = await fill(state.mongo_url, args.tasks)
    process = gateway_process(state)
    paths = {
        "state": "/tasks/{}/state/",
        "task": "/tasks/{}/",
        f"20 of {args.tasks:,} tasks": "/tasks/?limit=20",
        f"all {args.tasks:,} tasks": "/tasks/",
    }
    if args.only:
        print(f"gateway: process {process.pid}", flush=True)
    good = True
    for name, path in paths.items():
        if args.only and name != args.only:
            continue
        clients = 1 if "tasks" in name else args.clients
        urls = [state.base_url + path.format(FIRST + number) for number in range(clients)]  # a task of its own each
        times, cpu = await load(urls, token, process, args.seconds)
        wanted = name in {"state", "task"}
        good &= not wanted or 1e3 * cpu <= WANTED_CPU_MS
        print(
            f"{name:<20} gateway {1e3 * cpu:8.2f} ms of CPU{' (wanted: at most 1.2)' if wanted else ''}; "
            f"p50 {1e3 * statistics.median(times):.1f} ms, p99 {1e3 * quantile(times, 0.99):.1f} ms "
            f"with {clients} clients, {len(times) / args.seconds:.0f}/s",
            flush=True,
        )
    if not args.only:
        await downloads(state, token, process, args.downloads)
    return good


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5, help="load of each kind of request")
    parser.add_argument("--downloads", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=10_000, help="of one user")
    parser.add_argument("--only", help="one kind of small request, for a profiler: state, task, …")
    args = parser.parse_args()
    with stack() as state:
        good = asyncio.run(run(state, args))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
