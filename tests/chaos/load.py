"""A steady load of chains: several clients, each with one task after another."""

import asyncio
import random
import time
from collections.abc import Callable

from .called import Called
from .caller import Caller, GaveUp, Wrong
from .ledger import Ledger
from .life import Life, Notes
from .pictures import Picture


class Load:
    """Several clients, each with one task after another.

    Parameters
    ----------
    urls
        Of the gateways.
    tokens
        One client for each.
    pictures
        What they upload.
    called
        Whom the gateways call at the end of some runs; None for nobody.
    clock
        By it a run must end in time, seconds.
    keep
        Whether most tasks are kept, to be judged; without they are all deleted, and the load is the same for ever.
    """

    def __init__(
        self,
        urls: list[str],
        tokens: list[str],
        pictures: list[Picture],
        ledger: Ledger,
        *,
        seed: str,
        called: Called | None = None,
        clock: Callable[[], float] = time.monotonic,
        keep: bool = True,
    ) -> None:
        self._pictures = pictures
        self._notes = Notes(ledger, called, keep, clock=clock)
        self._callers = [Caller(urls, token, ledger, number, clock) for number, token in enumerate(tokens)]
        self._random = [random.Random(f"{seed}/client-{number}") for number in range(len(tokens))]
        self._clients: list[asyncio.Task[None]] = []

    @property
    def ended(self) -> list[tuple[float, float]]:
        """When runs were accepted, and when their client saw their end; on the monotonic clock."""
        return self._notes.ended

    @property
    def stopping(self) -> bool:
        """Whether clients begin nothing new."""
        return self._notes.stopping

    async def start(self) -> None:
        """Begin."""
        if self._notes.called is not None:
            answer = await self._callers[0].secret()
            self._notes.called.secret = answer
        self._clients = [
            asyncio.create_task(self._client(caller, dice))
            for caller, dice in zip(self._callers, self._random, strict=True)
        ]

    async def stop(self) -> None:
        """Let every client end what it has begun."""
        self._notes.stopping = True
        await asyncio.gather(*self._clients)
        for caller in self._callers:
            await caller.close()

    async def _client(self, caller: Caller, dice: random.Random) -> None:
        while not self._notes.stopping:
            picture = dice.choice(self._pictures)
            try:
                await Life(self._notes, caller, dice, picture).live()
            except GaveUp as error:
                self._notes.ledger.note("trouble", "gave up", why=str(error))
                await asyncio.sleep(1)
            except Wrong as error:
                self._notes.ledger.note("violation", "answer", why=str(error))
