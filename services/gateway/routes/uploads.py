"""Uploads: streamed to disk in large pieces, by threads, with constant memory."""

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import BodyPartReader, web

from shared.taskdir import BadName, open_directory, open_root, safe_parts

from ..domain.errors import Invalid, TooLarge, Unavailable
from ..domain.tasks import NewTask
from ..keys import ROOT, SETTINGS
from .replies import UNREADABLE, add_field, check_parts, read_fields

_PIECE: Final = 4 * 2**20  # bytes handed to a thread at a time; also how much memory an upload takes
_MAX_FIELD: Final = 300 * 1024
_MAX_FIELDS_BYTES: Final = 16 * 2**20  # more than all fields of a form together
_DISK_FULL: Final = "The server has no room for this upload; tell its administrator, or try again later."


class _Limits:
    def __init__(self, request: web.Request) -> None:
        settings = request.app[SETTINGS]
        self.folder = request.app[ROOT].path
        self.most = settings.max_upload_bytes
        self.reserve = settings.reserve_bytes

    def check(self, size: int) -> None:
        """Refuse an upload of at least so many bytes, if it is too large or leaves too little room."""
        if size > self.most:
            raise TooLarge(f"A file may have at most {self.most} bytes.")

    def check_room(self, more: int) -> None:
        """Refuse to write so many bytes more, if that leaves too little room."""
        if shutil.disk_usage(self.folder).free - more < self.reserve:
            raise Unavailable(_DISK_FULL)


@asynccontextmanager
async def received(request: web.Request) -> AsyncIterator[NewTask]:
    """Read fields and file of a request; the file is deleted afterwards if nobody has moved it."""
    upload = request.app[ROOT].incoming()
    try:
        yield await _receive(request, upload)
    finally:
        await asyncio.to_thread(upload.unlink, missing_ok=True)


async def _receive(request: web.Request, upload: Path) -> NewTask:
    limits = _Limits(request)
    if request.content_type != "multipart/form-data":
        return await _with_local(request, await read_fields(request), upload, limits)
    limits.check((request.content_length or 0) - _MAX_FIELDS_BYTES)
    await asyncio.to_thread(limits.check_room, request.content_length or 0)
    fields: dict[str, str] = {}
    name: str | None = None
    parts = 0
    try:
        async for part in await request.multipart():
            parts += 1
            if not isinstance(part, BodyPartReader) or not part.name:
                raise Invalid("A part of the form has no name, or is a form itself.")
            check_parts(parts)
            if part.name != "file":
                add_field(fields, part.name, await _text(part))
            elif name is not None:
                raise Invalid.field("file", "only one file may be given")
            else:
                name = (part.filename or "").replace("\\", "/").rsplit("/", 1)[-1]
                await _write(part, upload, limits)
    except UNREADABLE:
        raise Invalid("The form cannot be read, or ended too early.") from None
    if name is None:
        return await _with_local(request, fields, upload, limits)
    return NewTask(fields, upload, name)


async def _text(part: BodyPartReader) -> str:
    data = bytearray()
    while chunk := await part.read_chunk():
        data += chunk
        if len(data) > _MAX_FIELD:
            raise TooLarge(f"A field may have at most {_MAX_FIELD} bytes.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Invalid.field(str(part.name), "is not UTF-8 text") from None


async def _write(part: BodyPartReader, upload: Path, limits: _Limits) -> None:
    size = 0
    piece = bytearray()
    fd = await asyncio.to_thread(os.open, upload, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        while chunk := await part.read_chunk(2**18):
            size += len(chunk)
            limits.check(size)
            piece += chunk
            if len(piece) >= _PIECE:
                await asyncio.to_thread(_put, fd, piece, limits)
                piece = bytearray()
        await asyncio.to_thread(_finish, fd, piece, limits)
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        raise Unavailable(_DISK_FULL) from error
    finally:
        os.close(fd)


def _put(fd: int, piece: bytearray, limits: _Limits) -> None:
    limits.check_room(len(piece))
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]


def _finish(fd: int, piece: bytearray, limits: _Limits) -> None:
    _put(fd, piece, limits)
    os.fsync(fd)


async def _with_local(request: web.Request, fields: Any, upload: Path, limits: _Limits) -> NewTask:
    """Take the file from the shared data directory, if the fields name one."""
    path = fields.get("local_file")
    if path in (None, ""):
        return NewTask(fields)
    if fields.get("ext") not in (None, ""):
        raise Invalid.field("ext", "cannot be given yet; without it the first usable plane is taken")
    if not isinstance(path, str):
        raise Invalid.field("local_file", "must be a text")
    data = request.app[SETTINGS].data_dir / "data"
    try:
        await asyncio.to_thread(_copy, data, path, upload, limits)
    except OSError as error:
        raise Unavailable(_DISK_FULL) from error
    return NewTask(fields, upload, path.rsplit("/", 1)[-1])


def _copy(data: Path, path: str, upload: Path, limits: _Limits) -> None:
    try:
        parts = safe_parts(path)
        root = open_root(data)
        try:
            folder = open_directory(parts[:-1], root)
        finally:
            os.close(root)
        try:
            fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
    except (BadName, OSError):
        raise Invalid.field("local_file", "there is no such file in the shared data directory") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Invalid.field("local_file", "is not a file")
        limits.check(status.st_size)
        limits.check_room(status.st_size)
        with open(fd, "rb", closefd=False) as source, upload.open("xb") as target:
            shutil.copyfileobj(source, target, _PIECE)
            target.flush()
            os.fsync(target.fileno())
    finally:
        os.close(fd)
