"""The secret that signs callbacks."""

from aiohttp import web
from pydantic import Field

from ..keys import CALLBACKS, USER
from .operation import Operation
from .replies import reply
from .schemas import Answer


class Secret(Answer):
    """A new secret; it is shown once."""

    secret: str = Field(description="Key of the HMAC-SHA256 that signs the caller's callbacks from now on")


async def new_secret(request: web.Request) -> web.Response:
    """Make the secret that signs the caller's callbacks; it replaces the one that was."""
    response = reply({"secret": await request.app[CALLBACKS].new_secret(request[USER].name)})
    response.headers["Cache-Control"] = "no-store"
    return response


ROUTES = (Operation("POST", "/api/callbacks/secret", new_secret, reply=Secret),)
