"""Measurements of a task, as its steps wrote them."""

import asyncio
import os
from typing import Final

import structlog
from pydantic import ValidationError

from shared.contracts.results import TARGETS_FILE, Measurements
from shared.taskdir import NotFound, TaskDir, TasksRoot

from ..model import Task

_MAX_BYTES: Final = 32 * 2**20

log = structlog.get_logger()


async def measurements(root: TasksRoot, task: Task) -> Measurements | None:
    """Read what photometry measured at the targets; None when it did not run, or had no targets."""
    return await asyncio.to_thread(_read, root.task(task.id))


def _read(folder: TaskDir) -> Measurements | None:
    try:
        fd, status = folder.open(TARGETS_FILE)
    except NotFound:
        return None
    with os.fdopen(fd, "rb") as file:
        if status.st_size > _MAX_BYTES:
            return None
        try:
            return Measurements.model_validate_json(file.read(_MAX_BYTES))
        except ValidationError:  # users may put files of that name
            log.info("file of results is not ours", task=folder.task_id)
            return None
