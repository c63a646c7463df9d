"""Tasks: list, create, get, change, delete."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import BeforeValidator, Field

from ..domain.errors import Invalid
from ..domain.listing import Wanted
from ..domain.once import Reserved
from ..domain.tasks import MAX_TEXT
from ..keys import LISTING, ONCE, QUOTA, ROOT, TASKS, USER
from ..model import Task
from .operation import Operation, read_query
from .proxies import public_url
from .replies import full, idempotency_key, listed, read_fields, reply, task_id_of
from .schemas import Fields, QueryNumber, TaskPage, TaskRow, TaskState, TaskWhole
from .uploads import received

MAX_PAGE: Final = 1000
_MAX_NUMBER: Final = 2**31

Config = Annotated[
    dict[str, Any] | str | None,
    Field(description="Options of the steps; a text holds JSON, or a Python literal", examples=[{"filter": "R"}]),
]
Groups = Annotated[
    list[str] | str | None, Field(description="Names of groups that may see, change and run it; or with commas")
]


class Create(Fields):
    """A new task; it needs a file, or `original_name`."""

    local_file: str | None = Field(None, description="A file of the shared data directory, instead of an upload")
    ext: int | None = Field(None, ge=0, le=999, description="Number of the extension to take of the file, from 0")
    original_name: str | None = Field(None, max_length=MAX_TEXT, description="By default the name of the file")
    title: str | None = Field(None, max_length=MAX_TEXT)
    config: Config = None
    preset: int | None = Field(None, description="Its config is the base, and its files are copied")
    groups: Groups = None


class Change(Fields):
    """What to change of a task."""

    original_name: str | None = Field(None, max_length=MAX_TEXT)
    title: str | None = Field(None, max_length=MAX_TEXT)
    config: Config = Field(None, description="Merged; null removes a key")
    groups: Groups = None


def _own_or_none(value: object) -> object:
    return value or None


class ListQuery(Fields):
    """Which tasks to list."""

    query: str = Field("", max_length=MAX_TEXT, description="Words; each must occur in name, title, owner or a group")
    state: Annotated[str | None, BeforeValidator(_own_or_none)] = Field(None, description="In this state only")
    user: Annotated[str | None, BeforeValidator(_own_or_none)] = Field(
        None, description="Of this user, as far as they may be seen; without it the caller's own, and all for staff"
    )
    limit: QueryNumber | None = Field(
        None, ge=1, lt=_MAX_NUMBER, description=f"Makes the answer a page of so many tasks, {MAX_PAGE} at most"
    )
    offset: QueryNumber | None = Field(None, ge=0, lt=_MAX_NUMBER, description="Tasks to leave out before the page")


def _address(request: web.Request, limit: int, offset: int) -> str:
    """Give the address of another page, as the client would write it."""
    base = public_url(request)
    try:
        return str(base.with_query({**request.query, "limit": str(limit), "offset": str(offset)}))
    except ValueError:
        raise Invalid("The Host header of the request cannot be read.") from None


async def index(request: web.Request) -> web.StreamResponse:
    """List tasks, the newest first; a page of them with `limit` or `offset`.

    `count` is the number of all that were asked for. With `state`, and more of them behind the page, it is only known
    that there are at least so many.
    """
    asked = read_query(request, ListQuery)
    wanted = Wanted(tuple(asked.query.split()), asked.state, asked.user)
    if asked.limit is None and asked.offset is None:
        return await _whole(request, request.app[LISTING].all(request[USER], wanted))
    limit, offset = min(asked.limit or MAX_PAGE, MAX_PAGE), asked.offset or 0
    page = await request.app[LISTING].page(request[USER], wanted, limit, offset)
    return reply(
        {
            "count": page.count,
            "next": _address(request, limit, offset + limit) if page.more else None,
            "previous": _address(request, limit, max(0, offset - limit)) if offset else None,
            "results": [listed(task) for task in page.tasks],
        }
    )


async def _whole(request: web.Request, pieces: AsyncIterator[list[Task]]) -> web.StreamResponse:
    """Send all tasks, in pieces when they are many."""
    none: list[Task] = []
    first = await anext(pieces, none)
    if (following := await anext(pieces, None)) is None:
        return reply([listed(task) for task in first])
    response = web.StreamResponse()
    response.content_type = "application/json"
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    sent = 0
    while following is not None:
        sent += await _send(response, first, sent)
        first, following = following, await anext(pieces, None)
    await _send(response, first, sent)
    await response.write(b"]")
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, tasks: list[Task], before: int) -> int:
    rows = ", ".join(json.dumps(listed(task)) for task in tasks)
    start = ", " if before and rows else "[" if not before else ""
    await response.write((start + rows).encode())
    return len(tasks)


async def create(request: web.Request) -> web.Response:
    """Make a task."""
    key, user = idempotency_key(request), request[USER]
    async with received(request, user.name) as new:
        asked = [dict(new.fields), new.upload_name, new.upload and (await asyncio.to_thread(new.upload.stat)).st_size]
        task = await request.app[ONCE].make(key, asked, lambda own: request.app[TASKS].create(user, new, own))
    return reply(full(request, task), 201)


async def detail(request: web.Request) -> web.Response:
    """Show a whole task."""
    return reply(full(request, await request.app[TASKS].for_view(task_id_of(request), request[USER])))


async def state(request: web.Request) -> web.Response:
    """Show the state of a task."""
    task, chain_id = await request.app[TASKS].state(task_id_of(request), request[USER])
    return reply({"id": task.id, "state": task.state, "celery_id": chain_id})


async def change(request: web.Request) -> web.Response:
    """Change a task."""
    task_id = task_id_of(request)
    task = await request.app[TASKS].change(task_id, request[USER], await read_fields(request))
    return reply(full(request, task))


async def duplicate(request: web.Request) -> web.Response:
    """Make a task of the caller with all files and the config of another."""
    key, user, task_id = idempotency_key(request), request[USER], task_id_of(request)

    async def double(own: Reserved | None) -> Task:
        tasks = request.app[TASKS]
        await tasks.for_view(task_id, user)
        await request.app[QUOTA].take_copy(user.name, request.app[ROOT].task(task_id))
        return await tasks.duplicate(task_id, user, own)

    task = await request.app[ONCE].make(key, ["duplicate", task_id], double)
    return reply(full(request, task), 201)


async def delete(request: web.Request) -> web.Response:
    """Delete a task."""
    await request.app[TASKS].delete(task_id_of(request), request[USER])
    return web.Response(status=204)


ROUTES = (
    Operation("GET", "/api/tasks", index, reply=list[TaskRow] | TaskPage, query=ListQuery),
    Operation(
        "POST", "/api/tasks", create, reply=TaskWhole, status=201, body=Create, upload=True, keyed=True, errors=(409,)
    ),
    Operation("GET", "/api/tasks/{id}", detail, reply=TaskWhole),
    Operation("POST", "/api/tasks/{id}", change, reply=TaskWhole, body=Change, errors=(409,)),
    Operation("PATCH", "/api/tasks/{id}", change, reply=TaskWhole, body=Change, errors=(409,)),
    Operation("DELETE", "/api/tasks/{id}", delete, status=204),
    Operation("GET", "/api/tasks/{id}/state", state, reply=TaskState),
    Operation(
        "POST", "/api/tasks/{id}/duplicate", duplicate, reply=TaskWhole, status=201, errors=(409, 413), keyed=True
    ),
)
