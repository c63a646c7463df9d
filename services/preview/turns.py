"""Who draws next: a fair share of the renderers for each user, however many gateways ask."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

MAX_HELD: Final = 128
"""Requests of one user that a service holds, waiting or being drawn; a further one is refused at once."""


class Crowded(Exception):
    """No turn came in time.

    Parameters
    ----------
    own
        Whether it is the user's own pictures that are in the way.
    """

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own


class Turns:
    """Gives the renderers of one service out.

    Of one user at most `per_user` pictures are drawn at once, which is fewer than there are renderers, and whoever has
    the fewest in work goes first, then who came first. So one user's slow pictures never hold the last renderer, and a
    second user waits for nobody; when more users have slow pictures than there are renderers, each waits for a turn.
    This holds in each service by itself, and so whatever the number of gateways and services is: a service takes
    requests from the broker long before it has a renderer for them, and refuses those that are too many of one user.

    Parameters
    ----------
    renderers
        How many pictures are drawn at once.
    per_user
        How many of them may be one user's.
    wait_s
        How long a request waits for its turn, seconds.
    """

    def __init__(self, renderers: int, per_user: int, wait_s: float) -> None:
        self._free = renderers
        self._per_user = per_user
        self._wait_s = wait_s
        self._drawing: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for a renderer, and keep it.

        Raises
        ------
        Crowded
            When none was free in time, or too many requests of the user wait already.
        """
        if self._drawing[user] + sum(user == other for other, _ in self._waiting) >= MAX_HELD:
            raise Crowded(own=True)
        place = user, asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._give_out()
        try:
            try:
                async with asyncio.timeout(self._wait_s):
                    await place[1]
            except TimeoutError:
                raise Crowded(own=self._drawing[user] > 0) from None
            yield
        finally:
            if place in self._waiting:
                self._waiting.remove(place)
            else:
                self._free += 1
                self._drawing -= Counter({user: 1})  # forgets who has none left
                self._give_out()

    def _give_out(self) -> None:
        while self._free:
            ready = [
                (user, given)
                for user, given in self._waiting
                if self._drawing[user] < self._per_user and not given.done()  # done: it has just been given up
            ]
            if not ready:
                return
            place = min(ready, key=lambda place: self._drawing[place[0]])
            self._waiting.remove(place)
            self._free -= 1
            self._drawing[place[0]] += 1
            place[1].set_result(None)
