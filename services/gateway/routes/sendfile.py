"""Sends a file through a connection without copying it, on every event loop: uvloop has no `sendfile` of its own."""

import asyncio
import os
from typing import Final

from aiohttp.abc import AbstractStreamWriter

_MOST: Final = 8 * 2**20  # bytes a call; the kernel takes what fits into the socket's buffer


async def send_file(
    transport: asyncio.WriteTransport, writer: AbstractStreamWriter, file_fd: int, offset: int, count: int
) -> bool:
    """Send bytes of a file after what has been written already.

    A thread reads, because the disk, or a server of NFS, may take its time; the loop waits for the client.

    Returns
    -------
    bool
        False when this connection does not allow it; then nothing was sent.

    Raises
    ------
    ConnectionError
        When the client went away, or the file has become shorter.
    """
    if transport.get_extra_info("sslcontext") is not None:
        return False
    transport.set_write_buffer_limits(high=0)
    try:
        await writer.drain()  # the headers come first
    finally:
        transport.set_write_buffer_limits()
    if transport.is_closing():
        raise ConnectionResetError("the client went away")
    if transport.get_write_buffer_size():
        return False
    loop = asyncio.get_running_loop()
    # our own descriptors: the transport, or who has called, may close theirs while a thread still uses them
    ours = (os.dup(transport.get_extra_info("socket").fileno()), os.dup(file_fd))
    working: asyncio.Future[int] | None = None
    try:
        while count:
            working = loop.run_in_executor(None, _send, *ours, offset, min(count, _MOST))
            sent = await asyncio.shield(working)
            if sent < 0:
                await _writable(loop, ours[0])
                continue
            if sent == 0:
                raise ConnectionAbortedError("the file became shorter while it was sent")
            offset += sent
            count -= sent
    finally:
        if working is None or working.done():
            _close(ours)
        else:
            working.add_done_callback(lambda _: _close(ours))  # cancelled: nobody asks for its result
            working.add_done_callback(asyncio.Future.exception)
    return True


def _send(socket_fd: int, file_fd: int, offset: int, count: int) -> int:
    try:
        return os.sendfile(socket_fd, file_fd, offset, count)
    except BlockingIOError:
        return -1


async def _writable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(fd, wake)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
