"""Edits of the image: files in and out."""

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
from astropy.io import fits

from shared.contracts.edits import IMAGE, ORIGINAL, CropRequest, DestripeRequest, FixRequest
from shared.contracts.steps import STEPS
from shared.errors import UsageError
from shared.science.crop import box_of, crop_header
from shared.science.destripe import remove_stripes
from shared.science.images import EXTRACTED, Plane, open_plane, quiet_fits, read_image
from shared.science.planes import blocks_of, stored_scaling, without_structure, write_plane
from shared.science.repair import repair_header
from shared.taskdir import TaskDir
from shared.taskdir.folder import RESULTS
from shared.worker.request import RequestContext


@quiet_fits()
def edit(ctx: RequestContext) -> None:
    """Make the new image in the request's folder, and keep the first one beside it.

    The result holds one plane, that which the steps take, in its first part; the rest of a file of several stays in
    the original.
    """
    path = _image_of(ctx.task)
    if path is None:
        raise UsageError("no_image", "The task has no image; upload one as image.fits.")
    _keep_original(path, ctx.work / ORIGINAL)
    request, target = ctx.request, ctx.work / IMAGE
    if isinstance(request, DestripeRequest):
        _destripe(path, target, request)
        return
    if not isinstance(request, CropRequest | FixRequest):
        raise TypeError(type(request).__name__)
    with open_plane(path, stored=True, ext=request.ext) as plane:
        if isinstance(request, CropRequest):
            _crop(plane, target, request)
        else:
            _fix(plane, target, request)


def _image_of(task: TaskDir) -> Path | None:
    """Find the image; not that which `inspect` has taken out of it for later steps."""
    for commit in task.commits():
        path = task.path / RESULTS / commit.folder / IMAGE
        if commit.step != STEPS["inspect"].name and path.is_file() and not path.is_symlink():
            return path
    return task.find(IMAGE)


def _keep_original(path: Path, original: Path) -> None:
    """Keep what an edit before this one has kept, beside the image, else the image itself."""
    first = path.with_name(ORIGINAL)
    source = first if first.is_file() and not first.is_symlink() else path
    with contextlib.suppress(OSError):  # not every volume knows links
        os.link(source, original, follow_symlinks=False)
        return
    shutil.copyfile(source, original)


def _note_extension(header: fits.Header, ext: int | None) -> None:
    """Let `inspect` know that the extension it is told to take has been taken."""
    if ext is not None and EXTRACTED not in header:
        header[EXTRACTED] = (ext, "extension that the image was made of")


def _fix(plane: Plane, target: Path, request: FixRequest) -> None:
    header, notes = repair_header(plane.raw_header)
    for note in notes:
        header.add_history(f"stdweb: fix: {note}")
    _note_extension(header, request.ext)
    rows, columns = plane.shape
    # scaling may have been written as text: that of the repaired header counts
    blocks = blocks_of(plane, 0, rows, 0, columns)
    write_plane(target, without_structure(header), plane.shape, blocks, stored_scaling(plane, header))


def _crop(plane: Plane, target: Path, request: CropRequest) -> None:
    asked = request.options
    x1, y1, x2, y2 = box = box_of(asked.x1, asked.y1, asked.x2, asked.y2, plane.shape)
    header = crop_header(without_structure(plane.header), box, plane.shape)
    _note_extension(header, request.ext)
    blocks = blocks_of(plane, y1, y2, x1, x2)
    write_plane(target, header, (y2 - y1, x2 - x1), blocks, stored_scaling(plane, plane.header))


def _destripe(path: Path, target: Path, request: DestripeRequest) -> None:
    rows, columns = request.options.direction != "vertical", request.options.direction != "horizontal"
    image, header = read_image(path, request.ext)
    rms = remove_stripes(image, rows=rows, columns=columns)
    which = " and ".join(name for name, wanted in (("rows", rows), ("columns", columns)) if wanted)
    header = without_structure(header)
    for key in ("DATAMIN", "DATAMAX"):
        header.remove(key, ignore_missing=True, remove_all=True)
    _note_extension(header, request.ext)
    header.add_history(f"stdweb: offsets of {which} removed, {rms:.4g} RMS")
    write_plane(target, header, (image.shape[0], image.shape[1]), np.array_split(image, max(len(image) // 1024, 1)))
