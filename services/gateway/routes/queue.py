"""The queue."""

from aiohttp import web

from ..keys import QUEUE, USER
from .operation import Operation
from .replies import reply
from .schemas import StepDetail, StepRow, Terminated


async def index(request: web.Request) -> web.Response:
    """List the steps that have not ended."""
    return reply(await request.app[QUEUE].listing(request[USER]))


async def detail(request: web.Request) -> web.Response:
    """Show a step or a chain."""
    return reply(await request.app[QUEUE].detail(request[USER], request.match_info["id"]))


async def terminate(request: web.Request) -> web.Response:
    """Cancel the chain of a step."""
    return reply(await request.app[QUEUE].terminate(request[USER], request.match_info["id"]))


ROUTES = (
    Operation("GET", "/api/queue", index, reply=list[StepRow]),
    Operation("GET", "/api/queue/{id}", detail, reply=StepDetail),
    Operation("POST", "/api/queue/{id}/terminate", terminate, reply=Terminated, errors=(400,)),
)
