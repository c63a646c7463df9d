"""Users, tokens, groups, presets."""

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any

from pymongo.errors import DuplicateKeyError

from ..model import Preset, User
from .codec import dumps
from .store import Store, answering


class Duplicate(Exception):
    """There is one of that name already."""


def _user(doc: dict[str, Any]) -> User:
    return User(
        doc["_id"],
        bool(doc["is_staff"]),
        frozenset(doc["groups"]),
        frozenset(doc["grants"]),
        doc.get("quota_bytes"),
        doc.get("max_steps"),
    )


def _preset(doc: dict[str, Any]) -> Preset:
    return Preset(doc["_id"], doc["name"], json.loads(doc["config"]), tuple(doc.get("files", ())))


class Users:
    """Users, and what belongs to them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._users = store.collection("users")
        self._groups = store.collection("groups")
        self._tokens = store.collection("tokens")
        self._presets = store.collection("presets")

    async def add(self, user: User, password_hash: str | None, at: datetime) -> None:
        """Store a new user.

        Raises
        ------
        Duplicate
            When there is one of that name.
        """
        document = {
            "_id": user.name,
            "password": password_hash,
            "is_staff": user.is_staff,
            "groups": sorted(user.groups),
            "grants": sorted(user.grants),
            "created": at,
        }
        async with answering():
            try:
                await self._users.insert_one(document)
            except DuplicateKeyError as error:
                raise Duplicate(user.name) from error

    async def get(self, name: str) -> User | None:
        """Read a user."""
        async with answering():
            doc = await self._users.find_one({"_id": name})
        return _user(doc) if doc else None

    async def password(self, name: str) -> str | None:
        """Read the hash of a user's password; None without user or password."""
        async with answering():
            doc = await self._users.find_one({"_id": name}, {"password": 1})
        return doc["password"] if doc else None

    async def passwords_between(self, first: str, last: str) -> list[str]:
        """List the hashes of passwords from `first` to before `last`, whosever they are."""
        async with answering():
            found = self._users.find({"password": {"$gte": first, "$lt": last}}, {"_id": 0, "password": 1})
            return [doc["password"] async for doc in found]

    async def change(self, name: str, **fields: Any) -> bool:
        """Set fields of a user: `password`, or those of `User`. Returns whether there is one."""
        async with answering():
            result = await self._users.update_one({"_id": name}, {"$set": fields})
        return bool(result.matched_count)

    async def rehash(self, name: str, old: str, new: str) -> None:
        """Replace the hash of a password by another one of the same password, unless it was changed meanwhile."""
        async with answering():
            await self._users.update_one({"_id": name, "password": old}, {"$set": {"password": new}})

    async def all(self) -> list[User]:
        """List the users by name."""
        async with answering():
            return [_user(doc) for doc in await self._users.find({}).sort("_id", 1).to_list(None)]

    async def make_groups(self, names: Collection[str]) -> None:
        """Make the groups that are missing."""
        async with answering():
            for name in names:
                try:
                    await self._groups.insert_one({"_id": name})
                except DuplicateKeyError:
                    continue

    async def groups(self, names: Collection[str]) -> set[str]:
        """Tell which of these groups there are."""
        async with answering():
            return {doc["_id"] async for doc in self._groups.find({"_id": {"$in": list(names)}}, {"_id": 1})}

    # ---- tokens, by their hashes

    async def add_token(self, token_hash: str, user: str, at: datetime) -> None:
        """Store a token."""
        async with answering():
            await self._tokens.insert_one({"_id": token_hash, "user": user, "created": at, "used": at})

    async def token(self, token_hash: str) -> tuple[str, datetime] | None:
        """Find whose token it is, and when it was last used."""
        async with answering():
            doc = await self._tokens.find_one({"_id": token_hash})
        return (doc["user"], doc["used"]) if doc else None

    async def touch_token(self, token_hash: str, at: datetime) -> None:
        """Note that a token is in use."""
        async with answering():
            await self._tokens.update_one({"_id": token_hash}, {"$set": {"used": at}})

    async def revoke_tokens(self, user: str) -> int:
        """Delete all tokens of a user. Returns how many there were."""
        async with answering():
            return (await self._tokens.delete_many({"user": user})).deleted_count

    # ---- presets

    async def new_preset_id(self) -> int:
        """Draw the id of a new preset."""
        return await self._store.next_id("presets")

    async def add_preset(self, preset: Preset) -> None:
        """Store a preset."""
        document = {"_id": preset.id, "name": preset.name, "config": dumps(preset.config), "files": list(preset.files)}
        async with answering():
            await self._presets.insert_one(document)

    async def preset(self, preset_id: int) -> Preset | None:
        """Read a preset."""
        async with answering():
            doc = await self._presets.find_one({"_id": preset_id})
        return _preset(doc) if doc else None

    async def presets(self) -> list[Preset]:
        """List the presets by id."""
        async with answering():
            docs = await self._presets.find({}).sort("_id", 1).to_list(None)
        return [_preset(doc) for doc in docs]
