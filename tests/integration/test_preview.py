"""The preview service beside a real RabbitMQ, asked by the gateway's own code."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from astropy.io import fits

from services.gateway.domain.errors import Invalid, Missing, Unavailable
from services.gateway.domain.previews import Previews, Source
from services.gateway.model import User
from shared.broker import Broker, BrokerUnavailable, NoAnswer, connect
from shared.contracts.preview import PreviewOptions
from shared.contracts.rpc import PREVIEW_RENDER, Refusal, Request
from shared.taskdir import TasksRoot
from shared.taskdir.folder import INPUTS
from shared.worker.procfs import children_of
from tests.support.previews import pixels, scene, write
from tests.support.rabbit import TestBroker, free_ports
from tests.support.service import alive, until

REQUEST = Request(at=datetime(2026, 1, 1, tzinfo=UTC))
QUICK = PREVIEW_RENDER.model_copy(update={"time_limit_s": 0.5})


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Broker]:
    broker = connect(url, "test", settle_s=5)
    await broker.ready()
    yield broker
    await broker.close()


async def echo(body: bytes) -> Refusal:
    return Refusal(code="echo", error=Request.model_validate_json(body).request_id)


async def test_questions_find_their_answers_and_nobody_waits_for_no_one(rabbit: TestBroker) -> None:
    url = rabbit.new_url()
    async with connected(url) as asker, connected(url) as answerer:
        with pytest.raises(NoAnswer, match=r"within 0\.5 s"):
            await asker.call(QUICK, REQUEST)
        async with asyncio.timeout(30):  # what nobody waits for goes away by itself
            while (await asker.depth(PREVIEW_RENDER.queue)).messages:
                await asyncio.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="nobody serves"):
            await asker.call(PREVIEW_RENDER, REQUEST)
        assert time.monotonic() - began < 10
        await answerer.serve(PREVIEW_RENDER, echo, prefetch=4)
        requests = [REQUEST.model_copy(update={"request_id": str(number)}) for number in range(100)]
        replies = await asyncio.gather(*(asker.call(PREVIEW_RENDER, request) for request in requests))
        assert [Refusal.model_validate_json(reply).error for reply in replies] == [one.request_id for one in requests]


async def test_a_request_whose_answerer_dies_is_answered_by_another(rabbit: TestBroker) -> None:
    url = rabbit.new_url()
    taken = asyncio.Event()

    async def hang(_: bytes) -> Refusal:
        taken.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with connected(url) as asker, connected(url) as second:
        async with connected(url) as first:
            await first.serve(PREVIEW_RENDER, hang, prefetch=1)
            asking = asyncio.create_task(asker.call(PREVIEW_RENDER, REQUEST))
            await asyncio.wait_for(taken.wait(), 30)
            await second.serve(PREVIEW_RENDER, echo, prefetch=1)
        assert b'"echo"' in await asyncio.wait_for(asking, 30)


async def test_after_a_restart_of_the_broker_questions_are_answered_again(rabbit: TestBroker) -> None:
    url = rabbit.new_url()
    async with connected(url) as asker, connected(url) as answerer:
        await answerer.serve(PREVIEW_RENDER, echo, prefetch=1)
        await asker.call(PREVIEW_RENDER, REQUEST)
        await asyncio.to_thread(rabbit.kill)
        with pytest.raises((BrokerUnavailable, NoAnswer)):
            await asker.call(QUICK, REQUEST)
        await asyncio.to_thread(rabbit.restart)

        async def again() -> bool:
            with contextlib.suppress(BrokerUnavailable, NoAnswer):
                return b"echo" in await asker.call(QUICK, REQUEST)
            await asyncio.sleep(0.05)
            return False

        async with asyncio.timeout(60):
            while not await again():
                pass


class Running:
    """The service, and the gateway's side of it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        settings = {
            "amqp_url": url,
            "data_dir": folder / "volume",
            "slots": 2,
            "health_port": self.port,
            "preview_time_s": 20,
        }
        self._env = {**os.environ, **{f"STDWEB_{name.upper()}": str(value) for name, value in settings.items()}}
        self.root = TasksRoot(folder / "volume")
        self.root.task(1).create()
        self.inputs = self.root.task(1).path / INPUTS
        write(self.inputs / "image.fits", fits.PrimaryHDU(scene(300, 400)))
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "service.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "services.preview"],
                env=self._env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return (self.folder / "service.log").read_text()

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with session.get(f"http://127.0.0.1:{self.port}{path}") as response:
                    return response.status, await response.text()
        return 0, ""

    async def ready(self) -> None:
        async with asyncio.timeout(60):
            while (await self.get("/readyz"))[0] != 200:
                assert self.process.poll() is None, self.log()
                await asyncio.sleep(0.05)

    def source(self, name: str = "image.fits") -> Source:
        return Source(1, name, (self.inputs / name).stat())


@pytest.fixture
def running(rabbit: TestBroker, tmp_path: Path) -> Iterator[Running]:
    service = Running(rabbit.new_url(), tmp_path)
    yield service
    with contextlib.suppress(ProcessLookupError):
        os.killpg(service.process.pid, signal.SIGKILL)
    service.process.wait()


async def drawn(previews: Previews, source: Source, options: PreviewOptions, request_id: str) -> tuple[str, bytes]:
    key, picture = await previews.picture(source, options, User("ann"), request_id)
    with picture:
        return key, picture.read()


async def test_the_service_draws_refuses_and_ends(running: Running) -> None:
    url = running._env["STDWEB_AMQP_URL"]
    await running.ready()
    async with connected(url) as broker:
        previews = Previews(running.root, running.folder / "volume", broker)
        key, picture = await drawn(previews, running.source(), PreviewOptions(width=64), "request-1")
        assert pixels(picture).shape == (48, 64, 4)
        assert (await drawn(previews, running.source(), PreviewOptions(width=64), ""))[0] == key
        with pytest.raises(Invalid, match="colour map") as caught:
            await drawn(previews, running.source(), PreviewOptions(cmap="none"), "")
        assert list(caught.value.errors) == ["cmap"]
        with pytest.raises(Missing):
            await drawn(previews, Source(1, "gone.fits", running.source().image), PreviewOptions(), "")
        options = [PreviewOptions(width=width) for width in range(100, 140)]
        made = await asyncio.gather(*(drawn(previews, running.source(), one, "") for one in options))
        assert len({one for one, _ in made}) == 40
        status, metrics = await running.get("/metrics")
        assert status == 200
        counts = [line for line in metrics.splitlines() if line.startswith("stdweb_render_seconds_count")]
        assert 'stdweb_render_seconds_count{kind="preview",outcome="made"} 41.0' in counts
        assert '"request": "request-1"' in running.log()
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.process.wait, 30) == 0
        # what is in the cache needs no service
        assert (await drawn(previews, running.source(), PreviewOptions(width=64), ""))[1] == picture
        with pytest.raises(Unavailable):
            await drawn(previews, running.source(), PreviewOptions(width=65), "")


async def test_nothing_outlives_the_service_and_the_next_one_goes_on(running: Running) -> None:
    await running.ready()
    pids = children_of(running.process.pid)
    assert pids
    running.process.kill()
    running.process.wait()
    await until(lambda: not any(alive(pid) for pid in pids))
    running.process = running.start()
    await running.ready()
    async with connected(running._env["STDWEB_AMQP_URL"]) as broker:
        previews = Previews(running.root, running.folder / "volume", broker)
        await drawn(previews, running.source(), PreviewOptions(), "")
