"""Running the test service, sending it work, and collecting what it says."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from shared.broker import Broker, Delivery, connect, control_route, step_route
from shared.broker.topology import EVENTS_EXCHANGE, REPORTS_QUEUE, topology
from shared.contracts.messages import Cancel, StepDone, StepFailed, StepMessage, StepProgress, StepStarted
from shared.contracts.steps import Step
from shared.taskdir import TaskDir, TasksRoot

from .steps import PROBE, SPECS

REPORT: TypeAdapter[StepStarted | StepDone | StepFailed | StepProgress] = TypeAdapter(
    StepStarted | StepDone | StepFailed | StepProgress
)
DEADLINE_S = 30.0


async def until(condition: Callable[[], Any], within_s: float = DEADLINE_S) -> Any:
    """Wait for a condition; its value is returned."""
    end = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true in time")
        await asyncio.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    """Tell whether a process runs; a dead one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Bench:
    """Plays the gateway for workers of the test service.

    Parameters
    ----------
    url
        A virtual host of its own.
    folder
        For the shared volume and the workers' logs.
    settings
        Further settings of the workers.
    """

    def __init__(self, url: str, folder: Path, **settings: object) -> None:
        self.url = url
        self.folder = folder
        self.root = TasksRoot(folder / "data")
        self.settings = settings
        self.workers: list[subprocess.Popen[bytes]] = []
        self.reports: list[StepStarted | StepDone | StepFailed] = []
        self.ids: list[str] = []
        self.progress: list[StepProgress] = []
        self.seq = 0
        self.broker: Broker

    async def __aenter__(self) -> Self:
        steps = [spec.step for spec in SPECS]
        self.broker = connect(self.url, "bench", settle_s=5, what=topology((0.3, 0.9), steps))
        await self.broker.consume(REPORTS_QUEUE, self._take, prefetch=100)
        await self.broker.listen(EVENTS_EXCHANGE, ["progress.*"], self._hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()
        await self.broker.close()

    async def _take(self, delivery: Delivery) -> None:
        self.reports.append(REPORT.validate_json(delivery.body))
        self.ids.append(delivery.message_id)
        await delivery.ack()

    async def _hear(self, delivery: Delivery) -> None:
        self.progress.append(REPORT.validate_json(delivery.body))

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker."""
        settings = {
            "amqp_url": self.url,
            "data_dir": self.folder / "data",
            "log_format": "json",
            "heartbeat_s": 0.2,
            "lease_s": 1.2,
            "lease_poll_s": 0.3,
            **self.settings,
        }
        own = {f"STDWEB_{name.upper()}": str(value) for name, value in settings.items()}
        with (self.folder / f"worker{len(self.workers)}.log").open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.support.steps"],
                env={**os.environ, **own, **environment},
                stdout=output,
                stderr=output,
            )
        self.workers.append(worker)
        return worker

    def task(self, task_id: int = 1) -> TaskDir:
        """Give a task's folder, made when absent."""
        task = self.root.task(task_id)
        if not task.exists():
            task.create()
        return task

    def message(self, config: dict[str, Any], step: Step = PROBE, task_id: int = 1, run_id: str = "run") -> StepMessage:
        """Make a message, and its task's folder."""
        self.task(task_id)
        self.seq += 1
        return StepMessage(
            task_id=task_id,
            run_id=run_id,
            at=datetime.now(UTC),
            step_id=f"s{self.seq}",
            step=step.name,
            attempt=1,
            seq=self.seq,
            position=1,
            total=1,
            config=config,
        )

    async def send(self, message: StepMessage) -> StepMessage:
        """Publish a message."""
        await self.broker.publish(step_route(message.step), message, message_id=message.step_id)
        return message

    async def ask(self, config: dict[str, Any], step: Step = PROBE, task_id: int = 1) -> StepMessage:
        """Make and publish a message."""
        return await self.send(self.message(config, step, task_id))

    async def cancel(self, message: StepMessage) -> None:
        """Cancel as the gateway does: fence, message."""
        self.task(message.task_id).close(message.run_id)
        cancel = Cancel(task_id=message.task_id, run_id=message.run_id, at=datetime.now(UTC))
        await self.broker.tell(control_route(), cancel)

    def ends(self, message: StepMessage) -> list[StepDone | StepFailed]:
        """List the reports of the step's end."""
        return [
            report
            for report in self.reports
            if report.step_id == message.step_id and isinstance(report, StepDone | StepFailed)
        ]

    async def end_of(self, message: StepMessage, within_s: float = DEADLINE_S) -> StepDone | StepFailed:
        """Wait for the report of the step's end."""
        return (await until(lambda: self.ends(message), within_s))[0]

    def gate(self, name: str = "gate") -> Path:
        """Name a file that opens a waiting step."""
        return self.folder / name

    def pids(self, name: str = "gate") -> list[int]:
        """List the processes that said that they wait at the gate."""
        path = Path(f"{self.gate(name)}.pids")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def logs(self) -> str:
        """Read all workers' logs."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("worker*.log")))
