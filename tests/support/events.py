"""A client that reads server-sent events."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.support.gateway import Client


class Followed:
    """A stream, read event by event; keeps what it has read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.seen: list[tuple[str, dict[str, Any], int | None]] = []
        self.comments: list[str] = []

    async def read(self) -> tuple[str, dict[str, Any], int | None] | None:
        """Give the next event: its name, data and number; None at the end."""
        fields: dict[str, str] = {}
        while line := (await self.response.content.readline()).decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if not name and not value and line == "\n":
                if "data" in fields:
                    event = fields["event"], json.loads(fields["data"]), int(fields["id"]) if "id" in fields else None
                    self.seen.append(event)
                    return event
                fields = {}
            elif not name:
                self.comments.append(value)
            else:
                fields[name] = value
        return None

    async def until(self, name: str, timeout_s: float = 10, **values: Any) -> dict[str, Any]:
        """Read to an event of that name and with these values."""
        async with asyncio.timeout(timeout_s):
            while event := await self.read():
                if event[0] == name and values.items() <= event[1].items():
                    return event[1]
        raise AssertionError((name, values, self.seen))

    async def rest(self, timeout_s: float = 10) -> list[str]:
        """Read to the end; give the names of the events."""
        start = len(self.seen)
        async with asyncio.timeout(timeout_s):
            while await self.read():
                pass
        return [name for name, _, _ in self.seen[start:]]


@contextlib.asynccontextmanager
async def follow(client: Client, task_id: int, last: int | None = None) -> AsyncIterator[Followed]:
    """Follow a task."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    async with client.session.get(f"{client.url}/tasks/{task_id}/events", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield Followed(response)
