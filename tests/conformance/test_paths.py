"""No path leaves the task's directory, or the shared data directory."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import MakeTask, create
from tests.support.conformance import Site, check_error_body, names_of

# %2F.. as they are on the wire; a second task and the server's files are what one would want
GAMES = (
    "../{other}/image.fits",
    "..%2f{other}%2fimage.fits",
    "%2e%2e/{other}/image.fits",
    "%2e%2e%2f{other}%2fimage.fits",
    "deep/../../{other}/image.fits",
    "deep/%2e%2e/%2e%2e/{other}/image.fits",
    "deep/..%2f../{other}/image.fits",
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "../../../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%5c%2e%2e%5cetc%5cpasswd",
    "..%c0%af..%c0%afetc/passwd",
    "%252e%252e%252f{other}%252fimage.fits",
    "notes.txt%00.png",
    "%00",
    "%00/../{other}/image.fits",
    "deep/..%00/x",
    "....//....//etc/passwd",
    "..;/..;/etc/passwd",
    "~root/.bashrc",
    "..",
    "../",
    "%2e%2e",
    "%2e%2e%2f",
    "%ff%fe",
    "%ud800",
    "a%0d%0aX-Injected:%20yes",
    "a" * 300,
    "/".join("a" * 200 for _ in range(30)),
    "file:///etc/passwd",
)
KINDS = ("files", "preview", "cutout")


def ask(site: Site, api: httpx.Client, method: str, path: str, body: bytes = b"") -> tuple[Any, bytes]:
    kind = b"Content-Type: multipart/form-data; boundary=x\r\n" if body else b""
    head = f"{method} BASE{path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n".encode()
    head += b"Authorization: " + api.headers["Authorization"].encode() + b"\r\n" + kind
    return site.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


@pytest.fixture(scope="module")
def other(owner: httpx.Client, scene_fits: bytes) -> Iterator[int]:
    """A task beside the one that is played with."""
    task_id = create(owner, scene_fits)["id"]
    yield task_id
    owner.delete(f"/tasks/{task_id}/")


@pytest.mark.parametrize("game", GAMES)
def test_get_leaves_no_directory(site: Site, owner: httpx.Client, kept: dict[str, Any], other: int, game: str) -> None:
    for kind in KINDS:
        path = f"/tasks/{kept['id']}/{kind}/{game.format(other=other)}"
        answer, body = ask(site, owner, "GET", path)
        assert answer.status == 404, body
        check_error_body(answer.headers, body)
        assert "x-injected" not in {name.lower() for name in answer.headers}


FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nevil\r\n--x--\r\n'
WRITES = [game for game in GAMES if "{other}" in game or ".." in game or "%00" in game]


@pytest.mark.parametrize("game", WRITES)
def test_post_leaves_no_directory(
    site: Site, owner: httpx.Client, make_task: MakeTask, scene_fits: bytes, game: str
) -> None:
    mine, other = make_task(scene_fits)["id"], make_task(scene_fits)["id"]
    answer, body = ask(site, owner, "POST", f"/tasks/{mine}/files/{game.format(other=other)}", FORM)
    if answer.status != 201:  # a name that only looks like a game is a name
        assert answer.status in {400, 404, 405}
        check_error_body(answer.headers, body)
    assert owner.get(f"/tasks/{other}/files/image.fits").content == scene_fits
    assert names_of(owner, other) == ["image.fits"]


@pytest.mark.parametrize("game", WRITES)
def test_delete_leaves_no_directory(
    site: Site, owner: httpx.Client, make_task: MakeTask, scene_fits: bytes, game: str
) -> None:
    mine, other = make_task(scene_fits)["id"], make_task(scene_fits)["id"]
    answer, body = ask(site, owner, "DELETE", f"/tasks/{mine}/files/{game.format(other=other)}")
    assert answer.status in {404, 405}
    check_error_body(answer.headers, body)
    for task_id in (mine, other):
        assert owner.get(f"/tasks/{task_id}/files/image.fits").content == scene_fits


@pytest.mark.parametrize("game", [game for game in GAMES if "{other}" not in game])
def test_the_shared_data_directory_is_not_left(site: Site, owner: httpx.Client, game: str) -> None:
    for path in (f"/files/{game}", f"/files/{game}/preview/"):
        answer, body = ask(site, owner, "GET", path)
        if answer.status == 200:  # `/files/..` is `/` to some servers in front of ours
            pytest.fail(f"{path}: {body[:200]!r}")
        assert answer.status == 404, body
        check_error_body(answer.headers, body)
        assert b"root:" not in body


@pytest.mark.parametrize(
    "path",
    [
        "/files/nothing.txt",
        "/files/notes.txt/more",
        "/files/deep/nothing/",
        "/preview/nothing.fits",
        "/cutout/nothing.cutout",
        "/preview/deep",
        "/files/.results",
        "/files/.work/x",
    ],
)
def test_what_is_not_there_is_404(site: Site, owner: httpx.Client, kept: dict[str, Any], path: str) -> None:
    answer, body = ask(site, owner, "GET", f"/tasks/{kept['id']}{path}")
    assert answer.status == 404
    check_error_body(answer.headers, body)


@pytest.mark.parametrize("name", ['a".txt', "a%0db.txt", "a%0ab.txt", "%22%3b%20filename%3dx"])
def test_names_inject_no_header(site: Site, owner: httpx.Client, make_task: MakeTask, name: str) -> None:
    task_id = make_task()["id"]
    stored, body = ask(site, owner, "POST", f"/tasks/{task_id}/files/{name.replace(chr(34), '%22')}", FORM)
    if stored.status != 201:
        assert stored.status in {400, 404}
        check_error_body(stored.headers, body)
        return
    answer, content = ask(site, owner, "GET", f"/tasks/{task_id}/files/{name.replace(chr(34), '%22')}")
    assert (answer.status, content) == (200, b"evil")
    # one quoted name, and one that is percent-encoded
    assert re.fullmatch(
        r'attachment; filename="[^"]*"(; filename\*=[\w\'%.~-]+)?', answer.headers["content-disposition"]
    )
