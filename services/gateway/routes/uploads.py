"""Uploads: streamed to disk in large pieces, by threads, with constant memory."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import BodyPartReader, web

from ..domain.errors import Invalid, Missing, TooLarge, Unavailable
from ..domain.making import NewTask, extension_of
from ..domain.room import DISK_FULL, Room
from ..keys import DATA, QUOTA, ROOM, ROOT
from .replies import UNREADABLE, add_field, check_encoding, check_parts, read_fields

_PIECE: Final = 2**20  # bytes handed to a thread at a time; also how much memory an upload takes
_MAX_FIELD: Final = 300 * 1024
_MAX_FIELDS_BYTES: Final = 16 * 2**20  # more than all fields of a form together


@asynccontextmanager
async def received(request: web.Request, owner: str) -> AsyncIterator[NewTask]:
    """Read fields and file of a request; the file is deleted afterwards if nobody has moved it.

    Parameters
    ----------
    owner
        Whose disk space the file takes.
    """
    upload, quota = request.app[ROOT].incoming(), request.app[QUOTA]
    if request.content_type == "multipart/form-data":
        await quota.check(owner, max(0, (request.content_length or 0) - _MAX_FIELDS_BYTES))
    try:
        new = await _receive(request, upload)
        if new.upload is not None:
            await quota.take(owner, (await asyncio.to_thread(new.upload.stat)).st_size)
        yield new
    finally:
        await asyncio.to_thread(upload.unlink, missing_ok=True)


async def _receive(request: web.Request, upload: Path) -> NewTask:
    room = request.app[ROOM]
    if request.content_type != "multipart/form-data":
        return await _with_local(request, await read_fields(request), upload, room)
    check_encoding(request)
    room.check_size((request.content_length or 0) - _MAX_FIELDS_BYTES)
    await asyncio.to_thread(room.check, request.content_length or 0)
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
                await _write(part, upload, room)
    except UNREADABLE:
        raise Invalid("The form cannot be read, or ended too early.") from None
    if name is None:
        return await _with_local(request, fields, upload, room)
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


async def _write(part: BodyPartReader, upload: Path, room: Room) -> None:
    size = 0
    piece = bytearray()
    fd = await asyncio.to_thread(os.open, upload, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        while chunk := await part.read_chunk(2**18):
            size += len(chunk)
            room.check_size(size)
            piece += chunk
            if len(piece) >= _PIECE:
                await asyncio.to_thread(_put, fd, piece, room)
                piece = bytearray()
        await asyncio.to_thread(_finish, fd, piece, room)
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        raise Unavailable(DISK_FULL) from error
    finally:
        os.close(fd)


def _put(fd: int, piece: bytearray, room: Room) -> None:
    room.check(len(piece))
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]


def _finish(fd: int, piece: bytearray, room: Room) -> None:
    _put(fd, piece, room)
    os.fsync(fd)


async def _with_local(request: web.Request, fields: Any, upload: Path, room: Room) -> NewTask:
    """Take the file from the shared data directory, if the fields name one."""
    path = fields.get("local_file")
    if path in (None, ""):
        return NewTask(fields)
    if not isinstance(path, str):
        raise Invalid.field("local_file", "must be a text")
    extension_of(fields)  # before the file is copied for nothing
    fd = await _open(request, path)
    try:
        await asyncio.to_thread(_copy, fd, upload, room)
    except OSError as error:
        raise Unavailable(DISK_FULL) from error
    return NewTask(fields, upload, path.rsplit("/", 1)[-1])


async def _open(request: web.Request, path: str) -> int:
    try:
        return await request.app[DATA].open(path)
    except Missing:
        raise Invalid.field("local_file", "there is no such file in the shared data directory") from None


def _copy(fd: int, upload: Path, room: Room) -> None:
    """Copy an open file, and close it. Never a link: people go on writing into files of the data directory."""
    with open(fd, "rb") as source, upload.open("xb") as target:
        size = os.fstat(fd).st_size
        room.check_size(size)
        room.check(size)
        shutil.copyfileobj(source, target, _PIECE)
        target.flush()
        os.fsync(target.fileno())
