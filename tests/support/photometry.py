"""Running the photometry step in a folder, without broker and runtime."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.photometry.run import run
from shared.contracts.params import PhotometryParams
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
        config = dict(config or {})
        self.work.mkdir(exist_ok=True)
        self.lines.clear()
        return run(
            StepContext(
                task_id=1,
                params=PhotometryParams.of(config),
                config=config,
                work=self.work,
                resources=Resources(cache_dir=self.folder / "cache", mirror_dir=self.mirror_dir, threads=1),
                find=self._find,
                say=self.lines.append,
                show=lambda fraction, phase: None,
            )
        )

    def _find(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.exists() else None
