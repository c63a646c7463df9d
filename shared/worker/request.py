"""What the author of an answer to a request sees: `RequestContext` in, files in its folder out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..contracts.rpc import FolderRequest, Rpc
from ..taskdir import TaskDir


@dataclass(frozen=True)
class RequestContext:
    """One request, as the function that answers it sees it.

    Parameters
    ----------
    request
        What is asked.
    work
        Folder for the files of the answer.
    task
        Folder of the task, for reading.
    """

    request: FolderRequest
    work: Path
    task: TaskDir


@dataclass(frozen=True)
class RequestSpec:
    """Ties a kind of request to the function that answers it, in a child process as steps are run in.

    `run` raises `StepError` for whatever it cannot do; a detail `parameter` names the parameter that was wrong. `warm`
    is as in `StepSpec`.

    Parameters
    ----------
    title
        What is made, for people: "edit".
    requests
        Reads the request.
    files
        Names of the files that the answer may hold.
    time_limit_s
        Longest work, seconds; less than the asker waits.
    """

    rpc: Rpc
    title: str
    requests: TypeAdapter[Any]
    files: tuple[str, ...]
    time_limit_s: float
    run: Callable[[RequestContext], None]
    warm: Callable[[], None]
