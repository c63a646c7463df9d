"""Tasks: list, create, get, change, delete."""

from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import Field

from ..domain.errors import Invalid
from ..domain.tasks import MAX_TEXT
from ..keys import TASKS, USER
from .operation import Operation
from .replies import full, listed, read_fields, reply, task_id_of
from .schemas import Fields, TaskState, TaskWhole
from .uploads import received

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


def _number(request: web.Request, name: str, least: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and least <= int(text) < _MAX_NUMBER):  # noqa: PLR2004
        raise Invalid.field(name, f"must be an integer of at least {least}")
    return int(text)


def _page(request: web.Request, limit: int, offset: int) -> str:
    query = {**request.query, "limit": str(limit), "offset": str(offset)}
    try:
        return str(request.url.with_query(query))
    except ValueError:
        raise Invalid("The Host header of the request cannot be read.") from None


async def index(request: web.Request) -> web.Response:
    """List tasks, the newest first; a page of them with `limit` or `offset`."""
    limit, offset = _number(request, "limit", 1), _number(request, "offset", 0)
    query = request.query
    found = await request.app[TASKS].listing(
        request[USER], query.get("query", ""), query.get("state") or None, query.get("user") or None
    )
    if limit is None and offset is None:
        return reply([listed(task) for task in found])
    offset = offset or 0
    limit = limit or max(1, len(found))
    end = offset + limit
    return reply(
        {
            "count": len(found),
            "next": _page(request, limit, end) if end < len(found) else None,
            "previous": _page(request, limit, max(0, offset - limit)) if offset else None,
            "results": [listed(task) for task in found[offset:end]],
        }
    )


async def create(request: web.Request) -> web.Response:
    """Make a task."""
    async with received(request) as new:
        task = await request.app[TASKS].create(request[USER], new)
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
    return reply(full(request, await request.app[TASKS].duplicate(task_id_of(request), request[USER])), 201)


async def delete(request: web.Request) -> web.Response:
    """Delete a task."""
    await request.app[TASKS].delete(task_id_of(request), request[USER])
    return web.Response(status=204)


ROUTES = (
    Operation("GET", "/api/tasks", index),
    Operation("POST", "/api/tasks", create, reply=TaskWhole, status=201, body=Create, upload=True),
    Operation("GET", "/api/tasks/{id}", detail, reply=TaskWhole),
    Operation("POST", "/api/tasks/{id}", change, reply=TaskWhole, body=Change, errors=(409,)),
    Operation("PATCH", "/api/tasks/{id}", change, reply=TaskWhole, body=Change, errors=(409,)),
    Operation("DELETE", "/api/tasks/{id}", delete, status=204),
    Operation("GET", "/api/tasks/{id}/state", state, reply=TaskState),
    Operation("POST", "/api/tasks/{id}/duplicate", duplicate, reply=TaskWhole, status=201, errors=(409,)),
)
