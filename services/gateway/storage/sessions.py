"""Sessions of browsers, by the hashes of their ids."""

from dataclasses import dataclass
from datetime import datetime

from .store import Store, answering


@dataclass(frozen=True)
class Session:
    """Who has logged in, and when; the store forgets it by itself after `expire`."""

    user: str
    created: datetime
    expire: datetime


class SessionStore:
    """The sessions in the store."""

    def __init__(self, store: Store) -> None:
        self._sessions = store.collection("sessions")

    async def add(self, digest: str, session: Session) -> None:
        """Store a new session."""
        document = {"_id": digest, "user": session.user, "created": session.created, "expire": session.expire}
        async with answering():
            await self._sessions.insert_one(document)

    async def get(self, digest: str) -> Session | None:
        """Read a session."""
        async with answering():
            doc = await self._sessions.find_one({"_id": digest})
        return Session(doc["user"], doc["created"], doc["expire"]) if doc else None

    async def extend(self, digest: str, expire: datetime) -> None:
        """Let a session that is in use end later."""
        async with answering():
            await self._sessions.update_one({"_id": digest}, {"$set": {"expire": expire}})

    async def delete(self, digest: str) -> None:
        """End a session."""
        async with answering():
            await self._sessions.delete_one({"_id": digest})

    async def delete_of(self, user: str) -> int:
        """End all sessions of a user. Returns how many there were."""
        async with answering():
            return (await self._sessions.delete_many({"user": user})).deleted_count
