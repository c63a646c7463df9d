"""The inspect service beside a real RabbitMQ, asked for edits by the gateway's own code."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from astropy.io import fits

from services.gateway.domain import images as changes
from services.gateway.domain.edits import Edits
from services.gateway.domain.errors import Invalid, Unavailable
from services.gateway.domain.images import Images
from services.gateway.model import Task, now
from services.gateway.storage import Store, Tasks
from shared.broker import Broker, connect, step_route
from shared.contracts import states
from shared.contracts.edits import IMAGE, ORIGINAL, CropOptions, DestripeOptions, EditOptions, FixOptions
from shared.contracts.messages import StepMessage
from shared.contracts.rpc import IMAGE_EDIT
from shared.taskdir import TasksRoot
from shared.worker.procfs import children_of
from tests.support import fits as files
from tests.support.rabbit import TestBroker, free_ports
from tests.support.service import alive, until

SIDE = 2600
"""An image that takes seconds to destripe, so that there is time to kill somebody."""


class Site:
    """The service, and the gateway's side of it."""

    def __init__(self, url: str, folder: Path, mongo_url: str) -> None:
        self.folder = folder
        self.url = url
        self.root = TasksRoot(folder / "volume")
        self.store = Store(mongo_url)
        self.tasks = Tasks(self.store)
        self.images = Images(self.tasks, self.root)
        self.broker: Broker
        self.processes: list[subprocess.Popen[bytes]] = []

    def spawn(self, port: int) -> subprocess.Popen[bytes]:
        settings = {"amqp_url": self.url, "data_dir": self.folder / "volume", "slots": 1, "health_port": port}
        own = {f"STDWEB_{name.upper()}": str(value) for name, value in settings.items()}
        with (self.folder / "service.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.inspect"],
                env={**os.environ, **own},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    async def start(self) -> None:
        """Start a service, and wait until it takes requests; it is `process` from then on."""
        (port,) = free_ports(1)
        process = self.spawn(port)

        async def status() -> int:
            async with aiohttp.ClientSession() as session:
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                        return response.status
            return 0

        async with asyncio.timeout(120):
            while await status() != 200:
                assert process.poll() is None, self.log()
                await asyncio.sleep(0.1)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.processes[-1]

    def end(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self) -> str:
        return (self.folder / "service.log").read_text()

    async def task(self, content: Path) -> Task:
        """Make a task with an image."""
        task_id = await self.tasks.next_id()
        folder = self.root.task(task_id)
        folder.create()
        upload = self.root.incoming()
        os.link(content, upload)
        changes.commit_upload(folder, self.root.incoming(), upload, 1, uuid.uuid4().hex)
        at = now()
        task = Task(task_id, "a.fits", "", "ann", (), at, at, states.UPLOADED, seq=1)
        await self.tasks.insert(task)
        return task

    async def edit(self, task: Task, options: EditOptions, time_limit_s: float = 120) -> None:
        rpc = IMAGE_EDIT.model_copy(update={"time_limit_s": time_limit_s})
        await Edits(self.root, self.images, self.broker, rpc).edit(task, options, "request-1")

    def shape(self, task: Task) -> tuple[int, ...]:
        path = self.root.task(task.id).find(IMAGE)
        assert path is not None
        return tuple(fits.getdata(path).shape)

    async def at_work(self, after: int = 0) -> int:
        """Wait for a child, another one than `after`, to work on an edit; gives its process."""

        def find() -> int:
            for server in children_of(self.process.pid):
                for child in children_of(server):
                    with contextlib.suppress(OSError):
                        if child != after and b"image.edit" in Path(f"/proc/{child}/cmdline").read_bytes():
                            return child
            return 0

        return int(await until(find))

    async def unchanged(self, task: Task) -> None:
        folder = self.root.task(task.id)
        seen = await self.tasks.get(task.id)
        assert seen is not None
        assert (seen.pending, folder.find(ORIGINAL), [one.seq for one in folder.commits()]) == (None, None, [1])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(1).normal(1000, 10, (SIDE, SIDE)).astype(np.float32)
    return files.write(tmp_path_factory.mktemp("large") / IMAGE, pixels, files.observation(SIDE))


@pytest.fixture
async def site(rabbit: TestBroker, tmp_path: Path, mongo_url: str) -> AsyncIterator[Site]:
    made = Site(rabbit.new_url(), tmp_path, mongo_url)
    await made.store.prepare()
    made.broker = connect(made.url, "test", settle_s=5)
    try:
        await made.broker.ready()
        await made.start()
        yield made
    finally:
        made.end()
        await made.broker.close()
        made.store.close()


async def test_edits_bad_files_dead_children_and_an_orderly_end(site: Site, large: Path, tmp_path: Path) -> None:
    task = await site.task(files.write(tmp_path / "small.fits", files.field(), files.observation()))
    for options, shape in (
        (CropOptions(x1=6), (256, 250)),
        (FixOptions(), (256, 250)),
        (DestripeOptions(), (256, 250)),
    ):
        await site.edit(task, options)
        assert site.shape(task) == shape
    kept = site.root.task(task.id).find(ORIGINAL)
    assert kept is not None
    assert fits.getdata(kept).shape == (256, 256)
    with pytest.raises(Invalid) as empty:
        await site.edit(task, CropOptions(x1=300))
    assert list(empty.value.errors) == ["x1"]

    for make in (files.not_fits, files.bomb, files.truncated, files.declares_the_absurd, files.damaged_compression):
        make(tmp_path / "bad.fits")
        bad = await site.task(tmp_path / "bad.fits")
        with pytest.raises(Invalid):
            await site.edit(bad, DestripeOptions())
        await site.unchanged(bad)
        (tmp_path / "bad.fits").unlink()

    # a process may be killed for what others need; an image that kills two of them hurts nobody else
    big = await site.task(large)
    editing = asyncio.create_task(site.edit(big, DestripeOptions()))
    os.kill(await site.at_work(), signal.SIGKILL)
    await editing
    assert len(site.root.task(big.id).commits()) == 1
    big = await site.task(large)
    editing = asyncio.create_task(site.edit(big, DestripeOptions()))
    killed = await site.at_work()
    os.kill(killed, signal.SIGKILL)
    os.kill(await site.at_work(after=killed), signal.SIGKILL)
    with pytest.raises(Invalid, match="crashed"):
        await editing
    await site.unchanged(big)

    # a step that works has a slot of its own
    message = StepMessage(
        task_id=big.id,
        run_id="r",
        at=datetime.now(UTC),
        step_id="r-1",
        step="inspect",
        attempt=1,
        seq=2,
        position=1,
        total=1,
        config={},
    )
    await site.broker.publish(step_route("inspect"), message, message_id="r-1")
    await until((site.root.task(big.id).path / ".work" / "r").exists)
    await site.edit(task, CropOptions(x1=50))
    assert site.root.task(big.id).find("mask.fits") is None
    assert site.shape(task) == (256, 200)

    site.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(site.process.wait, 60) == 0, site.log()
    with pytest.raises(Unavailable):
        await site.edit(task, CropOptions(x1=50))
    assert site.shape(task) == (256, 200)


async def test_a_service_that_dies_at_work_is_replaced_and_one_that_stands_still_is_fenced(
    site: Site, large: Path
) -> None:
    task = await site.task(large)
    editing = asyncio.create_task(site.edit(task, DestripeOptions()))
    child, first = await site.at_work(), site.process
    os.kill(child, signal.SIGSTOP)  # it must not be ready before its service is killed
    await site.start()
    first.kill()
    first.wait()
    await editing  # delivered again, to the next one
    assert not alive(child)
    seen = await site.tasks.get(task.id)
    assert seen is not None
    assert (seen.pending, seen.state, seen.seq) == (None, states.UPLOADED, 2)
    assert [commit.seq for commit in site.root.task(task.id).commits()] == [2]
    assert "offsets of rows and columns removed" in str(fits.getheader(site.root.task(task.id).find(IMAGE))["HISTORY"])

    frozen = await site.task(large)
    editing = asyncio.create_task(site.edit(frozen, DestripeOptions(), time_limit_s=6))
    child = await site.at_work()
    for pid in (site.process.pid, child):
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Unavailable):
        await editing
    await site.unchanged(frozen)
    for pid in (child, site.process.pid):
        os.kill(pid, signal.SIGCONT)
    await until(lambda: not _edits(site))
    await site.unchanged(frozen)
    await site.edit(frozen, CropOptions(x1=1))
    assert site.shape(frozen) == (SIDE, SIDE - 1)


def _edits(site: Site) -> list[int]:
    pids = [child for server in children_of(site.process.pid) for child in children_of(server)]
    return [pid for pid in pids if b"image.edit" in Path(f"/proc/{pid}/cmdline").read_bytes()]
