"""What the conformance suite knows of a server: its address, its users, and how to call it."""

import http.client
import io
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

PREFIX = "STDWEB_CONFORMANCE_"
ROLES = ("owner", "member", "stranger", "staff", "viewer", "editor")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
ROWS, COLUMNS = 48, 64


def needs(name: str) -> Any:
    """Leave a test out that another server was not prepared for; our own stack always is."""
    pytest.skip(f"needs {PREFIX}{name}, see docs/conformance.md")


@dataclass(frozen=True)
class Site:
    """A server under test.

    Parameters
    ----------
    url
        Base of the API, such as `http://localhost:8000/api`.
    users
        Name and password by role.
    group
        A group of owner and member; None without.
    data_file
        A FITS image in the shared data directory; None without.
    preset
        Name of a preset with `{"filter": "V", "sn": 4}` and a `custom_mask.fits`; None without.
    observation
        An observation that the server can calibrate; None without.
    config
        Config to calibrate it with.
    callback_host
        Address at which the server may call this machine back; None when it cannot.
    """

    url: str
    users: dict[str, tuple[str, str]]
    group: str | None = None
    data_file: str | None = None
    preset: str | None = None
    observation: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    callback_host: str | None = None

    def credentials(self, role: str) -> tuple[str, str]:
        return self.users.get(role) or needs(role.upper())

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    @property
    def is_local(self) -> bool:
        return httpx.URL(self.url).host in {"localhost", "127.0.0.1"}

    def raw(self, content: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        """Send bytes that no client library would send; `BASE` stands for the base path, `HOST` for the host."""
        url = httpx.URL(self.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        content = content.replace(b"BASE", url.path.rstrip("/").encode()).replace(b"HOST", url.host.encode())
        with socket.create_connection((url.host, port), timeout=20) as plain:
            link = ssl.create_default_context().wrap_socket(plain, server_hostname=url.host) if port == 443 else plain
            link.sendall(content)
            answer = http.client.HTTPResponse(link, method="GET")
            answer.begin()
            return answer, answer.read()


def from_environment() -> Site | None:
    """Describe the server that the environment names; None when it names none."""
    given = {name.removeprefix(PREFIX): value for name, value in os.environ.items() if name.startswith(PREFIX)}
    if "URL" not in given:
        return None
    names = {"owner": "USER"} | {role: role.upper() for role in ROLES[1:]}
    passwords = {"owner": "PASSWORD"} | {role: f"{role.upper()}_PASSWORD" for role in ROLES[1:]}
    users = {role: (given[name], given[passwords[role]]) for role, name in names.items() if name in given}
    image = given.get("OBSERVATION")
    return Site(
        given["URL"].rstrip("/"),
        users,
        group=given.get("GROUP"),
        data_file=given.get("DATA_FILE"),
        preset=given.get("PRESET"),
        observation=Path(image) if image else None,
        config={"filter": given["FILTER"]} if "FILTER" in given else {},
        callback_host=given.get("CALLBACK_HOST"),
    )


def token_of(site: Site, role: str) -> str:
    name, password = site.credentials(role)
    with site.client() as client:
        answer = client.post("/auth/token/", json={"username": name, "password": password})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])


def check_error(answer: httpx.Response, status: int, *fields: str) -> dict[str, Any]:
    """Check that an answer is an error as all errors are, and names the fields; give its body."""
    assert answer.status_code == status, answer.text[:500]
    return check_error_body(answer.headers, answer.content, *fields)


def check_error_body(headers: Any, content: bytes, *fields: str) -> dict[str, Any]:
    assert headers["content-type"].startswith("application/json")
    answer = httpx.Response(400, content=content)
    body: dict[str, Any] = answer.json()
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert body["request_id"] == headers["x-request-id"]
    for name in fields:
        assert body["errors"][name], body
        assert all(isinstance(message, str) for message in body["errors"][name])
    for leak in ("Traceback", "<html", "/tmp/", "/home/", ".py", "pydantic", "aiohttp"):
        assert leak not in answer.text, answer.text
    return body


def check_ok(answer: httpx.Response, status: int = 200) -> Any:
    """Check the status, and give the JSON."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
    return found


def ended(api: httpx.Client, task_id: int, timeout_s: float = 120) -> dict[str, Any]:
    """Wait as the published clients do, until `state` no longer contains `running`; give the task."""
    wait_until(lambda: "running" not in state_of(api, task_id), timeout_s, "the run ends")
    return dict(check_ok(api.get(f"/tasks/{task_id}/")))


def state_of(api: httpx.Client, task_id: int) -> str:
    return str(check_ok(api.get(f"/tasks/{task_id}/state/"))["state"])


def names_of(api: httpx.Client, task_id: int, folder: str = "") -> list[str]:
    return [row["name"] for row in check_ok(api.get(f"/tasks/{task_id}/files/{folder}"))]


def config_of(api: httpx.Client, task_id: int) -> dict[str, Any]:
    return dict(check_ok(api.get(f"/tasks/{task_id}/"))["config"])


@contextmanager
def a_run(api: httpx.Client, task_id: int) -> Iterator[dict[str, Any]]:
    """Keep a task running while the block lasts; what is left of the run is cancelled."""
    started = check_ok(api.post(f"/tasks/{task_id}/process/", json={"steps": LONG_CHAIN}))
    try:
        yield started
    finally:
        cancelled = api.post(f"/tasks/{task_id}/cancel/")
        assert cancelled.status_code in {200, 400, 404}, cancelled.text


LONG_CHAIN = ["inspect"] * 30
"""Works for some ten seconds on a small image, longer than any test that wants a running task."""


def scene() -> NDArray[np.float32]:
    """Noise with a bright block at the lower left: no symmetry hides a wrong orientation."""
    image = np.random.default_rng(3).normal(100, 5, (ROWS, COLUMNS))
    image[4:12, 6:20] = 400
    return image.astype(np.float32)


def fits_bytes(*planes: NDArray[Any] | fits.HDUList, header: fits.Header | None = None) -> bytes:
    """Write arrays as a FITS file, the first into the primary HDU."""
    first, *rest = planes
    hdus = fits.HDUList([fits.PrimaryHDU(first, header), *(fits.ImageHDU(plane) for plane in rest)])
    buffer = io.BytesIO()
    hdus.writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def pixels_of(content: bytes) -> tuple[NDArray[Any], fits.Header]:
    """Read the first plane of a FITS file with an image."""
    with fits.open(io.BytesIO(content)) as hdus:
        hdu = next(hdu for hdu in hdus if hdu.data is not None)
        return np.array(hdu.data), hdu.header.copy()
