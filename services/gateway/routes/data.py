"""The shared data directory: list, download, show."""

import os

from aiohttp import web

from shared.contracts.preview import PreviewOptions

from ..domain.errors import Missing
from ..domain.previews import Source
from ..keys import DATA
from .files import OpenFile, rows
from .operation import ANY, Operation
from .previews import ERRORS, PICTURES, options_of, send
from .replies import reply
from .schemas import FileRow

_PREVIEW = "/preview"


async def get(request: web.Request) -> web.StreamResponse:
    """Send a file of the shared data directory, or list a folder of it."""
    return await _answer(request, request.match_info.get("path", ""))


async def preview(request: web.Request) -> web.StreamResponse:
    """Send the picture of an image of the shared data directory."""
    return await _answer(request, request.match_info["path"] + _PREVIEW)


async def _answer(request: web.Request, path: str) -> web.StreamResponse:
    """Answer with what is at a path; if there is nothing, and it ends in `preview`, with the picture of the file."""
    data = request.app[DATA]
    entries = await data.entries(path)
    if entries is not None:
        return reply(rows(entries))
    bare = path.removesuffix("/")
    try:
        fd = await data.open(bare)
    except Missing:
        if not bare.endswith(_PREVIEW):
            raise
        return await _show(request, bare.removesuffix(_PREVIEW))
    return OpenFile(request, fd, bare.rsplit("/", 1)[-1])


async def _show(request: web.Request, path: str) -> web.StreamResponse:
    fd = await request.app[DATA].open(path)
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    return await send(request, Source(None, path, status), options_of(PreviewOptions, request.query))


_PATH = "/api/files/{path:.+}"

ROUTES = (
    Operation("GET", "/api/files", get, reply=list[FileRow]),
    Operation("GET", _PATH + _PREVIEW + "/", preview, query=PreviewOptions, media=PICTURES, errors=ERRORS),
    Operation("GET", _PATH, get, reply=list[FileRow], media=(ANY,), errors=(206, 304, 412, 416)),
)
