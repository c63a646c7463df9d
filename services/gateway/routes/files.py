"""Files of a task: list, get, put, delete."""

import mimetypes
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import quote

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from shared.taskdir import Entry

from .. import errors
from ..domain.errors import Invalid, Missing
from ..keys import FILES, REQUEST_ID, TASKS, USER
from .operation import ANY, Operation
from .ranges import without_ignored
from .replies import iso, reply, task_id_of
from .schemas import FileRow, Stored
from .sendfile import send_file
from .uploads import received

_TYPES = {".fits": "application/fits", ".vot": "application/x-votable+xml", ".reg": "text/plain", ".log": "text/plain"}


class OpenFile(web.FileResponse):
    """Sends a file from its open descriptor, so that no other can take its place; conditions are aiohttp's."""

    def __init__(self, request: web.Request, fd: int, name: str) -> None:
        self._fd = fd
        self._refusal = b""
        self._request_id = request[REQUEST_ID]
        self._head = request.method == "HEAD"
        super().__init__(f"/proc/self/fd/{fd}")
        fallback = name.encode("ascii", "replace").decode().replace('"', "_").replace("?", "_")
        exact = f"UTF-8''{quote(name, safe='')}"
        self.headers["Content-Disposition"] = f'attachment; filename="{fallback}"; filename*={exact}'
        guessed, encoding = mimetypes.guess_type(name)
        plain = guessed if guessed and not encoding else "application/octet-stream"
        self.content_type = _TYPES.get(os.path.splitext(name)[1], plain)
        self.headers["X-Content-Type-Options"] = "nosniff"
        # a browser may keep it for its own user, who may be shut out or log out: to be asked for again, by its tag
        self.headers["Cache-Control"] = "private, no-cache"

    def set_status(self, status: int, reason: str | None = None) -> None:
        """Set the status; an error, such as a bad range, gets the form of all errors."""
        super().set_status(status, reason)
        if status >= 400:  # noqa: PLR2004
            self._refusal = errors.body(status, self._request_id).encode()
            self.headers.popall("Content-Disposition", None)
            self.headers["Content-Length"] = str(len(self._refusal))
            self.content_type = "application/json"

    @property
    def content_length(self) -> int | None:
        """Length of what is sent, bytes."""
        return super().content_length

    @content_length.setter
    def content_length(self, value: int | None) -> None:
        if self._refusal:
            return  # aiohttp would send some errors without a body
        if value is None:
            self.headers.popall("Content-Length", None)
        else:
            self.headers["Content-Length"] = str(value)

    async def write_eof(self, data: bytes = b"") -> None:
        """End the answer, with the error if there is one."""
        await super().write_eof(data or (b"" if self._head else self._refusal))

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send headers and file, and close it."""
        try:
            status = os.fstat(self._fd)
            # named as aiohttp names it
            return await super().prepare(without_ignored(request, f"{status.st_mtime_ns:x}-{status.st_size:x}"))
        finally:
            os.close(self._fd)

    async def _sendfile(self, request: BaseRequest, fobj: IO[Any], offset: int, count: int) -> AbstractStreamWriter:
        writer = await web.StreamResponse.prepare(self, request)
        transport = request.transport
        if writer is None or transport is None:
            raise ConnectionResetError("the client went away")
        if not await send_file(transport, writer, fobj.fileno(), offset, count):
            return await self._sendfile_fallback(writer, fobj, offset, count)
        await super().write_eof()
        return writer


def rows(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Write a listing of files."""
    return [
        {
            "name": entry.name,
            "path": entry.path,
            "size": entry.size,
            "modified": iso(datetime.fromtimestamp(entry.modified, UTC)),
            "is_dir": entry.is_dir,
        }
        for entry in entries
    ]


async def get(request: web.Request) -> web.StreamResponse:
    """Send a file, or list a folder."""
    task = await request.app[TASKS].for_view(task_id_of(request), request[USER])
    files = request.app[FILES]
    path = request.match_info.get("path", "")
    entries = await files.list(task, path)
    if entries is not None:
        return reply(rows(entries))
    if not path:
        raise Missing("The task has no files.")
    return OpenFile(request, await files.open(task, path), path.rstrip("/").rsplit("/", 1)[-1])


async def put(request: web.Request) -> web.Response:
    """Store a file."""
    tasks, files = request.app[TASKS], request.app[FILES]
    task = await tasks.for_edit(task_id_of(request), request[USER])
    name = files.check_name(task, request.match_info["path"])
    async with received(request, task.user) as new:
        if new.upload is None:
            raise Invalid.field("file", "a file is needed, as multipart/form-data")
        # the upload may have taken long
        task = await tasks.for_edit(task.id, request[USER])
        files.check_name(task, name)
        size = await files.put(task, name, new.upload)
    return reply({"path": name, "size": size}, 201)


async def delete(request: web.Request) -> web.Response:
    """Delete a file or folder."""
    task = await request.app[TASKS].for_edit(task_id_of(request), request[USER])
    await request.app[FILES].remove(task, request.match_info.get("path", ""))
    return web.Response(status=204)


ROUTES = (
    Operation("GET", "/api/tasks/{id}/files", get, reply=list[FileRow]),
    Operation("DELETE", "/api/tasks/{id}/files", delete, status=405, errors=(405,)),
    Operation(
        "GET", "/api/tasks/{id}/files/{path:.+}", get, reply=list[FileRow], media=(ANY,), errors=(206, 304, 412, 416)
    ),
    Operation("POST", "/api/tasks/{id}/files/{path:.+}", put, reply=Stored, status=201, upload=True, errors=(409,)),
    Operation("DELETE", "/api/tasks/{id}/files/{path:.+}", delete, status=204, errors=(405, 409)),
)
