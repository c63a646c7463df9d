"""Runs an edit in a folder, without a worker."""

import math
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.inspect.edits import edit
from shared.contracts.edits import (
    IMAGE,
    ORIGINAL,
    CropOptions,
    CropRequest,
    DestripeOptions,
    DestripeRequest,
    EditRequest,
    FixRequest,
)
from shared.taskdir import TasksRoot
from shared.taskdir.folder import INPUTS
from shared.worker.request import RequestContext

COMMON: dict[str, Any] = {"at": datetime(2026, 11, 1, tzinfo=UTC), "task_id": 1, "source": "0" * 32}


def crop_request(**box: int) -> CropRequest:
    return CropRequest(options=CropOptions(**box), **COMMON)


def destripe_request(direction: str = "both") -> DestripeRequest:
    return DestripeRequest(options=DestripeOptions.model_validate({"direction": direction}), **COMMON)


def fix_request() -> FixRequest:
    return FixRequest(**COMMON)


def run_edit(folder: Path, request: EditRequest) -> Path:
    """Edit `folder`/image.fits; gives the new folder, which holds the edited image and the original."""
    root = TasksRoot(folder / "volume")
    task = root.task(len(root.ids(math.inf)) + 1)
    task.create()
    for name in (IMAGE, ORIGINAL):
        if (folder / name).exists():
            shutil.copyfile(folder / name, task.path / INPUTS / name)
    work = folder / f"edited{task.task_id}"
    work.mkdir()
    edit(RequestContext(request=request, work=work, task=task))
    return work
