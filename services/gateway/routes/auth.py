"""Tokens, and sessions of browsers."""

from typing import Final

from aiohttp import web
from pydantic import Field

from ..domain.auth import MAX_PASSWORD
from ..domain.errors import Invalid
from ..domain.sessions import check_origin, csrf_token
from ..domain.throttle import client_address
from ..keys import AUTH, SESSION, SESSIONS, SETTINGS
from ..middlewares import SESSION_COOKIE
from .operation import Operation, check
from .replies import read_fields, reply
from .schemas import Answer, Fields

CSRF_COOKIE: Final = "csrftoken"


class Credentials(Fields):
    """Who logs in."""

    username: str = Field(min_length=1, examples=["myuser"])
    password: str = Field(min_length=1, description=f"At most {MAX_PASSWORD} characters", examples=["mypass"])


class Token(Answer):
    """A token that was issued."""

    token: str = Field(description="Goes into the header `Authorization: Token <token>`")


class LoggedIn(Answer):
    """A session that has begun; its cookie is in the headers."""

    user: str
    is_staff: bool
    groups: list[str]
    csrftoken: str = Field(description="Also a cookie; unsafe methods need it in the header X-CSRFToken")


def _address(request: web.Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return client_address(
        str(peer[0]) if isinstance(peer, tuple) else "",
        ",".join(request.headers.getall("X-Forwarded-For", ())),
        request.app[SETTINGS].trusted_proxies,
    )


async def token(request: web.Request) -> web.Response:
    """Issue a token for a name and a password."""
    given = check(Credentials, await read_fields(request))
    return reply({"token": await request.app[AUTH].login(given.username, given.password, _address(request))})


async def login(request: web.Request) -> web.Response:
    """Begin the session of a browser, for a name and a password."""
    site_url = request.app[SETTINGS].site_url
    # another site's page must not log a browser in, as somebody else
    check_origin(request.headers.get("Origin"), request.host, site_url)
    given = check(Credentials, await read_fields(request))
    user = await request.app[AUTH].check_password(given.username, given.password, _address(request))
    session_id = await request.app[SESSIONS].begin(user, request.cookies.get(SESSION_COOKIE))
    proof = csrf_token(session_id)
    response = reply({"user": user.name, "is_staff": user.is_staff, "groups": sorted(user.groups), "csrftoken": proof})
    for name, value, hidden in ((SESSION_COOKIE, session_id, True), (CSRF_COOKIE, proof, False)):
        response.set_cookie(
            name,
            value,
            max_age=int(request.app[SETTINGS].session_longest_s),
            secure=_is_https(site_url),
            httponly=hidden,
            samesite="Lax",
        )
    response.headers["Cache-Control"] = "no-store"
    return response


async def logout(request: web.Request) -> web.Response:
    """End the session of a browser."""
    session_id = request.get(SESSION)
    if session_id is None:
        raise Invalid("This call has a token and no session; send the session cookie alone.")
    await request.app[SESSIONS].end(session_id)
    response = web.Response(status=204)
    secure = _is_https(request.app[SETTINGS].site_url)
    for name, hidden in ((SESSION_COOKIE, True), (CSRF_COOKIE, False)):
        response.del_cookie(name, secure=secure, httponly=hidden, samesite="Lax")
    return response


def _is_https(site_url: str | None) -> bool:
    return site_url is not None and site_url.startswith("https:")


ROUTES = (
    Operation(
        "POST",
        "/api/auth/token",
        token,
        reply=Token,
        body=Credentials,
        errors=(400, 413, 415, 429, 500, 503),
        public=True,
    ),
    Operation(
        "POST",
        "/api/auth/login",
        login,
        reply=LoggedIn,
        body=Credentials,
        errors=(400, 403, 413, 415, 429, 500, 503),
        public=True,
    ),
    Operation("POST", "/api/auth/logout", logout, status=204, errors=(400, 401, 403, 500, 503)),
)
