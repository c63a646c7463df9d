"""The client of the command line, with a server that plays a part."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stdweb.client import ApiError, Client
from stdweb.submit import follow

RUNNING = (200, {"id": 1, "state": "running", "step": "inspect", "progress": {"fraction": 0.5, "phase": "[mask]"}})
DONE = (200, {"id": 1, "state": "inspect_done"})
AWAY = (503, {"detail": "The store is away; try again later."})
CUT = (0, {})


@contextmanager
def server(*answers: tuple[int, dict]) -> Iterator[str]:
    """Give these answers one after the other, and the last one again and again; status 0 cuts the connection."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = left.pop(0) if len(left) > 1 else left[0]
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/api"
        finally:
            http.shutdown()
            thread.join()


def test_a_service_that_is_away_for_a_moment_is_waited_for() -> None:
    with server(RUNNING, AWAY, CUT, RUNNING, DONE) as url, Client(url, "0") as client:
        assert [task["state"] for task in follow(client, [1])] == ["inspect_done"]


@pytest.mark.parametrize(
    ("answer", "said"), [(AWAY, "The store is away"), (CUT, "No answer from http://127.0.0.1")], ids=["503", "cut"]
)
def test_one_that_stays_away_is_said(answer: tuple[int, dict], said: str) -> None:
    with server(RUNNING, answer) as url, Client(url, "0") as client, pytest.raises(ApiError, match=said):
        follow(client, [1], patience_s=0.1)


def test_a_refusal_is_said_at_once() -> None:
    with (
        server(RUNNING, (403, {"detail": "You may not see this task."})) as url,
        Client(url, "0") as client,
        pytest.raises(ApiError, match="You may not see") as refused,
    ):
        follow(client, [1])
    assert refused.value.status == 403


def test_what_was_wrong_with_a_field_is_said_once() -> None:
    body = {"detail": "sn: must be above 0", "errors": {"sn": ["must be above 0"], "filter": ["unknown"]}}
    with server((400, body)) as url, Client(url, "0") as client, pytest.raises(ApiError) as refused:
        client.task(1)
    assert str(refused.value).splitlines() == ["sn: must be above 0", "filter: unknown"]
