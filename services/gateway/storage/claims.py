"""Requests that are to take effect once: who works on them, and what they made."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from .store import Store, answering

_KEPT: Final = timedelta(days=1)


@dataclass(frozen=True)
class Claim:
    """A request by the digest of its key.

    Parameters
    ----------
    what
        Digest of what was asked.
    owner
        Unique name of who was the first to work on it.
    at
        When that began.
    task_id
        What it makes.
    made
        Whether that was there.
    """

    key: str
    what: str
    owner: str
    at: datetime
    task_id: int
    made: bool = False


class Claims:
    """Claims in the store, which forgets them after a day."""

    def __init__(self, store: Store) -> None:
        self._claims = store.collection("claims")

    async def add(self, claim: Claim) -> bool:
        """Claim a request; False when it was claimed before."""
        async with answering():
            try:
                await self._claims.insert_one({"_id": claim.key, "expire": claim.at + _KEPT, **_fields(claim)})
            except DuplicateKeyError:
                return False
        return True

    async def get(self, key: str) -> Claim | None:
        """Read a claim."""
        async with answering():
            doc = await self._claims.find_one({"_id": key})
        return Claim(key, doc["what"], doc["owner"], doc["at"], doc["task_id"], doc["made"]) if doc else None

    async def note_made(self, claim: Claim) -> None:
        """Note that the task of a claim is there."""
        async with answering():
            await self._claims.update_one({"_id": claim.key, "owner": claim.owner}, {"$set": {"made": True}})

    async def drop(self, claim: Claim) -> None:
        """Forget a claim, if it is still its owner's."""
        async with answering():
            await self._claims.delete_one({"_id": claim.key, "owner": claim.owner})


def _fields(claim: Claim) -> dict[str, Any]:
    return {
        "what": claim.what,
        "owner": claim.owner,
        "at": claim.at,
        "task_id": claim.task_id,
        "made": claim.made,
    }
