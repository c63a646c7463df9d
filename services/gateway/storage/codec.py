"""Documents of tasks and runs, to and from the domain's classes.

Configs are kept as JSON text: they hold keys, numbers and texts that BSON does not take, and are never queried.
"""

import json
from typing import Any, Final

from shared.contracts.states import StepStatus

from ..model import Pending, Run, RunStep, Task

Doc = dict[str, Any]


def run_to_doc(run: Run) -> Doc:
    """Write a run."""
    return {
        "id": run.id,
        "at": run.at,
        "user": run.user,
        "status": run.status,
        "ended": run.ended,
        "version": run.version,
        "asked": dumps(run.asked),
        "key": run.key,
        "request": run.request,
        "error": run.error,
        "callback": run.callback,
        **({"trace": run.trace} if run.trace else {}),
        "steps": [
            {
                "id": step.id,
                "name": step.name,
                "seq": step.seq,
                "status": step.status.value,
                "attempt": step.attempt,
                "repeats": step.repeats,
                "waited": step.waited,
                "started": step.started,
                "ended": step.ended,
            }
            for step in run.steps
        ],
    }


def run_from_doc(doc: Doc) -> Run:
    """Read a run."""
    steps = tuple(
        RunStep(
            id=step["id"],
            name=step["name"],
            seq=step["seq"],
            status=StepStatus(step["status"]),
            attempt=step["attempt"],
            repeats=step.get("repeats", 0),
            waited=step["waited"],
            started=step["started"],
            ended=step["ended"],
        )
        for step in doc["steps"]
    )
    return Run(
        id=doc["id"],
        at=doc["at"],
        user=doc["user"],
        steps=steps,
        status=doc["status"],
        ended=doc["ended"],
        version=doc.get("version", ""),
        asked=json.loads(doc.get("asked", "{}")),
        key=doc.get("key"),
        request=doc.get("request"),
        error=doc.get("error"),
        callback=doc.get("callback"),
        trace=doc.get("trace"),
    )


def dumps(value: object) -> str:
    """Write JSON that BSON takes as text: ASCII only."""
    return json.dumps(value, separators=(",", ":"))


def task_fields(task: Task) -> Doc:
    """Write all that the coordinator may change, and what is derived from it for queries; None means absent."""
    pending = task.pending
    return {
        "original_name": task.original_name,
        "asked": dumps(task.asked),
        "computed": {name: dumps(keys) for name, keys in task.computed.items()},
        "state": task.state,
        "error": task.error,
        "completed": task.completed,
        "modified": task.modified,
        "seq": task.seq,
        "run": run_to_doc(task.run) if task.run else None,
        "pending": {
            "kind": pending.kind,
            "seq": pending.seq,
            "owner": pending.owner,
            "source": pending.source,
            "at": pending.at,
        }
        if pending
        else None,
        "before": {key: value for key, value in task_fields(task.before).items() if value is not None}
        if task.before
        else None,
        "work": mark_of(task),
    }


def released(user: str, step: str) -> str:
    """Mark a task of which a step is in its queue, or worked on."""
    return f"r|{user}|{step}"


_WAITING: Final = "w|"
PENDING: Final = "p"
ACTIVE: Final = {"$gte": "r|", "$lt": "x"}
"""Selects tasks with a run that has not ended by their mark."""
RELEASED: Final = {"$gte": "r|", "$lt": "s"}
"""Selects those of them whose step is not held back."""


def resting(state: str) -> str:
    """Mark a task that nothing is to be done with."""
    return f"d|{state}"


def mark_of(task: Task) -> str:
    """Mark a task with what is to be done, or the state in which it rests, for one index to serve all questions."""
    step = task.run.current if task.run else None
    if task.run and step:
        mark = released(task.run.user, step.name)
        return mark if step.status is not StepStatus.WAITING else _WAITING + mark[2:]
    return PENDING if task.pending else resting(task.state)


_LASTING: Final = ("_id", "created", "user", "title", "groups")
"""What no run changes."""


def task_from_doc(doc: Doc) -> Task:
    """Read a task; fields that a projection left out get their defaults."""
    run, pending, before = doc.get("run"), doc.get("pending"), doc.get("before")
    return Task(
        id=doc["_id"],
        original_name=doc.get("original_name", ""),
        title=doc.get("title", ""),
        user=doc.get("user", ""),
        groups=tuple(doc.get("groups", ())),
        created=doc["created"],
        modified=doc["modified"] if "modified" in doc else doc["created"],
        state=doc.get("state", ""),
        asked=json.loads(doc["asked"]) if doc.get("asked") else {},
        computed={name: json.loads(text) for name, text in (doc.get("computed") or {}).items()},
        completed=doc.get("completed"),
        error=doc.get("error"),
        seq=doc.get("seq", 0),
        rev=doc.get("rev", 0),
        run=run_from_doc(run) if run else None,
        pending=Pending(**pending) if pending else None,
        before=task_from_doc({**{name: doc[name] for name in _LASTING if name in doc}, **before}) if before else None,
    )
