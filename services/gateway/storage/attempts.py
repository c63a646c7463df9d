"""Failed logins, counted in the store so that all gateways agree."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from pymongo.errors import DuplicateKeyError

from .store import Store, answering


@dataclass(frozen=True)
class Count:
    """How often something happened, and when the last time was."""

    number: int
    at: datetime


class Attempts:
    """Counters that the store forgets by itself."""

    def __init__(self, store: Store) -> None:
        self._attempts = store.collection("attempts")

    async def read(self, keys: Collection[str]) -> dict[str, Count]:
        """Read those of these counters that there are."""
        async with answering():
            docs = await self._attempts.find({"_id": {"$in": list(keys)}}).to_list(None)
        return {doc["_id"]: Count(doc["number"], doc["at"]) for doc in docs}

    async def add(self, key: str, at: datetime, expire: datetime) -> None:
        """Count one more, and keep the counter until `expire`."""
        update = {"$inc": {"number": 1}, "$set": {"at": at, "expire": expire}}
        async with answering():
            try:
                await self._attempts.update_one({"_id": key}, update, upsert=True)
            except DuplicateKeyError:  # another gateway has just made it
                await self._attempts.update_one({"_id": key}, update)

    async def forget(self, key: str) -> None:
        """Delete a counter."""
        async with answering():
            await self._attempts.delete_one({"_id": key})
