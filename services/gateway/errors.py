"""One table from exception to answer, and the form of every error."""

import errno
import json
from typing import Any, Final

from .domain import errors as domain
from .storage import StoreAway

RETRY_AFTER_S: Final = 5
DAMAGED: Final = "The body of the request is damaged, or ended too early."
DISK_FULL: Final = "The disk of the server is full; tell its administrator, or try again later."

UNKNOWN_ENCODING: Final = "A body may be sent as it is, or packed once: Content-Encoding gzip or deflate."

STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (domain.Invalid, 400),
    (domain.Unauthenticated, 401),
    (domain.Forbidden, 403),
    (domain.Missing, 404),
    (domain.NotAllowed, 405),
    (domain.Conflict, 409),
    (domain.TooLarge, 413),
    (domain.Unsupported, 415),
    (domain.TooMany, 429),
    (domain.Unavailable, 503),
    (StoreAway, 503),
)

DETAILS: Final = {
    400: "The request cannot be understood.",
    404: "There is nothing at this address.",
    405: "This method is not allowed here.",
    412: "The file is not the one that the request asks for.",
    413: "The body is too large.",
    415: "The body must be JSON or a form.",
    416: "The file has no such range.",
    417: "No expectation but `100-continue` is understood.",
    500: "Internal error; please report the request id.",
    503: "The store is away; try again later.",
}


def status_of(error: Exception) -> int:
    """Give the status for an exception; 500 for what is not in the table."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return 503
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def body(status: int, request_id: str, detail: str | None = None, errors: dict[str, list[str]] | None = None) -> str:
    """Write the body of an error."""
    content: dict[str, Any] = {"detail": detail or DETAILS.get(status, "The request was refused.")}
    if errors:
        content["errors"] = errors
    content["request_id"] = request_id
    return json.dumps(content)


def headers(status: int) -> dict[str, str]:
    """Give the headers that go with a status."""
    if status == 401:  # noqa: PLR2004
        return {"WWW-Authenticate": "Token"}
    if status == 503:  # noqa: PLR2004
        return {"Retry-After": str(RETRY_AFTER_S)}
    return {}
