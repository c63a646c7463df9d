"""Running the photometry step in a folder, without broker and runtime."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.inspect.run import inspect
from services.photometry.run import run
from shared.contracts.params import InspectParams, PhotometryParams, StepParams
from shared.worker.step import Resources, StepContext


@dataclass
class Bench:
    """One task folder with what a site gives; `lines` collects the log."""

    folder: Path
    mirror_dir: Path | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def run(self, config: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the step on the folder's files and give the computed keys."""
        self.work.mkdir(exist_ok=True)
        self.lines.clear()
        return run(self._context(PhotometryParams, dict(config or {}), self.work))

    def inspect(self, config: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the step before, whose files go beside the image; give the computed keys overlaid by what was asked."""
        config = dict(config or {})
        return {**inspect(self._context(InspectParams, config, self.folder)), **config}

    def _context(self, params: type[StepParams], config: dict[str, Any], work: Path) -> StepContext:
        return StepContext(
            task_id=1,
            params=params.of(config),
            config=config,
            work=work,
            resources=Resources(cache_dir=self.folder / "cache", mirror_dir=self.mirror_dir, threads=1),
            find=self._find,
            say=self.lines.append,
            show=lambda fraction, phase: None,
        )

    def _find(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.exists() else None
