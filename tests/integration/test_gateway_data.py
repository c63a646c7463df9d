"""The shared data directory."""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image
from yarl import URL

from services.preview.files import Volume
from services.preview.renderer import answer
from shared.contracts.preview import PICTURE_REQUEST, PictureMade
from shared.contracts.rpc import PREVIEW_RENDER, Refusal
from tests.support.gateway import Client, Gateway, gateway


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.fits").write_bytes(b"secret")
    data = tmp_path / "volume" / "data"
    (data / "night" / "preview").mkdir(parents=True)
    (data / "night" / "m31.fits").write_bytes(b"0123456789")
    (data / "night" / "preview" / "small.fits").write_bytes(b"small")
    (data / "a.fits").write_bytes(b"a")
    (data / "zoo").mkdir()
    (data / ".hidden").write_bytes(b"secret")
    (data / "link.fits").symlink_to(secret / "key.fits")
    (data / "inner.fits").symlink_to(data / "a.fits")
    (data / "out").symlink_to(secret)
    os.mkfifo(data / "pipe.fits")
    async with gateway(mongo_url, tmp_path / "volume") as running:
        yield running


async def test_folders_first(site: Gateway, ann: Client) -> None:
    rows = await ann.ok("GET", "/files/")
    assert [(row["name"], row["path"], row["size"], row["is_dir"]) for row in rows] == [
        ("night", "night", 0, True),
        ("zoo", "zoo", 0, True),
        ("a.fits", "a.fits", 1, False),
    ]
    assert all(row["modified"].endswith("Z") for row in rows)
    rows = await ann.ok("GET", "/files/night/")
    assert [(row["path"], row["is_dir"]) for row in rows] == [("night/preview", True), ("night/m31.fits", False)]
    assert await ann.ok("GET", "/files/night") == rows
    assert await ann.ok("GET", "/files/zoo") == []


async def test_downloads(site: Gateway, ann: Client) -> None:
    async with ann.session.get(f"{ann.url}/files/night/m31.fits") as response:
        assert await response.read() == b"0123456789"
        assert response.headers["Content-Disposition"].startswith('attachment; filename="m31.fits"')
        tag = response.headers["ETag"]
    async with ann.session.get(f"{ann.url}/files/night/m31.fits", headers={"Range": "bytes=2-4"}) as response:
        assert (response.status, await response.read()) == (206, b"234")
    async with ann.session.get(f"{ann.url}/files/night/m31.fits", headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    async with ann.session.head(f"{ann.url}/files/night/m31.fits") as response:
        assert response.headers["Content-Length"] == "10"
    # a folder named preview is a folder
    assert [row["name"] for row in await ann.ok("GET", "/files/night/preview/")] == ["small.fits"]
    assert await ann.ok("GET", "/files/night/preview/small.fits") == "small"


@pytest.mark.parametrize(
    "path",
    [
        "none.fits",
        "link.fits",
        "inner.fits",
        "out/",
        "out/key.fits",
        "out/key.fits/preview/",
        "link.fits/preview/",
        "pipe.fits",
        "pipe.fits/preview/",
        ".hidden",
        ".hidden/preview/",
        "none.fits/preview/",
        "../tasks",
        "%2e%2e/%2e%2e/secret/key.fits",
        "..%2f..%2fsecret%2fkey.fits",
        "night/..%2f..%2f..%2fsecret%2fkey.fits",
        "night/%2e%2e/a.fits",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "a.fits%00",
        "a.fits%00.png",
        "%5c..%5ca.fits",
        "night//m31.fits",
        "night/./m31.fits",
        "a.fits/",
        "a.fits/b",
        "%ff%fe",
        "x" * 300,
        "y/" * 30,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_no_path_leaves_the_directory(ann: Client, path: str, method: str) -> None:
    async with ann.session.request(method, URL(f"{ann.url}/files/{path}", encoded=True)) as response:
        assert b"secret" not in await response.read()
        assert response.status in ({200} if path == "a.fits/" else {404}), path


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_it_is_read_only(site: Gateway, ann: Client, method: str) -> None:
    for path in ("", "a.fits", "new.fits", "night/"):
        assert (await ann.call(method, f"/files/{path}", data={"file": b"x"}))[0] == 405
    assert (site.data_dir / "data" / "a.fits").read_bytes() == b"a"


async def test_previews_are_asked_for(ann: Client) -> None:
    """No preview service runs here: what matters is that it is asked, and that options are checked before."""
    for path in ("night/m31.fits/preview/", "night/m31.fits/preview"):
        status, answer = await ann.call("GET", f"/files/{path}?width=100")
        assert status == 503
        assert "preview service" in answer["detail"]
        status, answer = await ann.call("GET", f"/files/{path}?width=1")
        assert (status, list(answer["errors"])) == (400, ["width"])


async def test_a_picture_of_an_image(site: Gateway, ann: Client) -> None:
    """The preview service's own code draws, in this process; a file of a folder, named like the route itself."""
    pixels = np.zeros((20, 40), np.float32)
    pixels[:, :20] = 100
    for name in ("night/frame.fits", "night/preview/small.fits"):
        fits.PrimaryHDU(pixels).writeto(site.data_dir / "data" / name, overwrite=True)
    volume = Volume(site.data_dir)

    async def draw(body: bytes) -> PictureMade | Refusal:
        return await asyncio.to_thread(answer, volume, PICTURE_REQUEST.validate_json(body))

    await site.broker.serve(PREVIEW_RENDER, draw, prefetch=2)
    for path in ("night/frame.fits/preview/", "night/frame.fits/preview", "night/preview/small.fits/preview/"):
        async with ann.session.get(f"{ann.url}/files/{path}?width=80&format=png&cmap=gray") as response:
            assert (response.status, response.content_type) == (200, "image/png"), path
            picture = np.asarray(Image.open(io.BytesIO(await response.read())).convert("L"))
            tag = response.headers["ETag"]
        assert picture.shape == (40, 80)
        assert picture[:, 5].mean() > 200
        assert picture[:, 75].mean() < 50
        async with ann.session.get(
            f"{ann.url}/files/{path}?width=80&format=png&cmap=gray", headers={"If-None-Match": tag}
        ) as response:
            assert response.status == 304
    status, refused = await ann.call("GET", "/files/a.fits/preview/")
    assert status == 400
    assert "FITS" in refused["detail"]


async def test_a_site_without_one(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path / "empty") as site, site.client("bob") as bob:
        assert await bob.ok("GET", "/files/") == []
        assert (await bob.call("GET", "/files/a.fits"))[0] == 404


async def test_one_extension_of_a_file(site: Gateway, ann: Client) -> None:
    made = await ann.ok("POST", "/tasks/", json={"local_file": "night/m31.fits", "ext": "2", "config": {"sn": 4}})
    assert (made["original_name"], made["config"]) == ("m31.fits", {"ext": "2", "sn": 4})
    assert await ann.ok("GET", f"/tasks/{made['id']}/files/image.fits") == "0123456789"
    plain = await ann.ok("POST", "/tasks/", json={"local_file": "night/m31.fits", "ext": ""})
    assert plain["config"] == {}
    for ext in (-1, 1000, "one", "1.5", [1], True):
        status, answer = await ann.call("POST", "/tasks/", json={"local_file": "a.fits", "ext": ext})
        assert (status, list(answer["errors"])) == (400, ["ext"]), ext
    status, answer = await ann.call("POST", "/tasks/", json={"original_name": "a", "ext": 1})
    assert (status, list(answer["errors"])) == (400, ["ext"])
    assert len(await ann.ok("GET", "/tasks/")) == 2
