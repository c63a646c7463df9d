"""What is left after a campaign, read straight from store, files, broker and process table."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pymongo

from stdweb.stack import processes as marked

Doc = dict[str, Any]


@dataclass(frozen=True)
class Process:
    """A live process of the stack."""

    pid: int
    parent: int
    command: str
    state: str = "sleeping"


@dataclass
class Evidence:
    """All that the checker looks at.

    Parameters
    ----------
    ledger
        What clients asked and were promised.
    tasks, runs
        Documents of the store; `others` those of further collections.
    volume
        The shared volume.
    queues
        As RabbitMQ lists them.
    letters
        Bodies of the messages in the parking queue.
    processes
        Those with the stack's mark.
    supervised
        Process ids of the components.
    faults
        What was done to the stack: `kind`, `victim`, `began`, `ended` (seconds since the epoch).
    at
        When this was read, seconds since the epoch.
    """

    ledger: list[Doc]
    tasks: list[Doc]
    runs: list[Doc]
    volume: Path
    queues: list[Doc] = field(default_factory=list)
    letters: list[Doc] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    supervised: dict[str, int] = field(default_factory=dict)
    faults: list[Doc] = field(default_factory=list)
    others: dict[str, list[Doc]] = field(default_factory=dict)
    at: float = 0.0


def read_store(port: int, database: str = "stdweb") -> tuple[list[Doc], list[Doc], dict[str, list[Doc]]]:
    """Read tasks, runs and what goes with them."""
    url = f"mongodb://127.0.0.1:{port}/?retryWrites=false"
    with pymongo.MongoClient(url, serverSelectionTimeoutMS=5000, tz_aware=True) as client:
        base = client[database]
        others = {name: list(base[name].find()) for name in ("shelves", "texts", "claims", "callbacks")}
        return list(base["tasks"].find()), list(base["runs"].find()), others


def read_processes(mark: str) -> list[Process]:
    """List the processes of a stack."""
    found = []
    for pid in marked.members(mark):
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                command = " ".join(process.cmdline())
                found.append(Process(pid, process.ppid(), command, process.status()))
        except psutil.NoSuchProcess:
            continue
    return found


def in_json(text: object) -> Any:
    """Read a field that the store keeps as JSON text."""
    return json.loads(text) if isinstance(text, str) and text else {}
