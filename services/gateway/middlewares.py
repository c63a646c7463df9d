"""Around every request: its id, who calls, and one form for all errors."""

import random
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, NoReturn

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import Histogram

from shared import tracing
from shared.metrics import REGISTRY

from . import errors
from .domain.errors import Refused, TooMany, Unauthenticated
from .domain.sessions import check_csrf, check_origin
from .keys import AUTH, REQUEST_ID, SESSION, SESSIONS, SETTINGS, USER
from .model import User

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PUBLIC: Final = re.compile(
    r"/healthz|/readyz|/metrics|/api/auth/(token|login)/?|/api/reference(/.*)?|/api/schema/?|/api/docs(/.*)?"
)
SESSION_COOKIE: Final = "sessionid"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_UNTRACED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9_.-]{8,64}")

REQUESTS: Final = Histogram(
    "stdweb_request_seconds", "Time to answer a request, seconds", ["method", "status"], registry=REGISTRY
)
_OBSERVE: Final[dict[tuple[str, int], Callable[[float], None]]] = {}
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PATCH", "PUT", "DELETE"})

log = structlog.get_logger()


def error_response(
    status: int, request_id: str, detail: str | None = None, fields: dict[str, list[str]] | None = None
) -> web.Response:
    """Answer with an error."""
    response = web.Response(
        status=status,
        text=errors.body(status, request_id, detail, fields),
        content_type="application/json",
        headers=errors.headers(status),
    )
    response.headers["X-Request-ID"] = request_id
    return response


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, and turn whatever is raised into JSON."""
    given = request.headers.get("X-Request-ID", "")
    # unlike others but no secret: without asking the kernel, which is dear
    request_id = given if _GIVEN_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
    request[REQUEST_ID] = request_id
    began = time.perf_counter()
    # never unbound: the task is the connection's, and its next request binds its own
    structlog.contextvars.bind_contextvars(request=request_id)
    with _traced(request):
        response = await _answer(request, handler, request_id)
        tracing.note(status=response.status, request=request_id)
        if response.status >= 500:  # noqa: PLR2004
            tracing.fail(f"status {response.status}")
    method = request.method if request.method in _METHODS else "other"  # anybody can think of methods
    if response.content_type == "text/event-stream":  # open for hours, which says nothing of how quick we are
        return response
    observe = _OBSERVE.get((method, response.status))
    if observe is None:
        observe = _OBSERVE[method, response.status] = REQUESTS.labels(method, response.status).observe
    observe(time.perf_counter() - began)
    return response


def _traced(request: web.Request) -> AbstractContextManager[object]:
    route = request.match_info.route.resource
    name = route.canonical.rstrip("/") if route is not None else "unknown"
    if name in _UNTRACED or name.endswith("/events"):  # asked all the time, or open for hours
        return nullcontext()
    method = request.method if request.method in _METHODS else "other"
    facts = {"http.request.method": method, "http.route": name}
    return tracing.span(f"{method} {name}", "server", of=request.headers, facts=facts)


async def _answer(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004
            raise
        response = error_response(error.status, request_id)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except (HttpProcessingError, web.RequestPayloadError) as error:
        problem = " ".join(str(error).split())
        log.info("body damaged", method=request.method, path=request.path, problem=problem)
        return error_response(400, request_id, errors.DAMAGED)
    except Exception as error:
        response = _explain(request, error, request_id)
        if response.status == 500:  # noqa: PLR2004
            log.exception("request failed", method=request.method, path=request.path)
        return response
    if not response.prepared:
        response.headers["X-Request-ID"] = request_id
    return response


def _explain(request: web.Request, error: Exception, request_id: str) -> web.Response:
    if request.writer.output_size > 0:
        _break_off(request, error)
    status = errors.status_of(error)
    if isinstance(error, Refused):
        if error.__cause__ is not None:
            log.warning("request refused", method=request.method, path=request.path, cause=repr(error.__cause__))
        response = error_response(status, request_id, error.detail, error.errors)
        if isinstance(error, TooMany):
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response
    if isinstance(error, ConnectionError) and request.transport is None:
        log.info("client went away", method=request.method, path=request.path)
        return error_response(400, request_id, errors.DAMAGED)
    if status == 500:  # noqa: PLR2004
        return error_response(status, request_id)
    log.warning("request refused", method=request.method, path=request.path, error=repr(error))
    return error_response(status, request_id, errors.DISK_FULL if isinstance(error, OSError) else None)


def _break_off(request: web.Request, error: Exception) -> NoReturn:
    """End a connection, so that the client does not take a part for the whole; an error has no place in its middle."""
    if not isinstance(error, ConnectionError):
        log.error("answer broken off", method=request.method, path=request.path, exc_info=error)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionAbortedError from error


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who calls, except where anybody may."""
    if not PUBLIC.fullmatch(request.path):
        header = request.headers.get("Authorization")
        request[USER] = await (request.app[AUTH].user(header) if header else _by_session(request))
    return await handler(request)


async def _by_session(request: web.Request) -> User:
    session_id = request.cookies.get(SESSION_COOKIE)
    if not session_id:
        raise Unauthenticated(
            "Authentication credentials were not provided. Send the header Authorization: Token <token>; "
            "POST /api/auth/token/ gives one for name and password."
        )
    user = await request.app[SESSIONS].user(session_id)
    if request.method not in _SAFE:
        check_origin(request.headers.get("Origin"), request.host, request.app[SETTINGS].site_url)
        check_csrf(session_id, request.headers.get("X-CSRFToken", ""))
    request[SESSION] = session_id
    return user
