"""Fair shares of the renderers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from astropy.io import fits

from services.preview.files import Volume
from services.preview.service import Service
from services.preview.turns import MAX_HELD, Crowded, Turns
from shared.contracts.preview import PICTURE_REQUEST, PictureMade
from shared.contracts.rpc import Refusal
from shared.settings import PreviewSettings
from shared.taskdir.folder import INPUTS
from tests.support.previews import ask, scene, write


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Give the service, without a broker, with two renderers; one user may have one of them."""
    task = Volume(tmp_path)._tasks.task(1)
    task.create()
    write(task.path / INPUTS / "image.fits", fits.PrimaryHDU(scene()))
    settings = PreviewSettings(data_dir=tmp_path, amqp_url="amqp://nowhere/", slots=1)
    made = Service(settings, str(tmp_path))
    made._pool.start()
    await asyncio.wait_for(made._pool.warm.wait(), 60)
    yield made
    await made._pool.close()


async def answered(service: Service, user: str, width: int) -> PictureMade | Refusal:
    request = ask(1, "image.fits", width=width, format="png").model_copy(update={"user": user})
    return await service.answer(PICTURE_REQUEST.dump_json(request))


async def test_slow_pictures_of_one_user_do_not_delay_anothers_quick_one(service: Service) -> None:
    slow = [asyncio.create_task(answered(service, "ann", width)) for width in range(8000, 8000 + MAX_HELD)]
    await asyncio.sleep(0)  # all of them have asked
    refused = await answered(service, "ann", 7999)
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.status) == ("busy", "busy")
    quick = asyncio.create_task(answered(service, "bob", 80))
    done, _ = await asyncio.wait([quick, *slow], timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert done == {quick}
    assert isinstance(quick.result(), PictureMade)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


class Drawing:
    """Draws until told to end, and notes who has a turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.at_work: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, *names: str) -> None:
        """Ask for turns; the first letter of a name is the user."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._draw(name))
            await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await asyncio.gather(*(self._tasks[name] for name in names))

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)

    async def _draw(self, name: str) -> None:
        async with self.turns.turn(name[0]):
            self.at_work.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.at_work.remove(name)


async def settled(drawing: Drawing) -> list[str]:
    for _ in range(3):
        await asyncio.sleep(0)
    return drawing.at_work


async def test_who_has_the_fewest_goes_first() -> None:
    drawing = Drawing(Turns(3, 2, 60))
    await drawing.begin("a1", "a2", "a3", "b1", "b2", "c1")
    assert await settled(drawing) == ["a1", "a2", "b1"]
    await drawing.end("a1")
    assert await settled(drawing) == ["a2", "b1", "c1"]
    await drawing.end("b1")
    assert await settled(drawing) == ["a2", "c1", "b2"]
    await drawing.cancel("a3")  # nothing is left that might have a turn
    await drawing.end("c1")
    assert await settled(drawing) == ["a2", "b2"]
    await drawing.cancel("a2")
    await drawing.begin("b3", "b4")
    assert await settled(drawing) == ["b2", "b3"]
    await drawing.end("b2", "b3", "b4")
    assert (drawing.at_work, drawing.turns._free, dict(drawing.turns._drawing)) == ([], 3, {})


async def test_who_gets_no_turn_in_time_learns_whose_pictures_are_in_the_way() -> None:
    drawing = Drawing(Turns(2, 1, 0.02))
    await drawing.begin("a1", "b1")
    for user, own in (("a", True), ("c", False)):
        with pytest.raises(Crowded) as caught:
            async with drawing.turns.turn(user):
                pass
        assert caught.value.own is own
    await drawing.end("a1", "b1")
    async with drawing.turns.turn("a"):
        assert drawing.turns._free == 1
