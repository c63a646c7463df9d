"""Connections of the API: what is no HTTP, or breaks off, is answered with JSON too."""

import asyncio
import contextlib
import uuid
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.web_protocol import RequestHandler

from . import errors
from .middlewares import error_response

_HEAR_OUT_S: Final = 5.0
_UNENDED: Final = "deflate"  # what aiohttp says when such a body ends too early

log = structlog.get_logger()


class _Connection(RequestHandler):
    """A connection that answers what is no HTTP with JSON too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._gone = asyncio.Event()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the client has gone."""
        super().connection_lost(exc)
        self._gone.set()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer, and close the connection."""
        request_id = uuid.uuid4().hex
        if status >= 500 or request.writer.output_size > 0:  # noqa: PLR2004
            super().handle_error(request, status, exc, message)
        else:
            log.info("request not understood", request=request_id, problem=_shown(exc))
        detail = None
        if isinstance(exc, ContentEncodingError):
            # else packed in a way that aiohttp knows and cannot undo here
            unended = exc.message == _UNENDED
            status, detail = (400, errors.DAMAGED) if unended else (415, errors.UNKNOWN_ENCODING)
        response = error_response(status, request_id, detail)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **details: Any) -> None:
        """Log a fault of ours; a body that turns out to be damaged after its request was answered is none."""
        error = details.get("exc_info")
        if isinstance(error, web.RequestPayloadError):
            log.info("body damaged", problem=_shown(error))
        else:
            super().log_exception(*args, **details)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; what was refused before any middleware, such as a bad Expect header, as JSON too."""
        if isinstance(resp, web.HTTPException):
            resp = error_response(resp.status, uuid.uuid4().hex)
        damaged = request.content.exception() is not None
        if damaged:
            resp.force_close()
        sent = await super().finish_response(request, resp, start_time)
        if damaged:
            await self._hear_out()
        return sent

    async def _hear_out(self) -> None:
        """Let the client end: to close while it still sends may destroy the answer on its way."""
        self.close()  # what comes now is thrown away
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEAR_OUT_S):
                    await self._gone.wait()
        self.force_close()


def _shown(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200]


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Serves the application; every error is JSON, those of the HTTP parser too."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server
