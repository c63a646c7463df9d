"""Following a task: server-sent events."""

import asyncio
import contextlib
import json
from datetime import datetime
from typing import Any, Final, Literal

from aiohttp import web
from pydantic import Field

from shared.contracts.states import StepStatus

from ..domain.errors import Refused
from ..domain.events import Event, Stream
from ..keys import AUTH, EVENTS, REQUEST_ID, SESSION, SESSIONS, SETTINGS, TASKS, USER
from ..model import RunStatus, User
from ..storage import StoreAway
from .operation import Operation
from .replies import iso, task_id_of
from .schemas import Answer, StepName, Time

_MEDIA: Final = "text/event-stream"
_RECONNECT_MS: Final = 3000
_STUCK_S: Final = 30.0  # a client that takes nothing for so long is let go; it may come back and resume
_MAX_DIGITS: Final = 15


class StepEvent(Answer):
    """A step has changed its state."""

    step_id: str
    step: StepName
    state: StepStatus
    attempt: int = Field(ge=1)
    started: Time | None
    ended: Time | None


class FollowedRun(Answer):
    """The last run of a task."""

    id: str
    state: RunStatus
    steps: list[StepEvent]


class StateEvent(Answer):
    """How the task stands. Its `id:` is the number to resume from; it says all that earlier ones have said."""

    id: int
    state: str = Field(description="As the task's; it contains `running` until the whole chain has ended")
    celery_id: str | None = Field(description="Id of the running chain")
    step: StepName | None = Field(description="What runs now")
    error: str | None = Field(description="Why the last run failed")
    completed: Time | None
    run: FollowedRun | None


class ProgressEvent(Answer):
    """How far a step is. May be missing."""

    step_id: str
    step: StepName
    attempt: int = Field(ge=1)
    fraction: float = Field(ge=0, le=1)
    phase: str


class LogEvent(Answer):
    """New lines of a step's log. May be missing; the log file has all."""

    step_id: str
    step: StepName
    attempt: int = Field(ge=1)
    lines: list[str]


class GapEvent(Answer):
    """Progress and logs were left out here: the client, or the gateway, did not keep up. The log file has all."""

    lost: int = Field(ge=1, description="How many events, or lines of a log")


class EndEvent(Answer):
    """The last event of a stream."""

    reason: Literal["deleted", "forbidden", "shutdown", "gone"] = Field(
        description="The task was deleted; the caller may not see it any more, or the login has ended; the server ends"
    )


MODELS: Final[dict[str, type[Answer]]] = {
    "state": StateEvent,
    "step": StepEvent,
    "progress": ProgressEvent,
    "log": LogEvent,
    "gap": GapEvent,
    "end": EndEvent,
}
"""Of the data of each event."""


async def events(request: web.Request) -> web.StreamResponse:
    """Follow a task, by server-sent events.

    The first event tells how the task stands, unless `Last-Event-ID` says that the client knows. The stream stays open
    after the end of a run. It ends when the task is deleted, or the caller may not see it any more.
    """
    task = await request.app[TASKS].for_view(task_id_of(request), request[USER])
    response = web.StreamResponse(
        headers={
            "Content-Type": _MEDIA,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "X-Content-Type-Options": "nosniff",
            "X-Request-ID": request[REQUEST_ID],
        }
    )
    if request.method == "HEAD":
        return response
    with request.app[EVENTS].follow(task, request[USER], _last(request), lambda: _there(request)) as stream:
        response.force_close()
        await response.prepare(request)
        try:
            await _send(request, response, stream)
        except ConnectionError:
            return response
    return response


async def _send(request: web.Request, response: web.StreamResponse, stream: Stream) -> None:
    loop = asyncio.get_running_loop()
    every_s = request.app[SETTINGS].events_heartbeat_s
    due = loop.time() + every_s
    await _write(request, response, f"retry: {_RECONNECT_MS}\n\n")
    ended = False
    while not ended:
        try:
            async with asyncio.timeout_at(due):
                found = await stream.next()
        except TimeoutError:
            await _write(request, response, ": still here\n\n")
        else:
            await _write(request, response, "".join(map(_frame, found)))
            ended = found[-1].name == "end"
        if loop.time() >= due:
            due = loop.time() + every_s
            await _ask_again(request, stream)


async def _write(request: web.Request, response: web.StreamResponse, text: str) -> None:
    try:
        async with asyncio.timeout(_STUCK_S):
            await response.write(text.encode())
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError from None


async def _ask_again(request: web.Request, stream: Stream) -> None:
    """End a stream whose caller would not be let in any more: a token may have been revoked."""
    with contextlib.suppress(StoreAway):  # asked the next time
        try:
            stream.user = await _caller(request)
        except Refused:
            stream.end("forbidden")


async def _caller(request: web.Request) -> User:
    """Find out again who calls: a token may have been revoked."""
    if (session_id := request.get(SESSION)) is not None:
        return await request.app[SESSIONS].user(session_id)
    return await request.app[AUTH].user(request.headers["Authorization"])


def _there(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


def _last(request: web.Request) -> int | None:
    """Read the number to resume from; what is none is as good as none, for browsers repeat it for ever."""
    given = request.headers.get("Last-Event-ID", "")
    return int(given) if given.isascii() and given.isdecimal() and len(given) <= _MAX_DIGITS else None


def _frame(event: Event) -> str:
    number = "" if event.number is None else f"id: {event.number}\n"
    return f"{number}event: {event.name}\ndata: {json.dumps(event.data, default=_plain)}\n\n"


def _plain(value: Any) -> str | None:
    return iso(value) if isinstance(value, datetime) else str(value)


ROUTES = (Operation("GET", "/api/tasks/{id}/events", events, media=(_MEDIA,), errors=(429,), events=MODELS),)
