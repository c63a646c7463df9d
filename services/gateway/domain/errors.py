"""Why a request is refused. `services.gateway.errors` maps each kind to a status."""

from collections.abc import Mapping
from typing import Final

_WORDS: Final = (("Value error, ", ""), ("Input should be", "must be"), ("Field required", "is needed"))


def said(message: str) -> str:
    """Say what a model found wrong as the other messages do: after the name of the field."""
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    return message


class Refused(Exception):
    """A request that cannot be done; the message is for the user, and shows no path and no one else's data."""

    def __init__(self, detail: str, errors: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = dict(errors or {})


class Invalid(Refused):
    """Bad input; `errors` names the fields."""

    @classmethod
    def field(cls, name: str, message: str) -> "Invalid":
        """Refuse one field."""
        return cls(f"{name}: {message}", {name: [message]})


class Unauthenticated(Refused):
    """Nobody we know."""


class Forbidden(Refused):
    """Exists, but not for the caller."""


class Missing(Refused):
    """Does not exist."""


class NotAllowed(Refused):
    """Never allowed on this resource."""


class Conflict(Refused):
    """Not now: something runs."""


class TooLarge(Refused):
    """More bytes than the site takes."""


class Unsupported(Refused):
    """A body of a kind that is not understood."""


class Unavailable(Refused):
    """Something that the request needs is away; it may work later."""


class TooMany(Refused):
    """Too early; it may be tried again after `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
