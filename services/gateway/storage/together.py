"""Questions that are asked at the same time go to the store as one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """Reads single documents by their ids, all of those at once that are asked for while another question is under way.

    Each question costs a thread's turn in the driver and a round trip, which is more than its document does; when many
    clients poll, most of that is spared. Nothing is kept: an answer was read after its question was asked.

    Parameters
    ----------
    ask
        Reads documents; those that are not there are left out.
    """

    def __init__(self, ask: Callable[[list[int]], Awaitable[dict[int, T]]]) -> None:
        self._ask = ask
        self._ids: set[int] = set()
        self._next: asyncio.Task[dict[int, T]] | None = None
        self._last: asyncio.Task[dict[int, T]] | None = None

    async def get(self, document_id: int) -> T | None:
        """Read a document; None when there is none."""
        if self._next is None:
            self._next = asyncio.create_task(self._send(self._last))
        self._ids.add(document_id)
        # shielded: the others still want to know
        return (await asyncio.shield(self._next)).get(document_id)

    async def _send(self, before: "asyncio.Task[dict[int, T]] | None") -> dict[int, T]:
        if before is not None and not before.done():
            await asyncio.wait({before})
        ids, self._ids = self._ids, set()
        self._last, self._next = self._next, None
        return await self._ask(list(ids))
