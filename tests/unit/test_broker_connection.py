"""Connections to a broker that does not answer."""

import asyncio
import contextlib

import pytest

from shared.broker.connection import open_connection


async def test_a_cancelled_attempt_to_connect_leaves_no_task_behind() -> None:
    arrived = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    before = asyncio.all_tasks()
    opening = asyncio.create_task(open_connection(f"amqp://u:p@127.0.0.1:{port}/", "test"))
    await asyncio.wait_for(arrived.wait(), 10)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(opening, 10)
    left = {task for task in asyncio.all_tasks() - before if "silent" not in repr(task)}
    for task in left:
        task.cancel()
    _, alive = await asyncio.wait(left, timeout=5) if left else (set(), set())
    server.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.wait_closed(), 5)
    assert not alive
