"""A gateway whose edits are answered by the inspect service's own code, in this process."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from astropy.io import fits

from services.gateway import keys
from services.inspect.edits import edit
from shared.contracts.edits import EDIT_REQUEST, IMAGE, ORIGINAL
from shared.contracts.rpc import IMAGE_EDIT, Prepared, Refusal
from shared.errors import StepError
from shared.worker.request import RequestContext
from shared.worker.results import keep_only
from tests.support import fits as files
from tests.support.gateway import Client, Gateway, gateway

QUICK = IMAGE_EDIT.model_copy(update={"time_limit_s": 0.5})


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(mongo_url, tmp_path / "volume") as running:
        yield running


class Service:
    """Answers as the inspect service does; may be told to hold back its work, or only its answer."""

    def __init__(self, site: Gateway) -> None:
        self.root = site.worker.root
        self.asked: list[bytes] = []
        self.answers: list[Prepared | Refusal] = []
        self.work = asyncio.Event()
        self.say = asyncio.Event()
        self.refuse: Refusal | None = None
        for gate in (self.work, self.say):
            gate.set()

    async def __call__(self, body: bytes) -> Prepared | Refusal:
        self.asked.append(body)
        await self.work.wait()
        reply = self.refuse or await asyncio.to_thread(self.prepare, body)
        self.answers.append(reply)
        await self.say.wait()
        return reply

    def prepare(self, body: bytes) -> Prepared | Refusal:
        request = EDIT_REQUEST.validate_json(body)
        name = uuid.uuid4().hex
        work = self.root.incoming(request.source) / name
        try:
            work.mkdir()
            edit(RequestContext(request=request, work=work, task=self.root.task(request.task_id)))
        except (FileNotFoundError, NotADirectoryError):
            return Refusal(code="given_up", error="Too late.", status="later")
        except StepError as error:
            return Refusal(code=error.code, error=error.user_message, parameter=error.details.get("parameter"))
        return Prepared(folder=name, files=keep_only(work, (IMAGE, ORIGINAL)))


@pytest.fixture
async def service(site: Gateway) -> Service:
    made = Service(site)
    await site.broker.serve(IMAGE_EDIT, made, prefetch=2)
    return made


def image(tmp_path: Path, side: int = 64) -> bytes:
    pixels = np.arange(side * side, dtype=np.int16).reshape(side, side)
    return files.write(tmp_path / "made.fits", pixels, files.observation(side)).read_bytes()


@pytest.fixture
async def task(ann: Client, tmp_path: Path) -> int:
    return await ann.new_task(image(tmp_path))


async def download(client: Client, task: int, name: str = IMAGE) -> bytes:
    async with client.session.get(f"{client.url}/tasks/{task}/files/{name}") as response:
        assert response.status == 200, name
        return await response.read()


async def shape(client: Client, task: int) -> tuple[int, ...]:
    content = await download(client, task)
    return tuple(fits.HDUList.fromstring(content)[0].data.shape)


async def names(client: Client, task: int) -> list[str]:
    return [row["name"] for row in await client.ok("GET", f"/tasks/{task}/files/")]


async def upload(client: Client, task: int, content: bytes, name: str = IMAGE) -> tuple[int, Any]:
    form = aiohttp.FormData()
    form.add_field("file", content, filename="x")
    return await client.call("POST", f"/tasks/{task}/files/{name}", data=form)


async def stored(site: Gateway, task: int) -> Any:
    return await site.app[keys.COORDINATOR].tasks.get(task)


# ---- what edits do
