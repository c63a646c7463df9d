"""Hashes of passwords: our own, and those that were taken over from an old installation."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_OLD: Final = re.compile(r"pbkdf2_(sha256|sha1)\$([0-9]{1,8})\$([^$]{1,128})\$([A-Za-z0-9+/=]{1,128})")
_MOST_ROUNDS: Final = 5_000_000  # some seconds

# OWASP's second choice of parameters: 19 MiB, so that a burst of logins stays small beside uploads
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


OLD_HASHES: Final = ("pbkdf2_", "pbkdf2`")
"""Hashes that were taken over begin with the first; the second comes after all of them."""


def new_hash(password: str) -> str:
    """Hash a password."""
    return _hasher.hash(password)


def is_old(hashed: str) -> bool:
    """Tell whether a hash was taken over, and is to be replaced as soon as its password is known."""
    return bool(rounds_of(hashed)) or _hasher.check_needs_rehash(hashed)


def rounds_of(hashed: str) -> int:
    """Give the rounds of a hash of Django's PBKDF2; 0 for any other, and for more than anybody has."""
    match = _OLD.fullmatch(hashed)
    rounds = int(match[2]) if match is not None else 0
    return rounds if rounds <= _MOST_ROUNDS else 0


def taken_over(hashed: str) -> str | None:
    """Give a hash of Django as it is kept here; None when it is of a kind that cannot be verified here."""
    if rounds_of(hashed):
        return hashed
    return hashed.removeprefix("argon2") if hashed.startswith("argon2$argon2") else None


class Passwords:
    """Verifies passwords; a refusal costs the same whatever hash there is, or none.

    Argon2 for our own hashes, and PBKDF2 as often repeated as the dearest hash that was taken over needs: what a
    refused password has not cost yet, it costs on something that does not matter. Who waits for the answer must not
    learn which names there are.

    Parameters
    ----------
    hasher, pbkdf2
        What does the work.
    """

    def __init__(self, hasher: PasswordHasher = _hasher, pbkdf2: Callable[..., bytes] = hashlib.pbkdf2_hmac) -> None:
        self._hasher = hasher
        self._pbkdf2 = pbkdf2
        self._nobody = hasher.hash(secrets.token_urlsafe())

    def verify(self, hashed: str | None, password: str, old_rounds: int = 0) -> bool:
        """Tell whether it is the password.

        Parameters
        ----------
        hashed
            What is kept; None where nothing is, and no password is right.
        old_rounds
            Most rounds of the hashes that were taken over, see `rounds_of`.
        """
        # no password that was ever set has a lone surrogate, and what is no text must cost as much
        given = password.encode("utf-8", "surrogatepass")
        rounds = 0
        if hashed is not None and (rounds := rounds_of(hashed)):
            if self._verify_old(hashed, given):
                return True
            self._verify_own(self._nobody, given)
        elif hashed is not None and hashed.startswith("$argon2"):
            if self._verify_own(hashed, given):
                return True
        else:
            self._verify_own(self._nobody, given)
        if old_rounds > rounds:
            self._pbkdf2("sha256", given, b"nobody", old_rounds - rounds)
        return False

    def _verify_old(self, hashed: str, given: bytes) -> bool:
        kind, rounds, salt, digest = hashed.removeprefix("pbkdf2_").split("$")
        found = self._pbkdf2(kind, given, salt.encode(), int(rounds))
        try:
            return hmac.compare_digest(found, base64.b64decode(digest, validate=True))
        except binascii.Error:
            return False

    def _verify_own(self, hashed: str, given: bytes) -> bool:
        try:
            return self._hasher.verify(hashed, given)
        except (VerificationError, InvalidHashError):
            return False
