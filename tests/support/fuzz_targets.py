"""What reads files of strangers, in pieces that a guided fuzzer can call hundreds of times a second.

Each target takes a fuzzer's bytes, ends without a word, or raises a `StepError` when it refuses the file. Whatever else
it raises is a finding.
"""

import io
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits

from services.inspect.edits import edit
from services.preview.core import choose, render_image, walk
from services.preview.files import Opened, Volume
from shared.contracts.edits import IMAGE, ORIGINAL, CropOptions, CropRequest, FixRequest
from shared.contracts.preview import PreviewOptions
from shared.errors import InternalError, StepError
from shared.science.crop import box_of, crop_header
from shared.science.fits_layout import bytes_to_image
from shared.science.headers import band_in, gain_in, saturation_in, target_in, time_in
from shared.science.images import clean_header, unscale_asinh
from shared.science.planes import without_structure
from shared.science.repair import repair_header
from shared.science.wcs import usable_wcs
from shared.taskdir import TasksRoot
from shared.taskdir.folder import INPUTS
from shared.worker.request import RequestContext
from tests.support.edits import COMMON
from tests.support.fuzz_inputs import FuzzInput, file_of
from tests.support.inspecting import run_inspect

Target = Callable[[FuzzInput], None]

LIMIT_BYTES: Final = 1 << 24
SIDE: Final = 32
STRETCHES: Final = ("linear", "log", "sqrt", "asinh")


def layout(given: FuzzInput) -> None:
    """Walk through the file as the steps do, and as previews do."""
    with suppress(StepError):
        bytes_to_image(io.BytesIO(given.content), LIMIT_BYTES, given.ext)
    parts = walk(memoryview(given.content))
    choose(parts, -1 if given.ext is None else given.ext, len(given.content))


def header(given: FuzzInput) -> None:
    """Do all with a header that is done with one, after the look at what it declares."""
    bytes_to_image(io.BytesIO(given.content), LIMIT_BYTES, given.ext)
    raw = fits.Header.fromstring(given.content[: given.content.find(b"END     ") + 80].decode("latin-1"))
    clean = clean_header(raw)
    for look in (gain_in, band_in, time_in):
        look(clean, lambda *_: None)
    saturation_in(clean, 100.0, lambda *_: None)
    target_in(clean)
    unscale_asinh(np.ones((2, 2), np.float32), clean)
    shape = (SIDE, SIDE)
    box = box_of(given.numbers[0] - 128, given.numbers[1] - 128, None, None, shape)
    repaired, _ = repair_header(raw)
    cut = crop_header(without_structure(repaired if given.numbers[0] & 1 else clean), box, shape)
    cut["NAXIS1"], cut["NAXIS2"] = SIDE, SIDE
    usable_wcs(cut)


class Previews:
    """Draws pictures of a file that is replaced each time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / IMAGE
        self._volume = Volume(folder, reserve_bytes=0)
        self._cache = self._volume.cache.folder
        self._cache.mkdir(parents=True, exist_ok=True)

    def __call__(self, given: FuzzInput) -> None:
        self._path.write_bytes(given.content)
        first, second = given.numbers
        options = PreviewOptions(
            width=16 + first % 32,
            format="png" if second & 1 else "jpeg",
            stretch=STRETCHES[second >> 1 & 3],  # type: ignore[arg-type]
            r0=(second >> 3 & 3) / 2,
        )
        try:
            with self._path.open("rb") as file:
                opened = Opened(file.fileno(), self._path.stat())
                plane = self._volume.plane(opened, -1 if given.ext is None else given.ext)
                plane = self._volume.masked(plane, opened) if second & 64 else plane
                picture = render_image(plane, options)
        finally:
            for copy in self._cache.iterdir():
                copy.unlink()
        assert picture.startswith(b"\x89PNG" if options.format == "png" else b"\xff\xd8")


class Crops:
    """Crops or repairs a file that is replaced each time, and looks whether the new one is what was asked for."""

    def __init__(self, folder: Path) -> None:
        self._task = TasksRoot(folder / "volume").task(1)
        self._task.create()
        self._work = folder / "work"

    def __call__(self, given: FuzzInput) -> None:
        (self._task.path / INPUTS / IMAGE).write_bytes(given.content)
        first, second = given.numbers
        # a third of them repairs
        box = CropOptions(x1=first - 128, y1=second // 16 - 8, x2=None, y2=None)
        fix = first % 3 == 0
        request = FixRequest(ext=given.ext, **COMMON) if fix else CropRequest(options=box, ext=given.ext, **COMMON)
        self._work.mkdir()
        try:
            edit(RequestContext(request=request, work=self._work, task=self._task))
            made = (self._work / IMAGE).read_bytes()
            assert (self._work / ORIGINAL).exists()
        finally:
            shutil.rmtree(self._work)
        part = choose(walk(memoryview(made)), -1, len(made))
        assert (part.number, len(part.lengths)) == (0, 2), part
        assert len(made) - part.offset - part.size < 2880, part


class Inspections:
    """Runs the step `inspect` on a file that is replaced each time; its targets need no archive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, given: FuzzInput) -> None:
        (self._folder / IMAGE).write_bytes(given.content)
        first, second = given.numbers
        config: dict[str, Any] = {"target": "120.0 35.0" if first & 16 else "x=5,y=7", "ext": given.ext}
        config["mask_cosmics"] = bool(first & 32)
        if second & 1:
            (self._folder / "custom_mask.fits").write_bytes(given.content)
        try:
            run_inspect(self._folder, **config)
        finally:
            shutil.rmtree(self._folder)
            self._folder.mkdir()


def targets(folder: Path) -> dict[str, Target]:
    """Give all targets, which work in an empty folder of their own."""
    for name in ("preview", "crop", "inspect"):
        (folder / name).mkdir()
    return {
        "layout": layout,
        "header": header,
        "preview": Previews(folder / "preview"),
        "crop": Crops(folder / "crop"),
        "inspect": Inspections(folder / "inspect"),
    }


def try_input(target: Target, data: bytes) -> bool:
    """Give an input to a target.

    Returns
    -------
    bool
        Whether it was read; otherwise it was refused in words.

    Raises
    ------
    Exception
        When that is a finding.
    """
    try:
        target(file_of(data))
    except InternalError:
        raise
    except (StepError, MemoryError):
        return False
    return True
