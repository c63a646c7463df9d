"""The embedded store, started once for all tests of a run; each test gets a database of its own."""

import socket
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stdweb.stack.store import EmbeddedStore


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def embedded_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    folder: Path = tmp_path_factory.mktemp("store")
    store = EmbeddedStore(folder / "data", free_port())
    process = store.start(folder / "store.log")
    try:
        store.wait(process)
        yield store
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def mongo_url(embedded_store: EmbeddedStore) -> str:
    return replace(embedded_store, database=f"t{uuid.uuid4().hex[:12]}").url
