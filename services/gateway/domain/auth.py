"""Passwords and tokens."""

import asyncio
import hashlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

from ..model import User, now
from ..storage import Users
from .errors import Invalid, TooMany, Unauthenticated
from .passwords import OLD_HASHES, Passwords, is_old, new_hash, rounds_of
from .recent import Recent
from .throttle import Throttle

_UNUSED: Final = timedelta(days=90)
_TOUCH_AFTER: Final = timedelta(days=1)  # so that use costs a write a day and not one a request
_THREADS: Final = 2
_MAX_WAITING: Final = 200  # some 5 s of hashing
MAX_PASSWORD: Final = 1024
_OLD_KNOWN_S: Final = 60.0
_WRONG: Final = "Unable to log in with provided credentials."


class Auth:
    """Checks who calls.

    Parameters
    ----------
    users
        Where users and tokens are.
    throttle
        Slows down who guesses passwords.
    passwords
        Verifies them.
    """

    def __init__(self, users: Users, throttle: Throttle, passwords: Passwords | None = None) -> None:
        self._users = users
        self._throttle = throttle
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="password")
        self._turn = asyncio.Semaphore(_THREADS)
        self._waiting = 0
        self._cache = Recent()
        self._passwords = passwords or Passwords()
        self._old_rounds = 0
        self._old_known = float("-inf")

    async def hash(self, password: str) -> str:
        """Hash a password."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, new_hash, password)

    async def login(self, name: str, password: str, address: str) -> str:
        """Check a password and issue a new token; `check_password` says which errors there are."""
        await self.check_password(name, password, address)
        return await self.issue(name)

    async def check_password(self, name: str, password: str, address: str) -> User:
        """Find the user by name and password.

        Parameters
        ----------
        address
            Where the caller is.

        Raises
        ------
        Invalid
            The same, after the same time, for an unknown user and a wrong password.
        TooMany
            After repeated failures, for unknown and known users alike.
        """
        if self._waiting >= _MAX_WAITING:
            raise TooMany("Too many people log in just now. Try again in a few seconds.", 5)
        self._waiting += 1
        try:
            # asked, checked and counted in one turn: who sends many guesses at once gets no more of them through
            async with self._turn:
                await self._throttle.check(name, address)
                user = await self._verified(name, password)
                if user is None:
                    await self._throttle.failed(name, address)
                    raise Invalid(_WRONG)
                await self._throttle.succeeded(name, address)
                return user
        finally:
            self._waiting -= 1

    async def _verified(self, name: str, password: str) -> User | None:
        known = await self._users.password(name) if name.isprintable() else None
        if len(password) > MAX_PASSWORD:
            known = None  # of nobody
        loop, rounds = asyncio.get_running_loop(), await self._rounds()
        given = password[:MAX_PASSWORD]
        right = await loop.run_in_executor(self._threads, self._passwords.verify, known, given, rounds)
        if known is None or not right:
            return None
        if is_old(known):
            await self._users.rehash(name, known, await self.hash(password))
        return await self._users.get(name)

    async def _rounds(self) -> int:
        """Give the most rounds of the passwords that were taken over and not hashed anew, as of this minute."""
        if time.monotonic() - self._old_known > _OLD_KNOWN_S:
            old = await self._users.passwords_between(*OLD_HASHES)
            self._old_rounds, self._old_known = max(map(rounds_of, old), default=0), time.monotonic()
        return self._old_rounds

    async def issue(self, name: str) -> str:
        """Issue a token; only its hash is kept."""
        token = secrets.token_hex(20)
        await self._users.add_token(_digest(token), name, now())
        return token

    async def user(self, header: str) -> User:
        """Find the user whose token an `Authorization` header holds.

        Raises
        ------
        Unauthenticated
            When it is unknown, malformed or expired.
        """
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "token" or not token or len(token) > 200 or not token.isascii():  # noqa: PLR2004
            raise Unauthenticated("The header must read: Authorization: Token <token>")
        digest = _digest(token)
        user = self._cache.get(digest)
        if user is None:
            user = await self._look_up(digest)
            if user is None:
                raise Unauthenticated("Invalid token.")
            self._cache.put(digest, user)
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
