"""Files for previews: images of every kind, and cutouts; and looking at the pictures made of them."""

import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image

from services.preview.core import Plane
from services.preview.files import Opened, Volume
from shared.contracts.preview import PreviewOptions, PreviewRequest

ROWS, COLUMNS = 40, 60


def scene(rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.float32]:
    """Noise, brighter to the right, with a bright block at the lower left: no symmetry hides a wrong orientation."""
    random = np.random.default_rng(3)
    image = random.normal(100, 5, (rows, columns)) + np.arange(columns) / columns * 30
    image[3:9, 4:14] = 400
    return np.round(image).astype(np.float32)


def write(path: Path, *hdus: Any) -> Path:
    fits.HDUList(list(hdus)).writeto(path, overwrite=True, output_verify="ignore")
    return path


def mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def plane_of(volume: Volume, path: Path, ext: int = -1) -> Plane:
    with path.open("rb") as file:
        return volume.plane(Opened(file.fileno(), path.stat()), ext)


def pixels(picture: bytes) -> NDArray[np.uint8]:
    """Decode a picture, as red, green, blue, alpha; the top row first."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))


def png(**options: Any) -> PreviewOptions:
    return PreviewOptions(format="png", **options)


def ask(task_id: int | None, path: str, **options: Any) -> PreviewRequest:
    from datetime import UTC, datetime

    return PreviewRequest(at=datetime.now(UTC), task_id=task_id, path=path, options=PreviewOptions(**options))
