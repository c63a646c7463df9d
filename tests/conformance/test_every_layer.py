"""What holds for every call: slashes, HEAD, OPTIONS, Accept, and one form of errors from every layer."""

import gzip
from typing import Any

import httpx
import pytest

from tests.support.conformance import TIMESTAMP, Site, check_error, check_error_body, check_ok

GETS = (
    "/tasks",
    "/tasks/{id}",
    "/tasks/{id}/state",
    "/tasks/{id}/files",
    "/tasks/{id}/runs",
    "/tasks/{id}/results",
    "/queue",
    "/files",
    "/presets",
    "/reference",
    "/reference/filters",
    "/reference/catalogs",
    "/reference/templates",
    "/version",
    "/schema",
    "/docs",
)
EXACT = ("/tasks/{id}/files/notes.txt", "/tasks/{id}/preview/image.fits")
ACCEPTS = ("application/xml", "text/html", "image/png;q=0.1", "application/json; version=9", "nonsense", "*/*;q=0")


@pytest.mark.parametrize("path", GETS)
def test_every_path_is_served_with_and_without_its_trailing_slash(owner: httpx.Client, kept: dict, path: str) -> None:
    bare = owner.get(path.format_map(kept))
    slash = owner.get(path.format_map(kept) + "/")
    assert bare.status_code == slash.status_code == 200, (bare.text[:200], slash.text[:200])
    assert bare.headers["content-type"] == slash.headers["content-type"]


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", ["/tasks/{id}/cancel", "/tasks/{id}/process", "/queue/none/terminate"])
def test_posts_are_served_with_and_without_trailing_slash(
    owner: httpx.Client, kept: dict, path: str, slash: str
) -> None:
    answer = owner.post(path.format_map(kept) + slash, json={})
    check_error(answer, 404 if "queue" in path else 400)


@pytest.mark.parametrize("path", GETS + EXACT)
def test_head_works_wherever_get_does(owner: httpx.Client, kept: dict, path: str) -> None:
    got, head = owner.get(path.format_map(kept)), owner.head(path.format_map(kept))
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("path", GETS + EXACT)
def test_options_works_wherever_get_does(owner: httpx.Client, kept: dict, path: str) -> None:
    answer = owner.request("OPTIONS", path.format_map(kept))
    assert answer.status_code in {200, 204}
    assert {"GET", "HEAD", "OPTIONS"} <= set(answer.headers["allow"].replace(" ", "").split(","))


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("path", ["/tasks/", "/reference/", *EXACT])
def test_accept_never_causes_a_406(owner: httpx.Client, kept: dict, path: str, accept: str) -> None:
    assert owner.get(path.format_map(kept), headers={"Accept": accept}).status_code == 200


def test_errors_are_json_whatever_is_accepted(owner: httpx.Client) -> None:
    check_error(owner.get("/tasks/999999999/", headers={"Accept": "text/html"}), 404)


@pytest.mark.parametrize("path", ["/nothing", "/nothing/", "/tasks/1/nothing/", "/tasks/x/y/z", "/reference/nothing/"])
def test_unknown_path_is_404_with_detail_and_request_id(owner: httpx.Client, path: str) -> None:
    check_error(owner.get(path), 404)


def test_unknown_path_outside_of_the_api_is_json_too(owner: httpx.Client, site: Site) -> None:
    answer = owner.get(str(httpx.URL(site.url).join("/nothing/at/all")))
    assert answer.status_code in {401, 404}
    check_error(answer, answer.status_code)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/tasks/", {"GET", "POST"}),
        ("PUT", "/tasks/{id}/", {"GET", "PATCH", "POST", "DELETE"}),
        ("POST", "/tasks/{id}/state/", {"GET"}),
        ("GET", "/tasks/{id}/process/", {"POST"}),
        ("GET", "/tasks/{id}/cancel/", {"POST"}),
        ("GET", "/tasks/{id}/fix/", {"POST"}),
        ("GET", "/tasks/{id}/crop/", {"POST"}),
        ("GET", "/tasks/{id}/destripe/", {"POST"}),
        ("GET", "/tasks/{id}/duplicate/", {"POST"}),
        ("POST", "/tasks/{id}/preview/image.fits", {"GET"}),
        ("POST", "/queue/", {"GET"}),
        ("POST", "/presets/", {"GET"}),
        ("POST", "/files/x", {"GET"}),
        ("DELETE", "/files/x", {"GET"}),
        ("PUT", "/reference/", {"GET"}),
        ("PROPFIND", "/tasks/", {"GET", "POST"}),
    ],
)
def test_wrong_method_is_405_with_allow(
    owner: httpx.Client, kept: dict, method: str, path: str, allowed: set[str]
) -> None:
    answer = owner.request(method, path.format_map(kept))
    check_error(answer, 405)
    assert allowed <= set(answer.headers["allow"].replace(" ", "").split(","))


def test_get_of_the_token_address_is_405(anonymous: httpx.Client) -> None:
    answer = anonymous.get("/auth/token/")
    check_error(answer, 405)
    assert "POST" in answer.headers["allow"]


MALFORMED = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00 hello\r\n\r\n",
    "a header without a name": b"GET BASE/tasks/ HTTP/1.1\r\nHost: HOST\r\n: x\r\n\r\n",
    "a length that is no number": b"POST BASE/auth/token/ HTTP/1.1\r\nHost: HOST\r\nContent-Length: many\r\n\r\n",
    "two lengths": b"POST BASE/auth/token/ HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST BASE/auth/token/ HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a header line of 64 KiB": b"GET BASE/reference/ HTTP/1.1\r\nHost: HOST\r\nX-Long: " + b"a" * 65536 + b"\r\n\r\n",
    "an address of 64 KiB": b"GET BASE/" + b"a" * 65536 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "a method that nobody knows": b"BREW BASE/tasks/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "a NUL in a header": b"GET BASE/reference/ HTTP/1.1\r\nHost: HOST\r\nX-Nul: a\0b\r\n\r\n",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_http_is_answered_with_json(site: Site, what: str) -> None:
    answer, body = site.raw(MALFORMED[what])
    assert 400 <= answer.status < 500
    check_error_body(answer.headers, body)


def test_unknown_expectation_is_417_or_ignored_with_json(site: Site) -> None:
    answer, body = site.raw(
        b"GET BASE/reference/ HTTP/1.1\r\nHost: HOST\r\nExpect: a miracle\r\nConnection: close\r\n\r\n"
    )
    if answer.status != 200:
        assert answer.status == 417
        check_error_body(answer.headers, body)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b"{"),
        ("application/json", b"[1, 2]"),
        ("application/json", b"\xff\xfe"),
        ("application/json", b'{"steps": ' + b"[" * 100_000),
        ("application/json", b'"steps"'),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n"),
        ("application/x-www-form-urlencoded; charset=klingon", b"steps=1"),
    ],
)
def test_a_body_that_cannot_be_read_is_400(owner: httpx.Client, kept: dict, kind: str, content: bytes) -> None:
    answer = owner.post(f"/tasks/{kept['id']}/process/", content=content, headers={"Content-Type": kind})
    check_error(answer, 400)


def test_a_body_of_another_type_is_415(owner: httpx.Client, kept: dict) -> None:
    headers = {"Content-Type": "application/xml"}
    check_error(owner.post(f"/tasks/{kept['id']}/process/", content=b"<steps/>", headers=headers), 415)


def test_a_body_that_is_too_large_is_413(owner: httpx.Client, kept: dict) -> None:
    content = b'{"title": "' + b"a" * 5_000_000 + b'"}'
    answer = owner.patch(f"/tasks/{kept['id']}/", content=content, headers={"Content-Type": "application/json"})
    check_error(answer, 413)


def test_a_body_that_unpacks_to_too_much_is_413(owner: httpx.Client, kept: dict) -> None:
    content = gzip.compress(b'{"title": "' + b"a" * 20_000_000 + b'"}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    check_error(owner.patch(f"/tasks/{kept['id']}/", content=content, headers=headers), 413)
    check_error(owner.patch(f"/tasks/{kept['id']}/", content=b"no gzip", headers=headers), 400)


def test_a_declared_upload_beyond_the_limit_is_413_before_it_is_sent(site: Site, owner: httpx.Client) -> None:
    token = owner.headers["Authorization"].encode()
    head = b"POST BASE/tasks/ HTTP/1.1\r\nHost: HOST\r\nAuthorization: " + token + b"\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 999999999999999\r\n\r\n"
    answer, body = site.raw(head)
    assert answer.status == 413
    check_error_body(answer.headers, body)


def test_request_id_of_the_client_is_kept(owner: httpx.Client) -> None:
    answer = owner.get("/tasks/999999999/", headers={"X-Request-ID": "conformance-1234"})
    assert check_error(answer, 404)["request_id"] == "conformance-1234"


def test_every_answer_carries_its_own_request_id(owner: httpx.Client) -> None:
    ids = {owner.get("/reference/").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


def test_a_request_id_that_is_no_id_is_not_repeated(owner: httpx.Client) -> None:
    answer = owner.get("/reference/", headers={"X-Request-ID": "<script>alert(1)</script>"})
    assert "<" not in answer.headers["x-request-id"]


@pytest.mark.parametrize("task_id", ["0", "-1", "1e3", "abc", "99999999999999999999999", "1.0", "%00", "١"])
def test_ids_that_are_none_are_404(owner: httpx.Client, task_id: str) -> None:
    check_error(owner.get(f"/tasks/{task_id}/"), 404)


def test_messages_show_neither_server_paths_nor_other_users(owner: httpx.Client, kept: dict) -> None:
    for path in ("files/nothing.txt", "files/../../x", "preview/notes.txt", "preview/nothing.fits"):
        answer = owner.get(f"/tasks/{kept['id']}/{path}")
        check_error(answer, answer.status_code)


def test_dates_in_headers_and_json_charset(owner: httpx.Client) -> None:
    answer: Any = owner.get("/tasks/")
    check_ok(answer)
    assert "date" in answer.headers


TIMES = {"created", "modified", "completed", "started", "ended", "time", "at"}


def times_in(value: Any) -> list[str]:
    if isinstance(value, list):
        return [time for item in value for time in times_in(item)]
    if not isinstance(value, dict):
        return []
    own = [item for name, item in value.items() if name in TIMES and isinstance(item, str)]
    return own + [time for name, item in value.items() if name != "config" for time in times_in(item)]


@pytest.mark.parametrize(
    "path", ["/tasks", "/tasks/{id}", "/tasks/{id}/files", "/tasks/{id}/runs", "/tasks/{id}/results"]
)
def test_timestamps_are_iso_8601_utc_ending_in_z(owner: httpx.Client, processed: dict[str, Any], path: str) -> None:
    times = times_in(check_ok(owner.get(path.format_map(processed))))
    assert times
    assert all(TIMESTAMP.fullmatch(time) for time in times)
