"""Between the worker and a step's process: JSON behind a length of four bytes. No pickle."""

import asyncio
import json
import socket
import struct
from typing import Any, Final

_LENGTH: Final = struct.Struct("!I")
_MAX_BYTES: Final = 64 * 2**20

Frame = dict[str, Any]


class WireClosed(Exception):
    """The other side is gone."""


def encode(frame: Frame) -> bytes:
    """Make the bytes of a frame.

    Raises
    ------
    ValueError
        For NaN and infinity, which are not JSON.
    """
    body = json.dumps(frame, allow_nan=False).encode()
    return _LENGTH.pack(len(body)) + body


def receive(sock: socket.socket) -> Frame:
    """Read a frame, blocking.

    Raises
    ------
    WireClosed
        When there is none.
    """
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    frame: Frame = json.loads(_exactly(sock, length))
    return frame


def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        try:
            part = sock.recv(min(size, 2**16))
        except OSError as error:
            raise WireClosed from error
        if not part:
            raise WireClosed
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


async def read(reader: asyncio.StreamReader) -> Frame:
    """Read a frame.

    Raises
    ------
    WireClosed
        When the process is gone, or says what no process of ours says.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > _MAX_BYTES:
            raise WireClosed
        frame: Frame = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError, ValueError) as error:
        raise WireClosed from error
    return frame
