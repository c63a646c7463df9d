"""Measurements of a task, as its steps wrote them."""

import asyncio
import os
from typing import Final, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from shared.contracts.results import (
    CANDIDATES_FILE,
    SUB_CANDIDATES_FILE,
    SUB_TARGETS_FILE,
    TARGETS_FILE,
    Candidates,
    Measurements,
    SubtractionMeasurements,
)
from shared.taskdir import NotFound, TaskDir, TasksRoot

from ..model import Task

_MAX_BYTES: Final = 4 * 2**20  # some ten thousand objects

Result = TypeVar("Result", bound=BaseModel)

log = structlog.get_logger()


async def measurements(root: TasksRoot, task: Task) -> Measurements | None:
    """Read what photometry measured at the targets; None when it did not run, or had no targets."""
    return await asyncio.to_thread(_read, root.task(task.id), TARGETS_FILE, Measurements)


async def candidates(root: TasksRoot, task: Task) -> Candidates | None:
    """Read what the search by catalogues found; None when it did not run."""
    return await asyncio.to_thread(_read, root.task(task.id), CANDIDATES_FILE, Candidates)


async def difference_measurements(root: TasksRoot, task: Task) -> SubtractionMeasurements | None:
    """Read what template subtraction measured at the targets; None when it did not run, or had no targets."""
    return await asyncio.to_thread(_read, root.task(task.id), SUB_TARGETS_FILE, SubtractionMeasurements)


async def difference_candidates(root: TasksRoot, task: Task) -> Candidates | None:
    """Read what the search in the difference found; None when it did not run."""
    return await asyncio.to_thread(_read, root.task(task.id), SUB_CANDIDATES_FILE, Candidates)


def _read(folder: TaskDir, name: str, kind: type[Result]) -> Result | None:
    try:
        fd, status = folder.open(name)
    except NotFound:
        return None
    with os.fdopen(fd, "rb") as file:
        if status.st_size > _MAX_BYTES:
            return None
        try:
            return kind.model_validate_json(file.read(_MAX_BYTES))
        except ValidationError:  # users may put files of that name
            log.info("file of results is not ours", task=folder.task_id, name=name)
            return None
