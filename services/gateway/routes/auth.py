"""Tokens."""

from aiohttp import web

from ..keys import AUTH
from .operation import Operation
from .replies import read_fields, reply


async def token(request: web.Request) -> web.Response:
    """Issue a token for a name and a password."""
    fields = await read_fields(request)
    return reply({"token": await request.app[AUTH].login(fields.get("username"), fields.get("password"))})


ROUTES = (Operation("POST", "/api/auth/token", token),)
