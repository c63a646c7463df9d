"""The judge's look at what may be left behind: processes, queues, folders to be swept."""

from collections.abc import Iterator

from .evidence import Evidence

Found = tuple[str, str, int | None]

_DURABLE = {
    "gateway.reports.v2",
    "dead.v2",
    "parking.v2",
    *(f"step.{name}.v1" for name in ("cleanup", "inspect", "photometry", "simple_transients", "subtraction", "stack")),
}
_SERVED = {f"step.{name}.v1" for name in ("cleanup", "inspect", "photometry", "subtraction", "stack")}
_PREFIXES = ("delay.", "rpc.", "reply.", "listener.")
_TRASH_S = 180.0  # twice the longest that the sweeper takes, and some more for a machine that is busy
_INCOMING_S = 3600.0 + 180.0
_REPLIES_S = 90.0


def check(evidence: Evidence) -> Iterator[Found]:
    """Look for what should not be there."""
    yield from _processes(evidence)
    yield from _queues(evidence)
    yield from _set_aside(evidence)


def _processes(evidence: Evidence) -> Iterator[Found]:
    parents = {process.pid: process.parent for process in evidence.processes}
    roots = set(evidence.supervised.values())
    for process in evidence.processes:
        pid = process.pid
        while pid in parents and pid not in roots:
            pid = parents[pid]
        if pid not in roots and "epmd" not in process.command:
            yield "orphan process", f"{process.pid} {process.command[:120]}", None
        if " of task " in process.command:
            yield "process at work after the end", process.command[:120], None
        if process.state == "stopped":
            yield "process left frozen", process.command[:120], None


def _queues(evidence: Evidence) -> Iterator[Found]:
    gateway_fault = max((one["ended"] for one in evidence.faults), default=0.0)
    for queue in evidence.queues:
        name = str(queue["name"])
        waiting = queue["messages_ready"] + queue["messages_unacknowledged"]
        if name not in _DURABLE and not name.startswith(_PREFIXES):
            yield "unknown queue", name, None
        if name.startswith("listener.") and not queue["consumers"]:
            yield "orphan queue", f"{name} has no consumer", None
        if name.startswith("reply.") and not queue["consumers"] and evidence.at - gateway_fault > _REPLIES_S:
            yield "orphan queue", f"{name} has no consumer", None
        if waiting and name != "parking.v2" and not name.startswith(("listener.", "reply.")):
            yield "message left", f"{waiting} in {name}", None
        if name in _SERVED and queue["consumers"] != 2:
            yield "consumers", f"{name} has {queue['consumers']} instead of 2", None
    parked = next((queue for queue in evidence.queues if queue["name"] == "parking.v2"), None)
    if parked is not None and parked["messages_ready"] != len(evidence.letters):
        yield "dead letter unexplained", f"{parked['messages_ready']} parked, {len(evidence.letters)} read", None


def _set_aside(evidence: Evidence) -> Iterator[Found]:
    for place, age_s in ((".trash", _TRASH_S), (".incoming", _INCOMING_S)):
        folder = evidence.volume / "tasks" / place
        for entry in folder.iterdir() if folder.exists() else ():
            old_s = evidence.at - entry.lstat().st_ctime
            if old_s > age_s:
                yield "not swept", f"{place}/{entry.name} is {old_s:.0f} s old", None
