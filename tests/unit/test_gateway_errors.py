"""Which exception becomes which answer."""

import errno
import json

import pytest

from services.gateway import errors
from services.gateway.domain import errors as domain
from services.gateway.storage import StoreAway


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (domain.Invalid("x"), 400),
        (domain.Unauthenticated("x"), 401),
        (domain.Forbidden("x"), 403),
        (domain.Missing("x"), 404),
        (domain.NotAllowed("x"), 405),
        (domain.Conflict("x"), 409),
        (domain.TooLarge("x"), 413),
        (domain.Unsupported("x"), 415),
        (domain.Unavailable("x"), 503),
        (StoreAway("x"), 503),
        (OSError(errno.ENOSPC, "no space"), 503),
        (OSError(errno.EDQUOT, "quota"), 503),
        (OSError(errno.EIO, "broken"), 500),
        (KeyError("x"), 500),
    ],
)
def test_status(error: Exception, status: int) -> None:
    assert errors.status_of(error) == status
    assert ("Retry-After" in errors.headers(status)) == (status == 503)


@pytest.mark.parametrize("status", [*errors.DETAILS, 431])
def test_every_body_is_json_with_a_detail_and_an_id(status: int) -> None:
    body = json.loads(errors.body(status, "id"))
    assert body["request_id"] == "id"
    assert body["detail"].endswith(".")
