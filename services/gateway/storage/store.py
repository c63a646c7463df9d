"""The connection to the store, its indexes, and the counters."""

import asyncio
import contextlib
import secrets
import time
from typing import Any, Final

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from prometheus_client import Counter, Histogram
from pymongo.errors import (
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from shared.metrics import REGISTRY

_SELECT_MS: Final = 1500  # a request is answered 503 when no server is found for so long
_SOCKET_MS: Final = 20_000
_UNUSED_TOKEN_S: Final = 90 * 86400
_INTERRUPTED: Final = frozenset({91, 189, 11600, 11602})  # shutting down, stepped down, interrupted

_INDEXES: Final[dict[str, tuple[tuple[tuple[tuple[str, int], ...], dict[str, Any]], ...]]] = {
    "tasks": (
        ((("user", 1), ("state", 1), ("_id", 1)), {}),
        ((("work", 1), ("_id", 1)), {}),  # few on purpose: each one adds a third to the cost of a write
    ),
    "shelves": (((("user", 1), ("open", 1)), {}),),
    "texts": (((("user", 1),), {}),),
    "runs": (((("task_id", 1), ("at", -1)), {}), ((("key", 1),), {"sparse": True})),
    "users": (((("password", 1),), {}),),  # finds those that were taken over
    "tokens": (((("user", 1),), {}), ((("used", 1),), {"expireAfterSeconds": _UNUSED_TOKEN_S})),
    "sessions": (((("user", 1),), {}), ((("expire", 1),), {"expireAfterSeconds": 0})),
    "attempts": (((("expire", 1),), {"expireAfterSeconds": 0}),),
    "claims": (((("expire", 1),), {"expireAfterSeconds": 0}),),
    "callbacks": (((("due", 1),), {"sparse": True}), ((("expire", 1),), {"expireAfterSeconds": 0})),
}
_COUNTERS: Final = ("tasks", "presets")
FORM: Final = 1
"""Of the documents. Raise it with a change that an older program, or this one with older documents, cannot read."""

SECONDS: Final = Histogram(
    "stdweb_store_seconds",
    "Time of a use of the store, of one or some queries",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
    registry=REGISTRY,
)
AWAY: Final = Counter("stdweb_store_away", "Uses of the store that it did not answer", registry=REGISTRY)


class StoreAway(Exception):
    """The store does not answer."""


class OtherForm(Exception):
    """The store was written by a version of this program that keeps its documents in another form."""

    def __init__(self, found: int | None) -> None:
        written = "before forms had numbers" if found is None else f"in form {found}"
        super().__init__(
            f"The store holds tasks that were written {written}; this version reads form {FORM}. Use the version "
            "that wrote it, or give this one another database and data folder (STDWEB_MONGO_URL, STDWEB_DATA_DIR)."
        )


_AWAY: Final = (
    ConnectionFailure,
    ServerSelectionTimeoutError,
    NotPrimaryError,
    ExecutionTimeout,
    WTimeoutError,
)


class answering:  # noqa: N801 - reads as what it does; a generator would cost every query five times as much
    """Turn the driver's errors about a store that is away into `StoreAway`, and measure."""

    async def __aenter__(self) -> None:
        self._began = time.perf_counter()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        SECONDS.observe(time.perf_counter() - self._began)
        if isinstance(error, _AWAY) or (isinstance(error, OperationFailure) and error.code in _INTERRUPTED):
            AWAY.inc()
            raise StoreAway(str(error)) from error


class Store:
    """The database.

    Parameters
    ----------
    url
        `mongodb://…/database`; the database is `stdweb` when the address names none.
    listeners
        Listeners of pymongo's monitoring, for tests that count writes.
    """

    def __init__(self, url: str, listeners: tuple[Any, ...] = ()) -> None:
        self._client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
            url,
            serverSelectionTimeoutMS=_SELECT_MS,
            connectTimeoutMS=_SELECT_MS,
            socketTimeoutMS=_SOCKET_MS,
            tz_aware=True,
            event_listeners=listeners,
            appname="stdweb-gateway",
        )
        self._database: AsyncIOMotorDatabase[dict[str, Any]] = self._client.get_default_database("stdweb")
        self._ids = asyncio.Lock()

    def collection(self, name: str) -> "AsyncIOMotorCollection[dict[str, Any]]":
        """Give a collection by its name."""
        return self._database[name]

    async def prepare(self) -> None:
        """Create indexes and counters; anyone may, at any time.

        Raises
        ------
        OtherForm
            The documents are not for this version.
        """
        async with answering():
            await self._agree_on_form()
            for name, indexes in _INDEXES.items():
                for keys, options in indexes:
                    await self._database[name].create_index(list(keys), **options)
            for name in _COUNTERS:
                try:
                    await self._database["counters"].insert_one({"_id": name, "value": 0})
                except DuplicateKeyError:
                    continue

    async def _agree_on_form(self) -> None:
        counters = self._database["counters"]
        has_tasks = await self._database["tasks"].find_one({}, {"_id": 1})  # before: another gateway may be first now
        found = await counters.find_one({"_id": "form"})
        if found is None and not has_tasks:
            with contextlib.suppress(DuplicateKeyError):
                await counters.insert_one({"_id": "form", "value": FORM})
        elif found is None or found["value"] != FORM:
            raise OtherForm(None if found is None else found["value"])

    async def ping(self) -> bool:
        """Tell whether the store answers."""
        try:
            await self._database.command("ping")
        except PyMongoError:
            return False
        return True

    async def next_id(self, counter: str) -> int:
        """Draw a number: increasing, never given twice. Numbers that a crash has drawn are lost."""
        counters = self._database["counters"]
        async with self._ids, answering():
            while True:
                found = await counters.find_one({"_id": counter})
                value = int(found["value"]) if found else 0
                result = await counters.update_one({"_id": counter, "value": value}, {"$set": {"value": value + 1}})
                if result.modified_count:
                    return value + 1
                if found is None:
                    await self.prepare()

    async def secret(self, name: str) -> bytes:
        """Give a secret that all gateways share; the first to ask makes it."""
        secrets_ = self._database["secrets"]
        async with answering():
            with contextlib.suppress(DuplicateKeyError):
                if await secrets_.find_one({"_id": name}) is None:
                    await secrets_.insert_one({"_id": name, "value": secrets.token_hex()})
            found = await secrets_.find_one({"_id": name})
        return bytes.fromhex(found["value"]) if found else b""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
