"""Commits: whole results of one step, by one attempt."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from ..contracts.messages import FileInfo

MANIFEST: Final = ".manifest.json"
_NAME: Final = re.compile(r"(\d{10})-(\d{2})-([a-z_]+)")


class Manifest(BaseModel):
    """What a commit holds and who made it. `step` is `upload`, `edit` or `delete` for changes of the image itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    run_id: str
    step_id: str
    step: str
    attempt: int
    owner: str
    outcome: Literal["done", "failed"]
    code: str = ""
    error: str = ""
    computed: dict[str, Any] = {}
    files: tuple[FileInfo, ...] = ()
    seconds: float = 0
    peak_memory_bytes: int = 0
    repeats: int = 0


@dataclass(frozen=True, order=True)
class Commit:
    """Name of a commit: its place in the task's history, and what it hides.

    Parameters
    ----------
    seq
        Increasing within the task.
    rank
        `Step.rank`, or `IMAGE_RANK` for a change of the image.
    step
        Name of the step, or of the kind of change.
    """

    seq: int
    rank: int
    step: str

    @property
    def folder(self) -> str:
        """Name of its folder in `.results`."""
        return f"{self.seq:010d}-{self.rank:02d}-{self.step}"

    @classmethod
    def parse(cls, folder: str) -> "Commit | None":
        """Read the name of a folder; None when it is no commit's."""
        match = _NAME.fullmatch(folder)
        return cls(int(match[1]), int(match[2]), match[3]) if match else None


def visible(commits: Iterable[Commit]) -> list[Commit]:
    """Select the commits that no later one of the same or a lower rank hides, the newest first."""
    shown: list[Commit] = []
    lowest: int | None = None
    for commit in sorted(commits, reverse=True):
        if lowest is None or commit.rank < lowest:
            shown.append(commit)
            lowest = commit.rank
    return shown


def list_commits(results: Path) -> list[Commit]:
    """List all commits of a task, hidden ones included."""
    try:
        return [commit for name in os.listdir(results) if (commit := Commit.parse(name))]
    except FileNotFoundError:
        return []
