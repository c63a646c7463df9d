"""Options, names, the cache, and the replies of the process that draws."""

import asyncio
import contextlib
import gzip
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from astropy.io import fits
from pydantic import ValidationError
from stdpipe.cutouts import get_cutout, write_cutout

from services.preview.cache import Cache
from services.preview.core import unpack
from services.preview.files import Volume
from services.preview.pool import Pool
from services.preview.renderer import answer
from shared.contracts.preview import CutoutOptions, CutoutRequest, PictureMade, PreviewOptions, picture_key
from shared.contracts.rpc import Refusal
from shared.taskdir.folder import INPUTS
from tests.support.previews import COLUMNS, ROWS, ask, pixels, scene, write


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """Make a volume with a task 1 that has an image."""
    made = Volume(tmp_path)
    made._tasks.task(1).create()
    (tmp_path / "data" / "deep").mkdir(parents=True)
    write(inputs(made) / "image.fits", fits.PrimaryHDU(scene()))
    return made


def inputs(volume: Volume) -> Path:
    return volume._tasks.task(1).path / INPUTS


def drawn(volume: Volume, *args: object, **options: object) -> bytes:
    reply = answer(volume, ask(*args, **options))
    assert isinstance(reply, PictureMade), reply
    suffix = ".png" if options.get("format") == "png" else ".jpg"
    picture = (volume.cache.folder / f"{reply.key}{suffix}").read_bytes()
    assert len(picture) == reply.size
    return picture


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"width": "15"}, "width"),
        ({"width": "8193"}, "width"),
        ({"width": "8.5"}, "width"),
        ({"width": ""}, "width"),
        ({"format": "gif"}, "format"),
        ({"quality": "0"}, "quality"),
        ({"quality": "101"}, "quality"),
        ({"ext": "-2"}, "ext"),
        ({"stretch": "cubic"}, "stretch"),
        ({"cmap": "../x"}, "cmap"),
        ({"qmin": "-1"}, "qmin"),
        ({"qmin": "nan"}, "qmin"),
        ({"qmax": "101"}, "qmax"),
        ({"qmin": "99.9"}, "qmax"),
        ({"qmin": "50", "qmax": "50"}, "qmax"),
        ({"r0": "-1"}, "r0"),
        ({"r0": "inf"}, "r0"),
    ],
)
def test_bad_options_are_named(options: dict[str, str], wrong: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PreviewOptions.model_validate(options)
    assert [error["loc"] for error in caught.value.errors()] == [(wrong,)]


def test_defaults_are_those_of_the_api() -> None:
    assert PreviewOptions().model_dump() == {
        "width": 800,
        "format": "jpeg",
        "quality": 80,
        "ext": -1,
        "cmap": "Blues_r",
        "stretch": "linear",
        "qmin": 0.5,
        "qmax": 99.5,
        "r0": 0,
    }


def test_the_name_of_a_picture_changes_with_whatever_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    status = path.stat()
    keys = {picture_key(PreviewOptions(**{name: value}), status, None) for name, value in (("width", 801), ("ext", 0))}
    keys |= {picture_key(options, status, None) for options in (PreviewOptions(), CutoutOptions())}
    keys.add(picture_key(PreviewOptions(), status, status))
    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    keys.add(picture_key(PreviewOptions(), path.stat(), None))
    assert len(keys) == 6
    os.link(path, tmp_path / "b")  # as the flat view does
    assert picture_key(PreviewOptions(), (tmp_path / "b").stat(), None) in keys
    for options in (PreviewOptions(), PreviewOptions(r0="0", qmin="0", qmax="100")):  # the same after a journey
        sent = type(options).model_validate_json(options.model_dump_json())
        assert picture_key(sent, status, None) == picture_key(options, status, None)
    assert len({picture_key(PreviewOptions(format="png", quality=quality), status, None) for quality in (1, 2)}) == 1


def test_the_second_time_it_comes_from_the_cache(volume: Volume) -> None:
    first = answer(volume, ask(1, "image.fits"))
    (picture,) = volume.cache.folder.iterdir()
    made = picture.stat().st_mtime_ns
    assert answer(volume, ask(1, "image.fits")) == first
    assert picture.stat().st_mtime_ns == made
    write(inputs(volume) / "image.fits", fits.PrimaryHDU(scene() * 2))
    assert answer(volume, ask(1, "image.fits")) != first


def test_the_mask_of_a_task_hides_pixels_of_its_image_only(volume: Volume) -> None:
    mask = np.zeros((ROWS, COLUMNS), np.int16)
    mask[3:9, 4:14] = 1
    write(inputs(volume) / "custom_mask.fits", fits.PrimaryHDU(), fits.CompImageHDU(mask))
    write(inputs(volume) / "other.fits", fits.PrimaryHDU(scene()))
    seen = pixels(drawn(volume, 1, "image.fits", format="png", width=COLUMNS))
    assert np.array_equal(seen[::-1, :, 3] == 0, mask > 0)
    assert pixels(drawn(volume, 1, "other.fits", format="png"))[..., 3].min() == 255
    write(inputs(volume) / "custom_mask.fits", fits.PrimaryHDU(mask[1:]))
    assert pixels(drawn(volume, 1, "image.fits", format="png"))[..., 3].min() == 255
    (inputs(volume) / "custom_mask.fits").write_bytes(b"no image")
    reply = answer(volume, ask(1, "image.fits"))
    assert isinstance(reply, Refusal)
    assert (reply.status, reply.parameter) == ("bad", "path")
    assert "custom_mask.fits" in reply.error


def test_gzipped_files_are_shown_and_bombs_are_not(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = drawn(volume, 1, "image.fits", format="png")
    path = inputs(volume) / "image.fits"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert drawn(volume, 1, "image.fits", format="png") == plain
    monkeypatch.setattr(unpack, "MAX_UNPACKED_BYTES", 2**20)
    (inputs(volume) / "bomb.fits").write_bytes(gzip.compress(b"SIMPLE" + b"\0" * 2**22))
    before = set(volume.cache.folder.iterdir())
    reply = answer(volume, ask(1, "bomb.fits"))
    assert isinstance(reply, Refusal)
    assert reply.code == "too_large"
    assert set(volume.cache.folder.iterdir()) == before


def test_nothing_is_unpacked_onto_a_disk_that_is_nearly_full(volume: Volume, tmp_path: Path) -> None:
    path = inputs(volume) / "image.fits"
    (inputs(volume) / "gzipped.fits").write_bytes(gzip.compress(path.read_bytes()))
    write(inputs(volume) / "tiles.fits", fits.PrimaryHDU(), fits.CompImageHDU(scene()))
    full = Volume(tmp_path, reserve_bytes=2**62)
    for name in ("gzipped.fits", "tiles.fits"):
        reply = answer(full, ask(1, name))
        assert isinstance(reply, Refusal)
        assert (reply.status, reply.code) == ("later", "disk_full")
    assert [*volume.cache.folder.iterdir()] == []
    assert isinstance(answer(full, ask(1, "image.fits")), PictureMade)  # is not unpacked


@pytest.mark.parametrize(
    "path", ["none.fits", "../1/image.fits", "/etc/passwd", ".inputs/image.fits", "a/b", "x" * 300]
)
def test_what_is_no_file_of_the_task_is_missing(path: str, volume: Volume) -> None:
    for task_id in (1, 2, None):
        reply = answer(volume, ask(task_id, path))
        assert isinstance(reply, Refusal)
        assert reply.status == "missing"


def test_files_of_the_shared_data_directory(volume: Volume) -> None:
    shared = volume.cache.folder.parents[1] / "data"
    write(shared / "deep" / "a.fits", fits.PrimaryHDU(scene()))
    (shared / "deep" / "link.fits").symlink_to("a.fits")
    assert drawn(volume, None, "deep/a.fits") == drawn(volume, 1, "image.fits")
    for path in ("deep/link.fits", "deep"):
        reply = answer(volume, ask(None, path))
        assert isinstance(reply, Refusal)
        assert reply.status == "missing"


def cutout(**options: object) -> CutoutRequest:
    made = ask(1, "targets/a.cutout")
    return CutoutRequest(
        at=made.at, task_id=1, path=made.path, options=CutoutOptions.model_validate({"format": "png", **options})
    )


def test_a_cutout_shows_its_planes_side_by_side(volume: Volume) -> None:
    image = scene(101, 101)
    image[50, 50] = 5000
    mask = np.zeros(image.shape, bool)
    mask[:, 20:] = True
    facts = {"x": 50.0, "y": 50.0, "name": "a"}
    made = get_cutout(image, facts, 20, mask=mask, diff=image - 100, template=image.T.copy(), name="a")
    (inputs(volume) / "targets").mkdir()
    write_cutout(made, str(inputs(volume) / "targets" / "a.cutout"))
    reply = answer(volume, cutout(width=803))
    assert isinstance(reply, PictureMade)
    seen = pixels((volume.cache.folder / f"{reply.key}.png").read_bytes())
    assert seen.shape[1] == 803
    panel = (803 - 3 * 4) / 4
    assert seen.shape[0] - 18 == pytest.approx(panel, abs=1)
    clear = (seen[..., 3] == 0).all(axis=0)
    assert clear.sum() == 3 * 4
    middle = 18 + round(panel / 2)
    for number in range(3):  # the star is in the middle of image, template and diff
        assert seen[middle, round(number * (panel + 4) + panel / 2), :3].min() > 200
    assert (seen[:18, :, :3].max(axis=-1) < 64).any()  # the names
    small = answer(volume, cutout(width=16))
    assert isinstance(small, PictureMade)
    assert pixels((volume.cache.folder / f"{small.key}.png").read_bytes()).shape == (4, 16, 4)


def test_an_image_is_no_cutout(volume: Volume) -> None:
    (inputs(volume) / "targets").mkdir()
    write(inputs(volume) / "targets" / "a.cutout", fits.PrimaryHDU(scene()), fits.ImageHDU(scene(), name="SCI"))
    reply = answer(volume, cutout())
    assert isinstance(reply, Refusal)
    assert (reply.code, reply.parameter) == ("no_cutout", "path")


def test_the_cache_forgets_the_oldest_and_what_nobody_finished(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(10):
        path = cache.path(f"{number}.jpg", lambda file: file.write(b"x" * 100))
        os.utime(path, (number, number))
    with pytest.raises(ZeroDivisionError):
        cache.path("bad.jpg", lambda _: 1 / 0)
    for name, age in ((".old", 0), (".new", 2**31)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    assert cache.sweep(1000) == 1
    assert cache.sweep(500) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new", "6.jpg", "7.jpg", "8.jpg", "9.jpg"]


@contextlib.asynccontextmanager
async def one_renderer(folder: Path, limit_s: str) -> AsyncIterator[Pool]:
    pool = Pool(1, (str(folder), str(2**30), limit_s), {"MPLCONFIGDIR": str(folder / "mpl")})
    pool.start()
    await asyncio.wait_for(pool.warm.wait(), 60)
    yield pool
    await pool.close()


async def replied(pool: Pool, *args: object, **options: object) -> dict[str, object]:
    return dict(json.loads(await asyncio.wait_for(pool.ask(ask(*args, **options).model_dump_json().encode()), 60)))


def renderers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "services.preview.renderer" in child.cmdline()]


async def test_a_pool_that_closes_leaves_no_renderer(volume: Volume, tmp_path: Path) -> None:
    async with one_renderer(tmp_path, "20") as pool:
        gone = asyncio.create_task(replied(pool, 1, "image.fits", width=8000, format="png"))
        await asyncio.sleep(0)
        gone.cancel()
        at_work = asyncio.create_task(replied(pool, 1, "image.fits", width=7999, format="png"))
        await asyncio.sleep(0.1)
    assert renderers() == []
    assert (await at_work)["kind"] in {"made", "refused"}
    assert gone.cancelled()


async def test_a_renderer_outlives_what_needs_too_much_and_is_replaced_when_it_dies(
    volume: Volume, tmp_path: Path
) -> None:
    # tiles of 20,000 × 20,000 pixels are declared in a file of nothing
    path = write(inputs(volume) / "bomb.fits", fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((64, 64), np.int32)))
    content = path.read_bytes()
    for name, value in (("ZNAXIS1", 20000), ("ZNAXIS2", 20000), ("ZTILE1", 20000), ("ZTILE2", 20000)):
        start = content.index(f"{name} ".encode())
        content = content[:start] + f"{name:<8}= {value:>20}".ljust(80).encode() + content[start + 80 :]
    path.write_bytes(content)
    write(inputs(volume) / "narrow.fits", fits.PrimaryHDU(np.zeros((2, 1), np.float32)))
    async with one_renderer(tmp_path, "20") as pool:
        first = await replied(pool, 1, "image.fits")
        assert first["kind"] == "made"
        (renderer,) = renderers()
        for name, width in (("bomb.fits", 800), ("narrow.fits", 8192)):
            refused = await replied(pool, 1, name, width=width)
            assert (refused["kind"], refused["status"], refused["parameter"]) == ("refused", "bad", "path")
        assert renderers() == [renderer]
        renderer.kill()
        while renderer.is_running():
            await asyncio.sleep(0.05)
        assert (await replied(pool, 1, "image.fits", width=801))["kind"] == "made"


async def kill_at_work(killed: set[int]) -> None:
    while True:
        with contextlib.suppress(psutil.Error):
            for renderer in renderers():
                at_work = any(file.path.endswith("image.fits") for file in renderer.open_files())
                if at_work and renderer.pid not in killed:
                    renderer.kill()
                    killed.add(renderer.pid)
                    return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("deaths", "end"), [(1, "made"), (2, "refused")])
async def test_a_picture_whose_renderer_is_killed_is_begun_again_once(
    volume: Volume, tmp_path: Path, deaths: int, end: str
) -> None:
    async with one_renderer(tmp_path, "20") as pool:
        asking = asyncio.create_task(replied(pool, 1, "image.fits", width=4000 - deaths, format="png"))
        killed: set[int] = set()
        for _ in range(deaths):
            await asyncio.wait_for(kill_at_work(killed), 60)
        assert (await asking)["kind"] == end


async def test_what_takes_too_long_is_ended(volume: Volume, tmp_path: Path) -> None:
    async with one_renderer(tmp_path, "0.05") as pool:
        refused = await replied(pool, 1, "image.fits", width=8000, format="png")
        assert (refused["code"], refused["status"], refused["parameter"]) == ("too_slow", "bad", "path")
        assert (await replied(pool, 1, "none.fits"))["status"] == "missing"
