"""Following a task by server-sent events, and being called at the end of a run."""

import contextlib
import hashlib
import hmac
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import MakeTask, create
from tests.support.conformance import Site, a_run, check_error, check_ok, ended, needs, wait_until


@dataclass(frozen=True)
class Event:
    name: str
    number: int | None
    data: dict[str, Any]


def parsed(lines: Iterator[str]) -> Iterator[Event]:
    """Read server-sent events as a browser does."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            number = int(fields["id"]) if "id" in fields else None
            yield Event(fields.get("event", "message"), number, json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


class Follower:
    """Follows a task in a thread, and keeps what it hears."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.heard: list[Event] = []
        self.over = threading.Event()
        self._lines = lines

    def run(self) -> None:
        with contextlib.suppress(httpx.HTTPError, httpx.StreamError, OSError):
            for event in parsed(self._lines):
                self.heard.append(event)
        self.over.set()

    def until(self, condition: Callable[[Event], bool], timeout_s: float = 30) -> Event:
        def look() -> Event | None:
            return next(filter(condition, list(self.heard)), None)

        return wait_until(look, timeout_s, f"an event, beside {[event.name for event in self.heard]}")

    def states(self) -> list[str]:
        return [event.data["state"] for event in self.heard if event.name == "state"]


@contextlib.contextmanager
def following(site: Site, api: httpx.Client, task_id: int, last: int | None = None) -> Iterator[Follower]:
    headers = {"Authorization": api.headers["Authorization"]}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    with site.client(headers=headers) as client, client.stream("GET", f"/tasks/{task_id}/events/") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        follower = Follower(answer.iter_lines())
        thread = threading.Thread(target=follower.run, daemon=True)
        thread.start()
        try:
            yield follower
        finally:
            # only shutting the socket down wakes the reader; at the end of the stream it is closed already
            with contextlib.suppress(OSError):
                answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            thread.join(10)


def process(api: httpx.Client, task_id: int, *steps: str, **more: Any) -> dict[str, Any]:
    return dict(check_ok(api.post(f"/tasks/{task_id}/process/", json={"steps": list(steps), **more})))


def is_state(state: str) -> Callable[[Event], bool]:
    return lambda event: event.name == "state" and event.data["state"] == state


def test_the_first_event_tells_how_the_task_stands(site: Site, owner: httpx.Client, kept: dict[str, Any]) -> None:
    with following(site, owner, kept["id"]) as follower:
        first = follower.until(lambda _: True)
    assert first.name == "state"
    assert first.number is not None
    assert (first.data["id"], first.data["state"], first.data["celery_id"]) == (kept["id"], "uploaded", None)


def test_states_steps_and_log_lines_of_a_run(
    site: Site, owner: httpx.Client, make_task: MakeTask, field_fits: bytes
) -> None:
    task_id = make_task(field_fits)["id"]
    with following(site, owner, task_id) as follower:
        follower.until(is_state("uploaded"))
        chain = process(owner, task_id, "cleanup", "inspect", "inspect")["celery_id"]
        follower.until(is_state("inspect_done"))
    assert follower.states()[0] == "uploaded"
    assert set(follower.states()[1:-1]) <= {"running"}
    running = next(event for event in follower.heard if is_state("running")(event))
    assert running.data["celery_id"] == chain
    numbers = [event.number for event in follower.heard if event.number is not None]
    assert numbers == sorted(set(numbers))
    steps = [event.data for event in follower.heard if event.name == "step"]
    assert [step["step"] for step in steps if step["state"] == "done"] == ["cleanup", "inspect", "inspect"]
    lines = [line for event in follower.heard if event.name == "log" for line in event.data["lines"]]
    log = owner.get(f"/tasks/{task_id}/files/inspect.log").text
    assert {event.name for event in follower.heard} <= {"state", "step", "progress", "log", "gap"}
    assert any(line.strip() and line.strip() in log for line in lines)


def test_a_failure_is_told_with_its_reason(site: Site, owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(b"this is not FITS")["id"]
    with following(site, owner, task_id) as follower:
        process(owner, task_id, "inspect")
        event = follower.until(is_state("inspect_failed"))
    assert event.data["error"] == check_ok(owner.get(f"/tasks/{task_id}/"))["error"]


def test_last_event_id_resumes(site: Site, owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    with following(site, owner, task_id) as follower:
        last = follower.until(is_state("initial")).number
    assert last is not None
    with following(site, owner, task_id, last) as follower:  # nothing was missed
        process(owner, task_id, "cleanup")
        follower.until(is_state("cleanup_done"))
    assert "initial" not in follower.states()
    with following(site, owner, task_id, last) as follower:  # all of the run was
        first = follower.until(lambda event: event.name == "state")
    assert first.data["state"] == "cleanup_done"
    assert first.number is not None
    assert first.number > last


@pytest.mark.parametrize("value", ["x", "-1", "", "9" * 40])
def test_a_last_event_id_that_is_none_is_ignored(
    site: Site, owner: httpx.Client, kept: dict[str, Any], value: str
) -> None:
    headers = {"Last-Event-ID": value, "Authorization": owner.headers["Authorization"]}
    with site.client(headers=headers) as client, client.stream("GET", f"/tasks/{kept['id']}/events/") as answer:
        assert answer.status_code == 200
        assert next(parsed(answer.iter_lines())).data["state"] == "uploaded"


def test_the_stream_ends_when_the_task_is_deleted(site: Site, owner: httpx.Client) -> None:
    task_id = create(owner)["id"]
    with following(site, owner, task_id) as follower:
        follower.until(is_state("initial"))
        assert owner.delete(f"/tasks/{task_id}/").status_code == 204
        event = follower.until(lambda event: event.name == "end")
        assert event.data["reason"] == "deleted"
        assert follower.over.wait(10)


def test_who_may_not_view_may_not_follow(
    site: Site, stranger: httpx.Client, viewer: httpx.Client, anonymous: httpx.Client, kept: dict[str, Any]
) -> None:
    check_error(stranger.get(f"/tasks/{kept['id']}/events/"), 403)
    check_error(stranger.get("/tasks/999999999/events/"), 404)
    check_error(anonymous.get(f"/tasks/{kept['id']}/events/"), 401)
    with following(site, viewer, kept["id"]) as follower:
        follower.until(is_state("uploaded"))


def test_cancel_is_told(site: Site, owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    with following(site, owner, task_id) as follower:
        with a_run(owner, task_id):
            follower.until(is_state("running"))
        follower.until(is_state("cancelled"))


@dataclass(frozen=True)
class Call:
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Is called back; answers with the statuses of `answers`, then with 200."""

    def __init__(self, host: str) -> None:
        calls: queue.Queue[Call] = queue.Queue()
        answers: list[int] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                calls.put(Call(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(answers.pop(0) if answers else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.calls, self.answers = calls, answers
        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self.server.server_port}/told"


@pytest.fixture
def receiver(site: Site) -> Iterator[Receiver]:
    made = Receiver(site.callback_host or needs("CALLBACK_HOST"))
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join(10)


@pytest.fixture
def secret(owner: httpx.Client) -> str:
    return str(check_ok(owner.post("/callbacks/secret/"))["secret"])


def test_callback_url_is_told_of_the_end_signed(
    owner: httpx.Client, make_task: MakeTask, receiver: Receiver, secret: str
) -> None:
    task_id = make_task()["id"]
    chain = process(owner, task_id, "cleanup", callback_url=f"{receiver.url}?key=1")["celery_id"]
    call = receiver.calls.get(timeout=20)
    assert call.path == "/told?key=1"

    def delivered() -> dict[str, Any] | None:
        callback: dict[str, Any] = check_ok(owner.get(f"/tasks/{task_id}/runs/"))[0]["callback"]
        return callback if callback["state"] == "delivered" else None

    callback = wait_until(delivered, 10, "the history says that it was delivered")
    assert (callback["url"], callback["attempts"]) == (receiver.url, 1)  # without the query, which may be secret
    told = json.loads(call.body)
    assert (told["task_id"], told["run_id"], told["state"]) == (task_id, chain, "cleanup_done")
    assert told["event_id"] == call.headers["x-stdweb-event"]
    at = call.headers["x-stdweb-timestamp"]
    assert abs(int(at) - time.time()) < 300  # seconds; the clocks of two hosts may differ
    expected = hmac.new(secret.encode(), at.encode() + b"." + call.body, hashlib.sha256).hexdigest()
    assert call.headers["x-stdweb-signature"] == f"sha256={expected}"


def test_callback_comes_again_with_the_same_event_until_it_is_taken(
    owner: httpx.Client, make_task: MakeTask, receiver: Receiver, secret: str
) -> None:
    receiver.answers += [500]
    task_id = make_task(b"this is not FITS")["id"]
    process(owner, task_id, "inspect", callback_url=receiver.url)
    first, second = receiver.calls.get(timeout=20), receiver.calls.get(timeout=40)
    assert first.body == second.body
    assert first.headers["x-stdweb-event"] == second.headers["x-stdweb-event"]
    assert json.loads(first.body)["state"] == "inspect_failed"
    assert ended(owner, task_id)["error"] == json.loads(first.body)["error"]


def test_callback_follows_no_redirect(
    owner: httpx.Client, make_task: MakeTask, receiver: Receiver, secret: str
) -> None:
    receiver.answers += [307]
    process(owner, make_task()["id"], "cleanup", callback_url=receiver.url)
    assert {receiver.calls.get(timeout=20).path, receiver.calls.get(timeout=40).path} == {"/told"}


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/x",
        "http://192.168.1.1/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/x",
        "http://[fd00::1]/x",
        "http://[::ffff:10.0.0.1]/x",
        "http://0.0.0.0/x",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "http://user:pass@example.org/",
        "http://example.org:22/",
        "http:///x",
        "example.org",
        "",
        "http://example.org/" + "a" * 5000,
        "http://example.org/\r\nX: y",
        7,
        ["http://example.org/"],
    ],
)
def test_a_private_or_bad_callback_url_is_400_and_nothing_is_queued(
    owner: httpx.Client, kept: dict[str, Any], secret: str, url: Any
) -> None:
    body = {"steps": ["cleanup"], "callback_url": url}
    check_error(owner.post(f"/tasks/{kept['id']}/process/", json=body), 400, "callback_url")
    assert check_ok(owner.get(f"/tasks/{kept['id']}/runs/")) == []
