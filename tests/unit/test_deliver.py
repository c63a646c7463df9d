"""Which callbacks are sent when; with a store and a sender that only count."""

import asyncio
from typing import Any

from services.gateway.deliver import Deliverer
from services.gateway.model import now
from services.gateway.storage.callbacks import Claimed, Due


class Owed:
    """What `Callbacks` is to `Deliverer`."""

    def __init__(self, *users: str) -> None:
        self.left = {str(number): Due(str(number), user, now()) for number, user in enumerate(users)}
        self.woken = asyncio.Event()
        self.reads = 0
        self.order: list[str] = []
        self.done = asyncio.Event()

    async def due(self) -> list[Due]:
        self.reads += 1
        return [*self.left.values()]

    async def claim(self, item: Due) -> tuple[Claimed, str] | None:
        if self.left.pop(item.run_id, None) is None:
            return None
        self.order.append(item.user)
        return Claimed(item.run_id, 1, item.user, "http://there.example/", "{}", now(), 1, now()), "secret"

    async def sent(self, claimed: Claimed, status: int | None, problem: str | None) -> None:
        assert (status, problem) == (200, None)
        self.woken.set()  # another run has ended meanwhile
        if not self.left:
            self.done.set()


class Sender:
    """Counts how many posts go on at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def post(self, *_: Any) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return 200


async def test_many_that_are_due_are_read_once_and_sent_fairly() -> None:
    owed, sender = Owed(*["crowd"] * 300, "ann"), Sender()
    async with asyncio.timeout(5):
        running = asyncio.create_task(Deliverer(owed, sender, 60).run())  # type: ignore[arg-type]
        await owed.done.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(owed.order) == 301
    assert owed.order.index("ann") < 5  # not behind all of the crowd's
    assert sender.most <= 5
    assert owed.reads <= 3
