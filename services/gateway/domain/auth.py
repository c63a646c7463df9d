"""Passwords and tokens."""

import asyncio
import hashlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ..model import User, now
from ..storage import Users
from .errors import Invalid, Unauthenticated

_UNUSED: Final = timedelta(days=90)
_TOUCH_AFTER: Final = timedelta(days=1)  # so that use costs a write a day and not one a request
_CACHE_S: Final = 5.0  # a revoked token, or a changed user, is noticed within this time
_CACHE_MAX: Final = 10_000
_MAX_PASSWORD: Final = 1024
_WRONG: Final = "Unable to log in with provided credentials."

# OWASP's second choice of parameters: 19 MiB, so that a burst of logins stays small beside uploads
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class Auth:
    """Checks who calls.

    Parameters
    ----------
    users
        Where users and tokens are.
    """

    def __init__(self, users: Users) -> None:
        self._users = users
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="password")
        self._cache: dict[str, tuple[User, float]] = {}
        self._nobody = _hasher.hash(secrets.token_urlsafe())

    async def hash(self, password: str) -> str:
        """Hash a password."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _hasher.hash, password)

    async def login(self, name: object, password: object) -> str:
        """Check a password and issue a new token.

        Raises
        ------
        Invalid
            The same, after the same time, for an unknown user and a wrong password.
        """
        errors = {
            key: ["This field is required."]
            for key, value in (("username", name), ("password", password))
            if not isinstance(value, str) or not value
        }
        if errors or not isinstance(name, str) or not isinstance(password, str):
            raise Invalid("username and password are required", errors)
        known = await self._users.password(name) if name.isprintable() else None
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._threads, _verify, known or self._nobody, password[:_MAX_PASSWORD])
        if known is None or not right or len(password) > _MAX_PASSWORD:
            raise Invalid(_WRONG)
        return await self.issue(name)

    async def issue(self, name: str) -> str:
        """Issue a token; only its hash is kept."""
        token = secrets.token_hex(20)
        await self._users.add_token(_digest(token), name, now())
        return token

    async def user(self, header: str | None) -> User:
        """Find the user whose token an `Authorization` header holds.

        Raises
        ------
        Unauthenticated
            When there is none, or it is unknown, malformed or expired.
        """
        if not header:
            raise Unauthenticated("Authentication credentials were not provided.")
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "token" or not token or len(token) > 200 or not token.isascii():  # noqa: PLR2004
            raise Unauthenticated("The header must read: Authorization: Token <token>")
        digest = _digest(token)
        cached = self._cache.get(digest)
        if cached is not None and time.monotonic() < cached[1]:
            return cached[0]
        user = await self._look_up(digest)
        if user is None:
            self._cache.pop(digest, None)
            raise Unauthenticated("Invalid token.")
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        self._cache[digest] = (user, time.monotonic() + _CACHE_S)
        return user

    async def _look_up(self, digest: str) -> User | None:
        found = await self._users.token(digest)
        if found is None:
            return None
        name, used = found
        at = now()
        if at - used > _UNUSED:
            return None
        if at - used > _TOUCH_AFTER:
            await self._users.touch_token(digest, at)
        return await self._users.get(name)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _verify(hashed: str, password: str) -> bool:
    try:
        return _hasher.verify(hashed, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
