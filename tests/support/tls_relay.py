"""A process that takes TLS connections on a port of its own, and hands what is in them on: CERTIFICATE PORT."""

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def behind_tls(certificate: Path, port: int) -> Iterator[int]:
    """Run one for as long as the block takes; gives its port."""
    command = [sys.executable, "-m", __name__, str(certificate), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as relay:
        try:
            assert relay.stdout is not None
            yield int(relay.stdout.readline())
        finally:
            relay.kill()


async def main(certificate: str, port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pour(reader, back), pour(there, writer))

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - for who has started it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
