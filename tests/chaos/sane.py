"""A small world in which every promise was kept, for the tests of the judge."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from .evidence import Evidence, Process

AT = datetime(2026, 11, 1, tzinfo=UTC)
NOW = AT.timestamp() + 60
NOTES = b"seen by eye"


def step(run: str, place: int, name: str, status: str = "done", attempt: int = 1) -> dict:
    return {"id": f"{run}-{place}", "name": name, "seq": place + 1, "status": status, "attempt": attempt}


def run(run_id: str, steps: list[dict], status: str = "done", error: str | None = None) -> dict:
    return {"id": run_id, "at": AT, "ended": AT, "status": status, "error": error, "steps": steps}


def task(task_id: int, last: dict, state: str, **fields) -> dict:
    doc = {"_id": task_id, "title": "as it came", "asked": '{"gain": 2.0}', "computed": {}, "state": state, "seq": 9}
    return {**doc, "work": f"d|{state}", "run": last, **fields}


def commit(volume: Path, task_id: int, folder: str, run_id: str, computed: dict, **files: bytes) -> Path:
    place = volume / "tasks" / str(task_id) / ".results" / folder
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name.replace("__", ".")).write_bytes(content)
    seq, _, name = folder.split("-")
    said = [{"name": file.replace("__", "."), "size": len(content)} for file, content in files.items()]
    manifest = {"run_id": run_id, "step_id": f"{run_id}-{int(seq) - 1}", "step": name, "attempt": 1, "outcome": "done"}
    (place / ".manifest.json").write_text(json.dumps({**manifest, "computed": computed, "files": said}))
    return place


def fits(columns: int, *history: str) -> bytes:
    """Write an image of some columns and one row, a byte a pixel."""
    cards = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", f"NAXIS1  = {columns}", "NAXIS2  = 1"]
    cards += [f"HISTORY {text}" for text in history] + ["END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def sane(volume: Path) -> Evidence:
    """Four tasks: done, and edited by its user; cancelled; failed as it should; with an image that was edited."""
    (volume / "tasks" / ".trash").mkdir(parents=True)
    (volume / "tasks" / ".incoming").mkdir()
    inspected = {"inspect__log": b"well", "mask__fits": b"mask"}
    computed = {"gain": 2.0, "time": None}
    commit(volume, 1, "0000000001-00-upload", "", {}, image__fits=b"image")
    commit(volume, 1, "0000000002-03-inspect", "a", computed, **inspected)
    commit(volume, 2, "0000000001-00-upload", "", {}, image__fits=b"image")
    commit(volume, 2, "0000000002-03-inspect", "b", computed, **inspected)
    commit(volume, 3, "0000000001-00-upload", "", {}, image__fits=b"image")
    edited = {"image__fits": fits(99, "stdweb: offsets of rows removed"), "image__orig__fits": fits(100)}
    commit(volume, 4, "0000000004-00-edit", "", {}, **edited)
    (volume / "tasks" / "1" / ".inputs").mkdir()
    (volume / "tasks" / "1" / ".inputs" / "notes.txt").write_bytes(NOTES)
    ledger = []
    for task_id in (1, 2, 3):
        facts = {"key": f"k{task_id}", "title": "as it came", "picture": "small"}
        ledger.append({"what": "accepted", "op": "create", "got_id": task_id, **facts})
    facts = {"key": "k4", "title": "as it came", "sha256": hashlib.sha256(fits(100)).hexdigest(), "size": 100}
    ledger.append({"what": "accepted", "op": "create", "got_id": 4, **facts})
    asked = {"task": 1, "name": "notes.txt", "sha256": hashlib.sha256(NOTES).hexdigest()}
    ledger += [
        {"what": "accepted", "op": "config", "task": 1, "config": {"gain": 2.0}},
        {"what": "accepted", "op": "upload", **asked},
        process(1, "a", ["inspect"]),
        process(2, "b", ["inspect", "photometry"]),
        process(3, "c", ["inspect", "cleanup"], good=False),
        {"what": "asked", "op": "cancel", "task": 2, "run": "b"},
        {"what": "accepted", "op": "cancel", "task": 2, "run": "b", "got_revoked_count": 1},
        {"what": "seen", "op": "end", "task": 1, "run": "a", "state": "inspect_done"},
        *({"what": what, "op": op, "task": 4} for what in ("asked", "accepted") for op in ("crop", "destripe")),
        *({"what": "seen", "op": "picture", "task": n, "source": "small at 64", "sha256": "same"} for n in (1, 2)),
        call("b", 2, "cancelled", ok=False),
        call("b", 2, "cancelled"),
    ]
    ledger[7]["callback"] = True
    second = run("b", [step("b", 1, "inspect"), step("b", 2, "photometry", "cancelled")], "cancelled")
    steps = [step("c", 1, "inspect", "failed"), step("c", 2, "cleanup", "cancelled")]
    kept = {"inspect": '{"gain":2.0}'}
    return Evidence(
        ledger=ledger,
        tasks=[
            task(1, run("a", [step("a", 1, "inspect")]), "inspect_done", computed=kept),
            task(2, second, "cancelled", computed=kept),
            task(3, run("c", steps, "failed", "The image is constant."), "inspect_failed"),
            {**task(4, {}, "uploaded"), "run": None},
        ],
        runs=[],
        volume=volume,
        queues=[queue("step.inspect.v1", consumers=2), queue("parking.v2", consumers=0), queue("listener.1")],
        processes=[Process(10, 1, "services.inspect"), Process(11, 10, "stdweb inspect: idle"), Process(12, 1, "epmd")],
        supervised={"inspect-1": 10},
        others={"shelves": [{"ids": [1, 2, 3, 4]}]},
        at=NOW,
    )


def process(task_id: int, run_id: str, steps: list[str], *, good: bool = True) -> dict:
    facts = {"task": task_id, "steps": steps, "good": good, "config": {}}
    return {"what": "accepted", "op": "process", "got_celery_id": run_id, **facts}


def call(run_id: str, task_id: int, state: str, *, ok: bool = True) -> dict:
    told = {"got_run_id": run_id, "got_task_id": task_id, "got_state": state}
    return {"what": "called", "op": "callback", "ok": ok, "signed": True, "sha256": f"of {run_id}", **told}


def queue(name: str, waiting: int = 0, consumers: int = 1) -> dict:
    return {"name": name, "messages_ready": waiting, "messages_unacknowledged": 0, "consumers": consumers}
