"""Runs the step `inspect` in a folder, without a worker."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.inspect.run import inspect
from shared.contracts.params import InspectParams
from shared.worker.step import Resources, StepContext


@dataclass
class Inspection:
    work: Path
    log: list[str] = field(default_factory=list)
    computed: dict[str, Any] = field(default_factory=dict)

    def says(self, words: str) -> bool:
        return any(words in line for line in self.log)


def run_inspect(folder: Path, **config: Any) -> Inspection:
    """Inspect `folder`/image.fits; a failure raises, with the log so far in the exception's notes."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    result = Inspection(work)

    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    ctx = StepContext(
        task_id=1,
        params=InspectParams.of(config),
        config=config,
        work=work,
        resources=Resources(cache_dir=folder / "cache"),
        find=find,
        say=result.log.append,
        show=lambda _fraction, _phase: None,
    )
    result.computed = inspect(ctx)
    return result
