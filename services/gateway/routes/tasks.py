"""Tasks: list, create, get, change, delete."""

from typing import Final

from aiohttp import web

from ..domain.errors import Invalid
from ..keys import TASKS, USER
from .operation import Operation
from .replies import full, listed, read_fields, reply, task_id_of
from .uploads import received

_MAX_NUMBER: Final = 2**31


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


async def delete(request: web.Request) -> web.Response:
    """Delete a task."""
    await request.app[TASKS].delete(task_id_of(request), request[USER])
    return web.Response(status=204)


ROUTES = (
    Operation("GET", "/api/tasks", index),
    Operation("POST", "/api/tasks", create),
    Operation("GET", "/api/tasks/{id}", detail),
    Operation("POST", "/api/tasks/{id}", change),
    Operation("PATCH", "/api/tasks/{id}", change),
    Operation("DELETE", "/api/tasks/{id}", delete),
    Operation("GET", "/api/tasks/{id}/state", state),
)
