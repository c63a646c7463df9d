"""Callbacks that are owed, and the secrets that sign them. Only runs that ask for a callback write here."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from pymongo.errors import DuplicateKeyError

from .store import Store, answering

_NOT_YET: Final = datetime(9999, 1, 1, tzinfo=UTC)  # due when its run has ended
_KEEP: Final = timedelta(days=90)  # what became of a callback

Outcome = Literal["waiting", "pending", "delivered", "given_up"]


@dataclass(frozen=True)
class Waiting:
    """A callback whose run was running when it was last looked at."""

    run_id: str
    task_id: int
    created: datetime


@dataclass(frozen=True)
class Due:
    """A callback that may be sent."""

    run_id: str
    user: str
    due: datetime


@dataclass(frozen=True)
class Claimed:
    """A callback that nobody else sends until `due`.

    Parameters
    ----------
    body
        What to send.
    since
        When it became due for the first time.
    attempts
        How often it was sent, this time included.
    """

    run_id: str
    task_id: int
    user: str
    url: str
    body: str
    since: datetime
    attempts: int
    due: datetime


@dataclass(frozen=True)
class Status:
    """What became of a callback.

    Parameters
    ----------
    problem
        Why the last attempt failed.
    following
        When it will be tried again.
    """

    state: Outcome
    attempts: int
    problem: str | None
    at: datetime | None
    following: datetime | None


class CallbackStore:
    """The callbacks in the store."""

    def __init__(self, store: Store) -> None:
        self._callbacks = store.collection("callbacks")
        self._secrets = store.collection("secrets")

    async def add(self, waiting: Waiting, user: str, url: str) -> None:
        """Note that a run is to be called back for."""
        document = {
            "_id": waiting.run_id,
            "task_id": waiting.task_id,
            "created": waiting.created,
            "user": user,
            "url": url,
            "state": "waiting",
            "attempts": 0,
            "due": _NOT_YET,
        }
        async with answering():
            await self._callbacks.insert_one(document)

    async def drop(self, run_id: str) -> None:
        """Forget the callback of a run that never was."""
        async with answering():
            await self._callbacks.delete_one({"_id": run_id})

    async def waiting(self) -> list[Waiting]:
        """List those whose run is not known to have ended."""
        async with answering():
            cursor = self._callbacks.find({"due": _NOT_YET}, {"task_id": 1, "created": 1})
            return [Waiting(doc["_id"], doc["task_id"], doc["created"]) for doc in await cursor.to_list(None)]

    async def wake(self, run_id: str, body: str, at: datetime) -> bool:
        """Make a callback due, once. Returns whether it was not before."""
        change = {"$set": {"state": "pending", "body": body, "since": at, "due": at}}
        async with answering():
            result = await self._callbacks.update_one({"_id": run_id, "due": _NOT_YET}, change)
        return bool(result.modified_count)

    async def due(self, at: datetime, limit: int, but_not: Collection[str] = ()) -> list[Due]:
        """List those that are due, the first first; those of some users may be left out."""
        where: dict[str, Any] = {"due": {"$lte": at}}
        if but_not:
            where["user"] = {"$nin": list(but_not)}
        async with answering():
            cursor = self._callbacks.find(where, {"user": 1, "due": 1}).sort("due", 1).limit(limit)
            return [Due(doc["_id"], doc["user"], doc["due"]) for doc in await cursor.to_list(None)]

    async def claim(self, item: Due, until: datetime) -> Claimed | None:
        """Keep others from sending a callback for a while; None when another was faster."""
        async with answering():
            result = await self._callbacks.update_one(
                {"_id": item.run_id, "due": item.due}, {"$set": {"due": until}, "$inc": {"attempts": 1}}
            )
            doc = await self._callbacks.find_one({"_id": item.run_id}) if result.modified_count else None
        if doc is None or "body" not in doc:
            return None
        names = ("task_id", "user", "url", "body", "since", "attempts")
        return Claimed(item.run_id, due=until, **{name: doc[name] for name in names})

    async def postpone(self, claimed: Claimed, due: datetime, problem: str, at: datetime) -> None:
        """Try again later."""
        change = {"$set": {"due": due, "problem": problem, "at": at}}
        async with answering():
            await self._callbacks.update_one({"_id": claimed.run_id, "due": claimed.due}, change)

    async def finish(self, run_id: str, state: Outcome, problem: str | None, at: datetime) -> None:
        """Send no more; of the callback only what became of it stays, for a time."""
        change: dict[str, Any] = {
            "$set": {"state": state, "problem": problem, "at": at, "expire": at + _KEEP},
            "$unset": {"due": "", "url": "", "body": ""},
        }
        async with answering():
            await self._callbacks.update_one({"_id": run_id}, change)

    async def statuses(self, run_ids: Collection[str]) -> dict[str, Status]:
        """Tell what became of callbacks."""
        names = ("state", "attempts", "problem", "at", "due")
        async with answering():
            cursor = self._callbacks.find({"_id": {"$in": list(run_ids)}}, dict.fromkeys(names, 1))
            docs = await cursor.to_list(None)
        return {
            doc["_id"]: Status(
                doc["state"],
                doc["attempts"],
                doc.get("problem"),
                doc.get("at"),
                doc["due"] if doc["state"] == "pending" else None,
            )
            for doc in docs
        }

    # ---- secrets

    async def secret(self, user: str) -> str | None:
        """Read the secret that signs a user's callbacks."""
        async with answering():
            doc = await self._secrets.find_one({"_id": user})
        return doc["secret"] if doc else None

    async def set_secret(self, user: str, secret: str, at: datetime) -> None:
        """Replace the secret of a user."""
        change = {"$set": {"secret": secret, "created": at}}
        async with answering():
            try:
                await self._secrets.update_one({"_id": user}, change, upsert=True)
            except DuplicateKeyError:  # made by another request just now
                await self._secrets.update_one({"_id": user}, change)
