"""What goes on beside a step: quick steps, which are most of a load, end before it begins and cost nothing for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(action: Callable[[], Coroutine[Any, Any, None]], *, after_s: float) -> AsyncIterator[None]:
    """Begin an action once the block has taken `after_s` seconds, and cancel it at the block's end."""
    tasks: list[asyncio.Task[None]] = []
    timer = asyncio.get_running_loop().call_later(after_s, lambda: tasks.append(asyncio.create_task(action())))
    try:
        yield
    finally:
        timer.cancel()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
