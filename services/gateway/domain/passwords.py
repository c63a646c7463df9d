"""Hashes of passwords: our own, and those that were taken over from an old installation."""

import base64
import binascii
import hashlib
import hmac
import re
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_OLD: Final = re.compile(r"pbkdf2_(sha256|sha1)\$([0-9]{1,8})\$([^$]{1,128})\$([A-Za-z0-9+/=]{1,128})")
_MOST_ROUNDS: Final = 5_000_000  # some seconds

# OWASP's second choice of parameters: 19 MiB, so that a burst of logins stays small beside uploads
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def new_hash(password: str) -> str:
    """Hash a password."""
    return _hasher.hash(password)


def is_old(hashed: str) -> bool:
    """Tell whether a hash is one of Django's PBKDF2, to be replaced as soon as its password is known."""
    return _OLD.fullmatch(hashed) is not None


def taken_over(hashed: str) -> str | None:
    """Give a hash of Django as it is kept here; None when it is of a kind that cannot be verified here."""
    if is_old(hashed) and int(hashed.split("$")[1]) <= _MOST_ROUNDS:
        return hashed
    return hashed.removeprefix("argon2") if hashed.startswith("argon2$argon2") else None


def verify(hashed: str, password: str) -> bool:
    """Tell whether it is the password."""
    try:
        if (match := _OLD.fullmatch(hashed)) is not None:
            kind, rounds, salt, digest = match.groups()
            if int(rounds) > _MOST_ROUNDS:
                return False
            found = hashlib.pbkdf2_hmac(kind, password.encode(), salt.encode(), int(rounds))
            return hmac.compare_digest(found, base64.b64decode(digest, validate=True))
        return _hasher.verify(hashed, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError, binascii.Error):
        return False
