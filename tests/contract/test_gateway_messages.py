"""Messages and store documents as other processes, and earlier versions, have them: a change here is a new version."""

import json
from datetime import UTC, datetime

import pytest

from services.gateway.domain import runs
from services.gateway.model import Task
from services.gateway.storage.codec import task_fields, task_from_doc
from shared.contracts.messages import Cancel, Message, StepDone, StepFailed, StepMessage, StepProgress, StepStarted

AT = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
IDS = {"version": 1, "task_id": 7, "run_id": "r", "at": "2026-11-01T12:30:00Z"}
REPORT = {**IDS, "step_id": "r-1", "step": "inspect", "attempt": 1, "worker": "w"}

GOLDEN: list[tuple[type[Message], dict]] = [
    (
        StepMessage,
        {
            **IDS,
            "kind": "step",
            "step_id": "r-1",
            "step": "inspect",
            "attempt": 1,
            "seq": 3,
            "position": 1,
            "total": 2,
            "config": {"filter": "R"},
        },
    ),
    (StepStarted, {**REPORT, "kind": "started"}),
    (
        StepDone,
        {
            **REPORT,
            "kind": "done",
            "computed": {"gain": 1.5},
            "files": [{"name": "mask.fits", "size": 10}],
            "seconds": 1.25,
            "peak_memory_bytes": 1000,
            "repeats": 1,
        },
    ),
    (
        StepFailed,
        {
            **REPORT,
            "kind": "failed",
            "code": "no_stars",
            "error": "No stars.",
            "files": [],
            "seconds": 0.5,
            "peak_memory_bytes": 0,
            "repeats": 0,
        },
    ),
    (StepProgress, {**REPORT, "kind": "progress", "fraction": 0.5, "phase": "p", "log": ["line"], "logged": 3}),
    (Cancel, {**IDS, "kind": "cancel"}),
]


@pytest.mark.parametrize(("kind", "golden"), GOLDEN, ids=[kind.__name__ for kind, _ in GOLDEN])
def test_messages_read_and_write_the_golden_form(kind: type[Message], golden: dict) -> None:
    message = kind.model_validate_json(json.dumps(golden))
    assert json.loads(message.model_dump_json()) == golden


@pytest.mark.parametrize(("kind", "golden"), GOLDEN, ids=[kind.__name__ for kind, _ in GOLDEN])
@pytest.mark.parametrize("change", [{"version": 2}, {"unknown": 1}, {"task_id": None}, {"at": "2026-11-01T12:30:00"}])
def test_other_forms_are_refused(kind: type[Message], golden: dict, change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        kind.model_validate_json(json.dumps({**golden, **change}))


def test_a_task_survives_its_document() -> None:
    task = Task(7, "a", "t", user="ann", groups=("g",), created=AT, modified=AT, state="uploaded", asked={"x": 2**70})
    request = runs.Request("ann", ["inspect", "photometry"], key="digest")
    task = runs.start(task, request, run_id="0" * 48, asked=task.asked, at=AT, admit=lambda _: True)
    task = runs.succeed(task, task.run.steps[0].id, {"gain": 1.5, "t": "\ud800"}, AT, lambda _: False, repeats=2)
    fields = task_fields(task)
    assert fields["work"] == "w|ann|photometry"
    document = {"_id": 7, "title": "t", "user": "ann", "groups": ["g"], "created": AT, **fields}
    assert task_from_doc(document) == task
