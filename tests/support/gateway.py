"""The gateway in this process, with the real store and the broker in memory, and a worker that plays the services."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from pymongo import monitoring

from services.gateway import keys
from services.gateway.admin import Admin
from services.gateway.app import build_app
from services.gateway.connections import Runner
from services.gateway.storage import Store
from shared.broker import Delivery
from shared.broker.memory import MemoryBroker
from shared.broker.topology import CONTROL_EXCHANGE, report_route
from shared.contracts.messages import FileInfo, StepDone, StepFailed, StepMessage, StepStarted
from shared.contracts.steps import STEPS
from shared.settings import GatewaySettings
from shared.taskdir import AttemptKey, Commit, Fenced, Manifest, NotFound, TasksRoot, claim

SLOTS = 32  # of each service, as the gateway sees it


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 10) -> Any:
    """Wait until a condition gives something true, and return it."""
    async with asyncio.timeout(timeout_s):
        while not (value := await condition()):
            await asyncio.sleep(0.01)
        return value


class WriteCounter(monitoring.CommandListener):
    """Counts commands that write to tasks and runs."""

    def __init__(self) -> None:
        self.writes: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in {"insert", "update", "delete", "findAndModify"}:
            collection = event.command[event.command_name]
            if collection in {"tasks", "runs"}:
                self.writes.append(f"{event.command_name} {collection}")

    def succeeded(self, event: object) -> None:
        pass

    def failed(self, event: object) -> None:
        pass


@dataclass
class FakeWorker:
    """Plays all step services: claims, commits, reports, as the contract says. Steps in `hold` are not worked on."""

    broker: MemoryBroker
    root: TasksRoot
    hold: set[str] = field(default_factory=set)
    fail: dict[str, str] = field(default_factory=dict)
    computed: dict[str, dict[str, Any]] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    seen: list[StepMessage] = field(default_factory=list)
    slow_s: float = 0

    async def start(self) -> None:
        for step in STEPS.values():
            for _ in range(SLOTS):
                await self.broker.consume(step.queue, self.handle, prefetch=1000)

    async def handle(self, delivery: Delivery) -> None:
        message = StepMessage.model_validate_json(delivery.body)
        self.seen.append(message)
        if message.step in self.hold:
            return
        if self.slow_s:
            await self.report(self.started(message))
            await asyncio.sleep(self.slow_s)
        with contextlib.suppress(Fenced, NotFound):
            report = await asyncio.to_thread(self.work, message)
            if report is not None:
                await self.report(report)
        await delivery.ack()

    def started(self, message: StepMessage) -> StepStarted:
        return StepStarted(**self._ids(message))

    def _ids(self, message: StepMessage) -> dict[str, Any]:
        return {
            "task_id": message.task_id,
            "run_id": message.run_id,
            "at": message.at,
            "step_id": message.step_id,
            "step": message.step,
            "attempt": message.attempt,
            "worker": "fake",
        }

    def work(self, message: StepMessage) -> StepDone | StepFailed | None:
        folder = self.root.task(message.task_id)
        try:
            attempt = claim(folder, AttemptKey(message.run_id, message.step, message.attempt))
        except Fenced:
            return None
        row = STEPS[message.step]
        error = self.fail.get(message.step)
        repeats = self.repeats.get(message.step, 0)
        names = [*([row.log] if row.log else []), *(row.files[:1] if not error else ())]
        for name in names:
            (attempt.work / name).write_text(f"{message.step} {message.attempt}\n")
        files = tuple(FileInfo(name=name, size=(attempt.work / name).stat().st_size) for name in names)
        computed = {} if error else self.computed.get(message.step, {})
        manifest = Manifest(
            run_id=message.run_id,
            step_id=message.step_id,
            step=message.step,
            attempt=message.attempt,
            owner=attempt.owner,
            outcome="failed" if error else "done",
            error=error or "",
            computed=computed,
            files=files,
            repeats=repeats,
        )
        attempt.commit(Commit(message.seq, row.rank, message.step), manifest)
        if error:
            return StepFailed(**self._ids(message), code="test", error=error, files=files, repeats=repeats)
        return StepDone(**self._ids(message), computed=computed, files=files, seconds=0.1, repeats=repeats)

    async def report(self, report: StepStarted | StepDone | StepFailed) -> None:
        await self.broker.publish(report_route(report), report, message_id=f"{report.step_id}-{report.kind}")


@dataclass
class Gateway:
    """A running gateway."""

    url: str
    app: web.Application
    broker: MemoryBroker
    worker: FakeWorker
    admin: Admin
    writes: WriteCounter
    data_dir: Path

    @property
    def store(self) -> Store:
        return self.app[keys.STORE]

    def cancels(self) -> int:
        return sum(delivery.route.exchange == CONTROL_EXCHANGE for delivery in self.broker.told)

    @contextlib.asynccontextmanager
    async def client(self, name: str, **user: Any) -> AsyncIterator["Client"]:
        await self.admin.add_user(name, None, **user)
        token = await self.admin.create_token(name)
        async with aiohttp.ClientSession(headers={"Authorization": f"Token {token}"}) as session:
            yield Client(self.url, session)


@dataclass
class Client:
    """Calls the API as one user."""

    url: str
    session: aiohttp.ClientSession

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, **options) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json and text else text

    async def ok(self, method: str, path: str, **options: Any) -> Any:
        status, content = await self.call(method, path, **options)
        assert 200 <= status < 300, (status, content)
        return content

    async def new_task(self, content: bytes = b"SIMPLE", name: str = "observation.fits", **fields: str) -> int:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("file", content, filename=name, content_type="application/fits")
        for key, value in fields.items():
            form.add_field(key, value)
        return int((await self.ok("POST", "/tasks/", data=form))["id"])

    async def ended(self, task_id: int) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            task = await self.ok("GET", f"/tasks/{task_id}/")
            return task if "running" not in task["state"] else None

        return dict(await until(look))


@contextlib.asynccontextmanager
async def gateway(mongo_url: str, data_dir: Path, *, services: bool = True, **settings: Any) -> AsyncIterator[Gateway]:
    """Run a gateway on a free port, with or without services."""
    made = GatewaySettings(
        amqp_url="amqp://unused",
        mongo_url=mongo_url,
        data_dir=data_dir,
        **{"reserve_bytes": 0, "reconcile_every_s": 0.1, **settings},
    )
    broker = MemoryBroker()
    writes = WriteCounter()
    app = build_app(made, Store(mongo_url, (writes,)), broker)
    worker = FakeWorker(broker, app[keys.ROOT])
    if services:
        await worker.start()
    runner = Runner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with await Admin.connect(mongo_url) as admin:
            yield Gateway(f"http://127.0.0.1:{port}/api", app, broker, worker, admin, writes, data_dir)
    finally:
        await runner.cleanup()
