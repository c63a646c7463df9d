"""Runs an edit in a folder, without a worker."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.inspect.edits import edit
from shared.contracts.edits import CropOptions, CropRequest, DestripeOptions, DestripeRequest, EditRequest, FixRequest
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
    work = folder / f"edited{len(list(folder.glob('edited*')))}"
    work.mkdir()

    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    edit(RequestContext(request=request, work=work, find=find))
    return work
