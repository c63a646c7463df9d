"""How many steps of one user may be in a queue at a time, by how many are worked on there at once."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from shared.broker import Broker, BrokerUnavailable
from shared.contracts.steps import STEPS

from ..storage import Users

_KNOWN_S: Final = 2.0
_PATIENCE_S: Final = 2.0
_ROUNDS: Final = 2
"""Steps of a user for each that is worked on at once: one at work and one to follow, so that nobody idles, while a
step of somebody else who comes then waits for less than two steps."""


@dataclass(frozen=True)
class _Known:
    at: float
    places: int


class Places:
    """Places of one user in each queue.

    Every slot of a service consumes on its own, so that the consumers of a queue are the steps that it can have worked
    on at once, however many services there are.

    Parameters
    ----------
    users
        Tells for whom fewer are allowed.
    most
        Places that there are at most.
    """

    def __init__(self, broker: Broker, users: Users, most: int) -> None:
        self._broker = broker
        self._users = users
        self._most = most
        self._known: dict[str, _Known] = {}
        self._asking = asyncio.Lock()

    async def of(self, user: str, step: str) -> int:
        """Give the places of a user in the queue of a step."""
        known = await self._users.get(user)
        own = None if known is None else known.max_steps
        places = await self._of_all(step)
        return places if own is None else min(places, own)

    async def _of_all(self, step: str) -> int:
        """Give the places of anybody; without an answer of the broker as many as before."""
        async with self._asking:
            known = self._known.get(step)
            if known is None or time.monotonic() - known.at > _KNOWN_S:
                known = _Known(time.monotonic(), await self._ask(step, self._most if known is None else known.places))
                self._known[step] = known
        return known.places

    async def _ask(self, step: str, before: int) -> int:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                depth = await self._broker.depth(STEPS[step].queue)
        except (BrokerUnavailable, TimeoutError):
            return before
        return min(self._most, _ROUNDS * max(1, depth.consumers))
