"""Files of a task: list, get, put, delete."""

import mimetypes
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from shared.taskdir import Entry

from ..domain.errors import Invalid, Missing
from ..keys import FILES, TASKS, USER
from .replies import iso, reply, task_id_of
from .uploads import received

_TYPES = {".fits": "application/fits", ".vot": "application/x-votable+xml", ".reg": "text/plain", ".log": "text/plain"}


class OpenFile(web.FileResponse):
    """Sends a file from its open descriptor, so that no other can take its place; ranges and ETag are aiohttp's."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(f"/proc/self/fd/{fd}")
        self._fd = fd
        fallback = name.encode("ascii", "replace").decode().replace('"', "_").replace("?", "_")
        exact = f"UTF-8''{quote(name, safe='')}"
        self.headers["Content-Disposition"] = f'attachment; filename="{fallback}"; filename*={exact}'
        suffix = os.path.splitext(name)[1]
        self.content_type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        self.headers["X-Content-Type-Options"] = "nosniff"

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send headers and file, and close it."""
        try:
            return await super().prepare(request)
        finally:
            os.close(self._fd)


def _rows(entries: Sequence[Entry]) -> list[dict[str, object]]:
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
        return reply(_rows(entries))
    if not path:
        raise Missing("The task has no files.")
    return OpenFile(await files.open(task, path), path.rsplit("/", 1)[-1])


async def put(request: web.Request) -> web.Response:
    """Store a file."""
    tasks, files = request.app[TASKS], request.app[FILES]
    task = await tasks.for_edit(task_id_of(request), request[USER])
    name = files.check_name(task, request.match_info["path"])
    async with received(request) as new:
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
    ("GET", "/api/tasks/{id}/files", get),
    ("DELETE", "/api/tasks/{id}/files", delete),
    ("GET", "/api/tasks/{id}/files/{path:.+}", get),
    ("POST", "/api/tasks/{id}/files/{path:.+}", put),
    ("DELETE", "/api/tasks/{id}/files/{path:.+}", delete),
)
