"""Forms of answers and parts of requests that several routes share."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ..domain.errors import Invalid, Missing, TooLarge, Unsupported
from ..errors import DAMAGED, UNKNOWN_ENCODING
from ..keys import COORDINATOR, SETTINGS, USER
from ..model import Task

_MAX_JSON: Final = 1024 * 1024
_MAX_PARTS: Final = 64
_MAX_KEY: Final = 255
_MAX_ID: Final = 2**53


UNREADABLE: Final = (ValueError, LookupError, RuntimeError, AssertionError, EOFError, HttpProcessingError)
"""What aiohttp raises for a form that is damaged, or in a charset or an encoding that nobody knows."""


_ENCODINGS: Final = frozenset({"", "identity", "gzip", "deflate"})


def check_encoding(request: web.Request) -> None:
    """Refuse a body that is packed in a way that nobody here undoes; it would be taken as it is.

    Raises
    ------
    Unsupported
        Naming what is understood.
    """
    given = ", ".join(request.headers.getall("Content-Encoding", ())).strip()
    if given.lower() not in _ENCODINGS and request.body_exists:
        raise Unsupported(UNKNOWN_ENCODING)


def check_parts(count: int) -> None:
    """Refuse a form of more parts than any request needs."""
    if count > _MAX_PARTS:
        raise Invalid(f"A form may have at most {_MAX_PARTS} fields.")


def add_field(fields: dict[str, str], name: str, value: str) -> None:
    """Add a field of a form; groups may be given one by one, of others the last counts."""
    fields[name] = f"{fields[name]},{value}" if name == "groups" and name in fields else value


def task_id_of(request: web.Request) -> int:
    """Read the id of the task in the path.

    Raises
    ------
    Missing
        When it can be none.
    """
    text = request.match_info["id"]
    task_id = int(text) if text.isascii() and text.isdecimal() and len(text) < 17 else 0  # noqa: PLR2004
    if not 0 < task_id < _MAX_ID:
        raise Missing(f"There is no task {text[:32]}.")
    return task_id


def idempotency_key(request: web.Request) -> str | None:
    """Read the header `Idempotency-Key`, as a digest that belongs to the user; None without one.

    Raises
    ------
    Invalid
        When there are several, or it is no text of 1 to 255 ASCII characters.
    """
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not 0 < len(given[0]) <= _MAX_KEY or not (given[0].isascii() and given[0].isprintable()):
        raise Invalid.field("Idempotency-Key", f"must be one text of 1 to {_MAX_KEY} printable ASCII characters")
    return hashlib.sha256(f"{request[USER].name}\0{given[0]}".encode()).hexdigest()


def iso(at: datetime | None) -> str | None:
    """Write a time as ISO 8601, UTC, ending in Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None


def listed(task: Task) -> dict[str, Any]:
    """Write a task as the listing shows it."""
    return {
        "id": task.id,
        "original_name": task.original_name,
        "title": task.title,
        "state": task.state,
        "user": task.user,
        "created": iso(task.created),
        "modified": iso(task.modified),
    }


def full(request: web.Request, task: Task) -> dict[str, Any]:
    """Write a whole task."""
    step = task.run.current if task.run else None
    sign = request.app[COORDINATOR].signs.peek(step.id) if step else None
    return {
        **listed(task),
        "groups": list(task.groups),
        "completed": iso(task.completed),
        "config": task.config(),
        "celery_id": task.chain_id,
        "path": f"{request.app[SETTINGS].path_prefix.rstrip('/')}/{task.id}",
        "error": task.error,
        "step": step.name if step else None,
        "progress": {"fraction": sign.fraction, "phase": sign.phase} if sign else None,
    }


def reply(content: object, status: int = 200) -> web.Response:
    """Answer with JSON."""
    body = json.dumps(content).encode()
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json; charset=utf-8"})


async def read_fields(request: web.Request) -> Mapping[str, Any]:
    """Read the fields of a small body: JSON, a form, or none.

    Raises
    ------
    Invalid
        When it is no object, or no JSON.
    Unsupported
        When it is neither JSON nor a form.
    """
    check_encoding(request)
    kind = request.content_type
    if kind in {"application/x-www-form-urlencoded", "multipart/form-data"}:
        return await _read_form(request)
    data = await _read(request)
    if not data:
        return {}
    if kind != "application/json" and not kind.endswith("+json"):
        raise Unsupported("The body must be JSON (Content-Type: application/json) or a form.")
    try:
        content = json.loads(data)
    except json.JSONDecodeError as error:
        raise Invalid(f"The body is not valid JSON: {error}.") from None
    except (ValueError, RecursionError):
        raise Invalid("The body is not valid JSON.") from None
    if not isinstance(content, dict):
        raise Invalid("The body must be a JSON object.")
    return content


async def _read_form(request: web.Request) -> dict[str, str]:
    try:
        form = await request.post()
    except UNREADABLE:
        raise Invalid("The form cannot be read.") from None
    check_parts(len(form))
    fields: dict[str, str] = {}
    for key, value in form.items():
        if key.lstrip().startswith("{"):
            raise Invalid("The body looks like JSON; send it with the header Content-Type: application/json.")
        if isinstance(value, str):
            add_field(fields, key, value)
    return fields


async def _read(request: web.Request) -> bytes:
    data = bytearray()
    async for chunk in request.content.iter_chunked(65536):
        data += chunk
        if len(data) > _MAX_JSON:
            raise TooLarge(f"A body of fields may have at most {_MAX_JSON} bytes.")
    if not data and request.body_exists and request.content.total_compressed_bytes:
        raise Invalid(DAMAGED)  # packed, and cut off before its first byte
    return bytes(data)
