"""Previews and cutouts through the REST API; the preview service's own code answers, in this process."""

import asyncio
import json
import os
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from astropy.io import fits
from pydantic import ValidationError
from stdpipe.cutouts import get_cutout, write_cutout

from services.preview.files import Volume
from services.preview.renderer import answer
from shared.contracts.preview import (
    CACHE_FOLDER,
    PICTURE_REPLY,
    PICTURE_REQUEST,
    PictureMade,
    picture_key,
    picture_name,
)
from shared.contracts.rpc import PREVIEW_RENDER, Refusal
from tests.support.gateway import Client, Gateway, gateway
from tests.support.previews import COLUMNS, ROWS, pixels, scene, write

ANN = {"groups": ["survey"]}


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(mongo_url, tmp_path / "volume") as running:
        yield running


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("kind", ["link", "pipe"])
async def test_what_a_service_plants_in_the_cache_is_not_read(
    site: Gateway, ann: Client, task: int, tmp_path: Path, kind: str
) -> None:
    """It has the volume, but not what else the gateway could read, such as its environment."""
    path = f"/tasks/{task}/preview/image.fits?width=16"
    assert (await get(ann, path))[0].status == 200
    (picture,) = (site.data_dir / CACHE_FOLDER).glob("*.jpg")
    picture.unlink()
    secret = tmp_path / "secret"
    secret.write_text("password")
    if kind == "link":
        picture.symlink_to(secret)
    else:
        os.mkfifo(picture)
    response, body = await get(ann, path)
    assert (response.status, b"password" in body) == (503, False)


@pytest.mark.parametrize("key", ["../../../secret", "/etc/secret", "a" * 39, "A" * 40, "a" * 40 + "\n"])
def test_a_picture_has_no_other_name_than_a_digest(key: str) -> None:
    with pytest.raises(ValidationError):
        PICTURE_REPLY.validate_json(json.dumps({"kind": "made", "key": key, "size": 1}))


class Service:
    """Answers as the preview service does, and counts."""

    def __init__(self, site: Gateway) -> None:
        self.volume = Volume(site.data_dir)
        self.asked = 0
        self.refuse: Refusal | None = None
        self.users: set[str] = set()

    async def __call__(self, body: bytes) -> PictureMade | Refusal:
        self.asked += 1
        request = PICTURE_REQUEST.validate_json(body)
        self.users.add(request.user)
        return self.refuse or await asyncio.to_thread(answer, self.volume, request)


@pytest.fixture
async def service(site: Gateway) -> Service:
    made = Service(site)
    await site.broker.serve(PREVIEW_RENDER, made, prefetch=4)
    return made


async def get(client: Client, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
    async with client.session.get(client.url + path, headers=headers) as response:
        return response, await response.read()


@pytest.fixture
async def task(ann: Client, tmp_path: Path) -> int:
    return await ann.new_task(write(tmp_path / "image.fits", fits.PrimaryHDU(scene())).read_bytes())


async def put(client: Client, task: int, name: str, content: bytes) -> None:
    form = aiohttp.FormData()
    form.add_field("file", content, filename="x")
    await client.ok("POST", f"/tasks/{task}/files/{name}", data=form)


async def test_a_preview_has_a_tag_and_is_drawn_once(ann: Client, task: int, service: Service) -> None:
    path = f"/tasks/{task}/preview/image.fits?width=90"
    response, body = await get(ann, path)
    assert (response.status, response.content_type) == (200, "image/jpeg")
    assert pixels(body).shape == (60, 90, 4)
    again, same = await get(ann, path, Accept="text/html")
    assert (again.status, again.headers["ETag"], same) == (200, response.headers["ETag"], body)
    unchanged, nothing = await get(ann, path, **{"If-None-Match": response.headers["ETag"]})
    assert (unchanged.status, nothing) == (304, b"")
    async with ann.session.head(ann.url + path) as head:
        assert (head.status, int(head.headers["Content-Length"])) == (200, len(body))
    assert (service.asked, service.users) == (1, {"ann"})
    png, picture = await get(ann, f"{path}&format=png&cmap=gray&unknown=1")
    assert png.content_type == "image/png"
    assert png.headers["ETag"] != response.headers["ETag"]
    assert pixels(picture)[52, 15].min() > 230  # the bright block, below left


async def test_a_mask_or_an_image_that_is_replaced_gives_another_picture(
    ann: Client, task: int, service: Service, tmp_path: Path
) -> None:
    path = f"/tasks/{task}/preview/image.fits?format=png&width={COLUMNS}"
    before, _ = await get(ann, path)
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[:10] = 1
    await put(ann, task, "custom_mask.fits", write(tmp_path / "m.fits", fits.PrimaryHDU(mask)).read_bytes())
    masked, picture = await get(ann, path, **{"If-None-Match": before.headers["ETag"]})
    assert masked.status == 200
    assert np.array_equal(pixels(picture)[..., 3] == 0, mask[::-1] > 0)
    await put(ann, task, "image.fits", write(tmp_path / "i.fits", fits.PrimaryHDU(scene() + 1)).read_bytes())
    replaced, _ = await get(ann, path, **{"If-None-Match": masked.headers["ETag"]})
    assert replaced.status == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("width=15", "width"),
        ("width=8193", "width"),
        ("width=", "width"),
        ("format=gif", "format"),
        ("quality=0", "quality"),
        ("cmap=nothing", "cmap"),
        ("cmap=%00", "cmap"),
        ("stretch=power", "stretch"),
        ("qmin=x", "qmin"),
        ("qmin=60&qmax=40", "qmax"),
        ("r0=-1", "r0"),
        ("ext=5", "ext"),
        ("ext=a", "ext"),
    ],
)
async def test_bad_values_are_named(query: str, field: str, ann: Client, task: int, service: Service) -> None:
    status, content = await ann.call("GET", f"/tasks/{task}/preview/image.fits?{query}")
    assert (status, list(content["errors"])) == (400, [field])
    assert content["detail"]


async def test_what_is_no_image_is_a_bad_request_and_what_is_no_file_is_missing(
    ann: Client, task: int, service: Service
) -> None:
    await put(ann, task, "notes.txt", b"hello")
    for what in ("preview", "cutout"):
        status, content = await ann.call("GET", f"/tasks/{task}/{what}/notes.txt")
        assert (status, list(content["errors"])) == (400, ["path"])
        for path in ("none.fits", "%2e%2e/image.fits", ".inputs/image.fits", "image.fits%00", "a//b"):
            assert (await ann.call("GET", f"/tasks/{task}/{what}/{path}"))[0] == 404
        assert (await ann.call("GET", f"/tasks/{task + 1}/{what}/image.fits"))[0] == 404


async def test_cutouts(ann: Client, task: int, service: Service, tmp_path: Path) -> None:
    image = scene(51, 51)
    made = get_cutout(image, {"x": 25.0, "y": 25.0}, 10, mask=image > 120)
    write_cutout(made, str(tmp_path / "a.cutout"))
    await put(ann, task, "mine.cutout", (tmp_path / "a.cutout").read_bytes())
    response, body = await get(ann, f"/tasks/{task}/cutout/mine.cutout?width=204&format=png")
    assert (response.status, response.content_type) == (200, "image/png")
    assert pixels(body).shape == (118, 204, 4)
    status, content = await ann.call("GET", f"/tasks/{task}/cutout/image.fits")
    assert (status, list(content["errors"])) == (400, ["path"])


async def test_only_those_who_may_see_the_task(site: Gateway, ann: Client, task: int, service: Service) -> None:
    path = f"/tasks/{task}/preview/image.fits"
    async with site.client("bob", groups=["survey"]) as bob, site.client("eve", is_staff=True) as eve:
        assert (await bob.call("GET", path))[0] == 403
        assert (await get(eve, path))[0].status == 200
        await ann.ok("PATCH", f"/tasks/{task}/", json={"groups": ["survey"]})
        assert (await get(bob, path))[0].status == 200
    async with aiohttp.ClientSession() as nobody, nobody.get(site.url + path) as response:
        assert response.status == 401


async def test_without_the_service_or_the_broker_it_may_work_later(site: Gateway, ann: Client, task: int) -> None:
    for away in (False, True):
        site.broker.away = away
        async with ann.session.get(f"{ann.url}/tasks/{task}/preview/image.fits") as response:
            assert (response.status, "Retry-After" in response.headers) == (503, True)
            assert "preview" in (await response.json())["detail"]
    site.broker.away = False


async def test_a_fault_of_the_service_is_told_as_one(ann: Client, task: int, service: Service) -> None:
    service.refuse = Refusal(code="internal", error="secret", status="fault")
    status, content = await ann.call("GET", f"/tasks/{task}/preview/image.fits")
    assert status == 500
    assert "secret" not in content["detail"]
    service.refuse = Refusal(code="disk_full", error="There is no space.", status="later")
    assert (await ann.call("GET", f"/tasks/{task}/preview/image.fits"))[0] == 503


async def test_who_asks_for_too_many_at_once_is_told_to_ask_again(ann: Client, task: int, service: Service) -> None:
    service.refuse = Refusal(code="busy", error="Your pictures are being drawn.", status="busy")
    async with ann.session.get(f"{ann.url}/tasks/{task}/preview/image.fits") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "5")
        assert (await response.json())["detail"] == "Your pictures are being drawn."


async def test_a_large_picture_takes_no_memory(site: Gateway, ann: Client, task: int) -> None:
    size = 48 * 2**20

    async def huge(body: bytes) -> PictureMade:
        request = PICTURE_REQUEST.validate_json(body)
        with Volume(site.data_dir).open(request.task_id, request.path) as (image, _):
            key = picture_key(request.options, image.status, None)
        with (site.data_dir / CACHE_FOLDER / picture_name(key, request.options)).open("wb") as file:
            file.truncate(size)
        return PictureMade(key=key, size=size)

    await site.broker.serve(PREVIEW_RENDER, huge, prefetch=1)
    got = 0
    tracemalloc.start()
    try:
        async with ann.session.get(f"{ann.url}/tasks/{task}/preview/image.fits") as response:
            assert (response.status, response.content_type) == (200, "image/jpeg")
            assert response.headers["X-Request-ID"]
            async for piece in response.content.iter_chunked(2**16):
                got += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got == size
    assert peak < 12 * 2**20
    async with ann.session.head(f"{ann.url}/tasks/{task}/preview/image.fits") as response:
        assert (response.status, int(response.headers["Content-Length"])) == (200, size)
