"""A client of the REST API, for the command line and the demonstration."""

import ipaddress
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Self
from urllib.parse import quote

import httpx

RUNNING: Final = "running"

_TIMEOUT: Final = httpx.Timeout(30.0, read=300.0)  # an upload is answered when it is on disk
_CHUNK_BYTES: Final = 1 << 20


class ApiError(Exception):
    """The service refused a request or cannot be reached; the text is for the user.

    Parameters
    ----------
    message
        What was wrong and what is allowed.
    status
        HTTP status; None when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_passing(self) -> bool:
        """Tell whether the same request may soon be answered: the service is away, or asks to wait."""
        return self.status in {None, 429, 502, 503, 504}


class _Counted:
    """A file that tells how much of it has been read."""

    def __init__(self, file: BinaryIO, show: Callable[[int], None]) -> None:
        self._file = file
        self._show = show

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._show(self._file.tell())
        return data


class Client:
    """Talks to one gateway.

    Parameters
    ----------
    base_url
        Address of the API, such as `http://localhost:8000/api`.
    token
        Token of the user; None before `login`.

    Raises
    ------
    ApiError
        The address or the token can be none.
    """

    def __init__(self, base_url: str, token: str | None = None) -> None:
        if not base_url.lower().startswith(("http://", "https://")):
            raise ApiError(f"The address of an API begins with http:// or https://, and {base_url!r} does not.")
        if token is not None and not (token.isascii() and token.isalnum()):
            raise ApiError("That is no token: it has letters and digits only. See 'stdweb token create'.")
        headers = {"Authorization": f"Token {token}"} if token else {}
        # A proxy for archives must not stand between this program and a gateway on the same machine.
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"), headers=headers, timeout=_TIMEOUT, trust_env=not _is_local(base_url)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def login(self, user: str, password: str) -> str:
        """Get the user's token and use it from now on."""
        answer = self._ask("POST", "/auth/token/", json={"username": user, "password": password})
        token = str(answer.json()["token"])
        self._http.headers["Authorization"] = f"Token {token}"
        return token

    def create_task(
        self,
        image: Path,
        config: Mapping[str, Any] | None = None,
        title: str | None = None,
        show: Callable[[int], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Upload an image as a new task.

        Parameters
        ----------
        image
            FITS file.
        config
            Options of the task.
        title
            Title of the task.
        show
            Takes the number of bytes that were sent.
        """
        data = {"config": json.dumps(dict(config or {}))} | ({"title": title} if title else {})
        with image.open("rb") as file:
            counted: Any = _Counted(file, show)
            answer = self._ask("POST", "/tasks/", data=data, files={"file": (image.name, counted, "application/fits")})
        return dict(answer.json())

    def upload(self, task_id: int, name: str, path: Path, show: Callable[[int], None] = lambda _: None) -> None:
        """Put a file into a task under a name, such as `custom_template.fits`."""
        with path.open("rb") as file:
            counted: Any = _Counted(file, show)
            self._ask("POST", f"/tasks/{task_id}/files/{quote(name)}", files={"file": (path.name, counted)})

    def process(self, task_id: int, steps: Sequence[str], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run steps on a task."""
        body = {"steps": list(steps), "config": dict(config or {})}
        return dict(self._ask("POST", f"/tasks/{task_id}/process/", json=body).json())

    def cancel(self, task_id: int) -> dict[str, Any]:
        """Cancel the run of a task."""
        return dict(self._ask("POST", f"/tasks/{task_id}/cancel/").json())

    def task(self, task_id: int) -> dict[str, Any]:
        """Get a task with its config."""
        return dict(self._ask("GET", f"/tasks/{task_id}/").json())

    def tasks(self, limit: int) -> list[dict[str, Any]]:
        """List the newest tasks."""
        return list(self._ask("GET", "/tasks/", params={"limit": limit}).json()["results"])

    def files(self, task_id: int, folder: str = "") -> list[dict[str, Any]]:
        """List a folder of a task, by default the task's own."""
        return list(self._ask("GET", f"/tasks/{task_id}/files/{quote(folder)}").json())

    def all_files(self, task_id: int) -> list[dict[str, Any]]:
        """List the files of a task and of the folders in it."""
        found, folders = [], [""]
        while folders:
            for entry in self.files(task_id, folders.pop()):
                if entry["is_dir"]:
                    folders.append(entry["path"])
                else:
                    found.append(entry)
        return sorted(found, key=lambda entry: str(entry["path"]))

    def download(self, task_id: int, name: str, target: Path, show: Callable[[int], None] = lambda _: None) -> None:
        """Save a file of a task as `target`, which appears whole or not at all."""
        part = target.with_name(f".{target.name}.part")
        try:
            with self._http.stream("GET", f"/tasks/{task_id}/files/{quote(name)}") as answer:
                if not answer.is_success:
                    answer.read()
                _check(answer)
                with part.open("wb") as file:
                    for chunk in answer.iter_bytes(_CHUNK_BYTES):
                        file.write(chunk)
                        show(len(chunk))
            part.replace(target)
        except httpx.TransportError as error:
            raise _unreachable(self._http, error) from error
        finally:
            part.unlink(missing_ok=True)

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise _unreachable(self._http, error) from error
        _check(answer)
        return answer


def _is_local(url: str) -> bool:
    host = httpx.URL(url).host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unreachable(http: httpx.Client, error: httpx.TransportError) -> ApiError:
    return ApiError(f"No answer from {http.base_url}: {error or type(error).__name__}. Does it run? Try: make status")


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        body = answer.json()
    except ValueError:
        body = {}
    detail = str(body.get("detail", f"HTTP {answer.status_code} {answer.reason_phrase}"))
    parts = [f"{field}: {' '.join(map(str, messages))}" for field, messages in body.get("errors", {}).items()]
    raise ApiError(os.linesep.join([detail, *(part for part in parts if part not in detail)]), answer.status_code)
