"""Who was found to call lately, so that not every request asks the store."""

import time
from typing import Final

from ..model import User

_KEEP_S: Final = 5.0  # what is revoked, or a changed user, is noticed within this time
_MAX: Final = 10_000


class Recent:
    """Users by the hash of what they proved themselves with."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[User, float]] = {}

    def get(self, digest: str) -> User | None:
        """Give the user, if that was found lately."""
        found = self._found.get(digest)
        return found[0] if found is not None and time.monotonic() < found[1] else None

    def put(self, digest: str, user: User, at_most_s: float = _KEEP_S) -> None:
        """Note that this is the user's."""
        if len(self._found) >= _MAX:
            self._found.clear()
        self._found[digest] = (user, time.monotonic() + min(_KEEP_S, at_most_s))

    def drop(self, digest: str) -> None:
        """Forget one."""
        self._found.pop(digest, None)

    def clear(self) -> None:
        """Forget all."""
        self._found.clear()
