"""Pictures of the files of a task."""

import asyncio
import os
from collections.abc import Mapping
from typing import Final, TypeVar

from aiohttp import web

from shared.contracts.preview import CONTENT_TYPES, CutoutOptions, PictureOptions, PreviewOptions

from ..domain.previews import Source, key_of
from ..keys import PREVIEWS, REQUEST_ID, TASKS, USER
from .operation import Operation, check
from .replies import task_id_of

_PIECE: Final = 2**20  # bytes; few pictures are larger, but one may be hundreds of times as large

PICTURES: Final = tuple(CONTENT_TYPES.values())
ERRORS: Final = (304, 429)
Options = TypeVar("Options", bound=PictureOptions)


def options_of(kind: type[Options], query: Mapping[str, str]) -> Options:
    """Read the options of a picture; unknown ones are ignored.

    Raises
    ------
    Invalid
        Naming those with a bad value.
    """
    return check(kind, {name: query[name] for name in kind.model_fields if name in query})


async def send(request: web.Request, source: Source, options: PictureOptions) -> web.StreamResponse:
    """Answer with a picture, or tell that the client has it already."""
    response: web.StreamResponse
    tags = {tag.value for tag in request.if_none_match or ()}
    if tags & {"*", key_of(source, options)}:
        response = web.Response(status=304)
        response.etag = key_of(source, options)
        return response
    key, picture = await request.app[PREVIEWS].picture(source, options, request[USER], request[REQUEST_ID])
    with picture:
        size = os.fstat(picture.fileno()).st_size
        response = web.StreamResponse() if size > _PIECE else web.Response()
        response.content_type = CONTENT_TYPES[options.format]
        response.etag = key
        response.headers["Cache-Control"] = "private, no-cache"  # to be asked for again, by its tag
        response.headers["X-Content-Type-Options"] = "nosniff"
        if isinstance(response, web.Response):
            response.body = await asyncio.to_thread(picture.read)
            return response
        response.headers["X-Request-ID"] = request[REQUEST_ID]
        response.content_length = size
        await response.prepare(request)
        while request.method != "HEAD" and (piece := await asyncio.to_thread(picture.read, _PIECE)):
            await response.write(piece)
    return response


async def _show(request: web.Request, kind: type[PictureOptions]) -> web.StreamResponse:
    task = await request.app[TASKS].for_view(task_id_of(request), request[USER])
    options = options_of(kind, request.query)
    return await send(request, await request.app[PREVIEWS].source(task, request.match_info["path"]), options)


async def preview(request: web.Request) -> web.StreamResponse:
    """Send the picture of an image."""
    return await _show(request, PreviewOptions)


async def cutout(request: web.Request) -> web.StreamResponse:
    """Send the picture of a cutout."""
    return await _show(request, CutoutOptions)


ROUTES = (
    Operation("GET", "/api/tasks/{id}/preview/{path:.+}", preview, query=PreviewOptions, media=PICTURES, errors=ERRORS),
    Operation("GET", "/api/tasks/{id}/cutout/{path:.+}", cutout, query=CutoutOptions, media=PICTURES, errors=ERRORS),
)
