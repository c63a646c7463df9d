"""An archive, or who has taken it over, that answers with more than there is room for."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from shared.science.archives import MAX_ANSWER_BYTES, ArchiveFaultError, session

MEMBER = gzip.compress(bytes(8 << 20))


class Bomb(BaseHTTPRequestHandler):
    """Half a megabyte that unpacks to more than is ever taken."""

    def do_GET(self) -> None:
        content = MEMBER * (MAX_ANSWER_BYTES // (8 << 20) + 1)
        assert len(content) < 1 << 20
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Bomb)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_that_unpacks_without_end_is_a_fault_of_the_archive(url: str) -> None:
    with session(60) as http, pytest.raises(ArchiveFaultError, match="larger than 512 MiB"):
        http.get(url, stream=True)
