"""Questions that go to the store as one."""

import asyncio

import pytest

from services.gateway.storage.together import Together


class Documents:
    """Answers when it is let to, and keeps the questions."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.open = asyncio.Event()
        self.broken = False

    async def __call__(self, ids: list[int]) -> dict[int, str]:
        self.asked.append(sorted(ids))
        await self.open.wait()
        if self.broken:
            raise OSError("away")
        return {number: f"document {number}" for number in ids if number < 100}


async def begun(together: Together[str], *ids: int) -> list[asyncio.Task[str | None]]:
    tasks = [asyncio.create_task(together.get(number)) for number in ids]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_what_is_asked_while_another_question_is_under_way_is_one_question() -> None:
    documents = Documents()
    together = Together(documents)
    first = await begun(together, 1)
    rest = await begun(together, 2, 3, 1, 100, 2)
    assert documents.asked == [[1]]
    documents.open.set()
    assert await asyncio.gather(*first, *rest) == [
        "document 1",
        "document 2",
        "document 3",
        "document 1",  # again: it may have changed since
        None,
        "document 2",
    ]
    assert documents.asked == [[1], [1, 2, 3, 100]]
    assert await together.get(5) == "document 5"
    assert documents.asked[2:] == [[5]]


async def test_a_failure_is_everybodys_and_the_next_question_is_asked_anew() -> None:
    documents = Documents()
    together = Together(documents)
    gone, kept = await begun(together, 1, 2)
    waiting = await begun(together, 3)
    gone.cancel()  # the others still want to know
    documents.broken = True
    documents.open.set()
    for one in (kept, *waiting):
        with pytest.raises(OSError, match="away"):
            await one
    with pytest.raises(asyncio.CancelledError):
        await gone
    documents.broken = False
    assert await together.get(4) == "document 4"
