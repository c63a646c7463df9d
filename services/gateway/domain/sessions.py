"""Sessions of browsers, and proof that a request comes from our own pages."""

import hashlib
import re
import secrets
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from ..model import User, now
from ..storage import Session, SessionStore, Users
from .errors import Forbidden, Unauthenticated
from .recent import Recent

_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_EXTEND_AFTER: Final = 1 / 24  # of the idle time: a session in use costs a write now and then and not one a request


class Sessions:
    """Sessions; the browser has the id, the store its hash.

    Parameters
    ----------
    idle, longest
        A session ends after so long without a request, and so long after its login in any case.
    """

    def __init__(self, sessions: SessionStore, users: Users, idle: timedelta, longest: timedelta) -> None:
        self._sessions = sessions
        self._users = users
        self._idle = idle
        self._longest = longest
        self._cache = Recent()

    async def begin(self, user: User, old_id: str | None = None) -> str:
        """Begin a session, always with an id of its own. Ends the one that the browser had. Returns the id."""
        if old_id is not None:
            await self.end(old_id)
        session_id, at = secrets.token_urlsafe(32), now()
        expire = at + min(self._idle, self._longest)
        await self._sessions.add(_digest(session_id), Session(user.name, at, expire))
        return session_id

    async def user(self, session_id: str) -> User:
        """Find the user of a session.

        Raises
        ------
        Unauthenticated
            When there is no such session, or no longer.
        """
        if not _ID.fullmatch(session_id):
            raise Unauthenticated("The session cookie is damaged; log in again.")
        digest = _digest(session_id)
        if (user := self._cache.get(digest)) is not None:
            return user
        session, at = await self._sessions.get(digest), now()
        user = await self._users.get(session.user) if session is not None and session.expire > at else None
        if session is None or user is None:
            self._cache.drop(digest)
            raise Unauthenticated("The session has ended; log in again.")
        expire = min(at + self._idle, session.created + self._longest)
        if expire - session.expire > self._idle * _EXTEND_AFTER:
            await self._sessions.extend(digest, expire)
        self._cache.put(digest, user, (session.expire - at).total_seconds())
        return user

    async def end(self, session_id: str) -> None:
        """End a session; other gateways notice within 5 s."""
        if _ID.fullmatch(session_id):
            digest = _digest(session_id)
            self._cache.drop(digest)
            await self._sessions.delete(digest)


def csrf_token(session_id: str) -> str:
    """Derive the proof that belongs to a session: it tells nothing of the id, and no other session's will do."""
    return hashlib.sha256(f"csrf {session_id}".encode()).hexdigest()


def check_csrf(session_id: str, given: str) -> None:
    """Refuse a request that may come from another site's page.

    Raises
    ------
    Forbidden
        When the proof is not the session's.
    """
    if not given:
        raise Forbidden(
            "With a session cookie this method needs the header X-CSRFToken, the value of cookie csrftoken."
        )
    if not secrets.compare_digest(given.encode("utf-8", "surrogateescape"), csrf_token(session_id).encode()):
        raise Forbidden("The header X-CSRFToken is not that of this session; send the value of cookie csrftoken.")


def check_origin(origin: str | None, host: str, site_url: str | None) -> None:
    """Refuse a request that a page of another site has sent.

    Parameters
    ----------
    origin
        The header of that name; None when the client sends none.
    host
        The `Host` header, which counts when the site's address is not configured.
    site_url
        Address of the site as browsers see it.

    Raises
    ------
    Forbidden
        When the page was another site's.
    """
    if origin is None:
        return
    try:
        ours = urlsplit(origin).netloc == host if site_url is None else origin == site_url
    except ValueError:
        ours = False
    if not ours:
        raise Forbidden("The request comes from a page of another site (header Origin).")


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
