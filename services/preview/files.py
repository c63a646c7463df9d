"""Finding and opening what is to be drawn, and mapping it into memory."""

import mmap
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from shared.contracts.preview import CACHE_FOLDER, MASK, content_key, shows_mask
from shared.errors import DataError, StepError, TransientError
from shared.taskdir import BadName, NotFound, TasksRoot, safe_parts
from shared.taskdir.layers import at

from .cache import Cache
from .core import Part, Plane, choose, copy_of_compressed, copy_of_gzipped, is_gzipped, walk


@dataclass(frozen=True)
class Opened:
    """An open file, and what it was when it was opened."""

    fd: int
    status: os.stat_result


class Volume:
    """The shared volume, as far as pictures need it.

    Parameters
    ----------
    data_dir
        Where it is.
    reserve_bytes
        Free space that unpacked copies leave: small files may unpack to gigabytes, faster than the cache is swept.
    """

    def __init__(self, data_dir: Path, reserve_bytes: int = 2**29) -> None:
        self._reserve_bytes = reserve_bytes
        self._tasks = TasksRoot(data_dir)
        self._shared = data_dir / "data"
        self.cache = Cache(data_dir / CACHE_FOLDER)

    @contextmanager
    def open(self, task_id: int | None, path: str) -> Iterator[tuple[Opened, Opened | None]]:
        """Open a file, and the mask that goes with it.

        Parameters
        ----------
        task_id
            Whose file; None for one of the shared data directory.
        path
            Its name.

        Raises
        ------
        NotFound
            When there is no such file.
        """
        image = Opened(*(self._open_shared(path) if task_id is None else self._tasks.task(task_id).open(path)))
        mask = None
        try:
            if task_id is not None and shows_mask(task_id, path):
                mask = self._mask(task_id)
            yield image, mask
        finally:
            os.close(image.fd)
            if mask is not None:
                os.close(mask.fd)

    def _mask(self, task_id: int) -> Opened | None:
        try:
            return Opened(*self._tasks.task(task_id).open(MASK))
        except NotFound:
            return None

    def _open_shared(self, path: str) -> tuple[int, os.stat_result]:
        try:
            *folders, name = safe_parts(path)
            with at(self._shared, tuple(folders)) as parent:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=parent)
        except (BadName, OSError) as error:
            raise NotFound(path) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise NotFound(path)
        return fd, status

    def read(self, file: Opened) -> tuple[memoryview, int]:
        """Map a file, or the unpacked copy of a gzipped one.

        Returns
        -------
        content, fd
            The content, and a descriptor of it, which is the caller's to close when it is not that of `file`.
        """
        content = _mapped(file.fd)
        if not is_gzipped(content):
            return content, file.fd

        def unpack(target: BinaryIO) -> None:
            with open(os.dup(file.fd), "rb") as source:
                source.seek(0)
                copy_of_gzipped(source, target, self._check_room)

        fd = os.open(self.cache.path(f"{content_key(file.status)}.fits", unpack), os.O_RDONLY | os.O_CLOEXEC)
        return _mapped(fd), fd

    def plane(self, file: Opened, ext: int) -> Plane:
        """Map the plane to show, from the plain copy of a compressed one.

        Raises
        ------
        StepError
            When there is none.
        """
        content, fd = self.read(file)
        try:
            part = choose(walk(content), ext, len(content))
            if part.tile is None:
                return Plane.of(content, part)
            return self._plain(file, fd, part)
        finally:
            if fd != file.fd:
                os.close(fd)

    def _check_room(self, size_bytes: int) -> None:
        if shutil.disk_usage(self.cache.folder).free - size_bytes < self._reserve_bytes:
            raise TransientError(
                "disk_full",
                "There is no room on the server to unpack this file. Try again later, or upload it unpacked.",
            )

    def _plain(self, file: Opened, fd: int, part: Part) -> Plane:
        def unpack(target: BinaryIO) -> None:
            rows, columns = part.shape
            self._check_room(rows * columns * abs(part.bitpix) // 8)
            copy_of_compressed(Path(f"/proc/self/fd/{fd}"), part, target)

        path = self.cache.path(f"{content_key(file.status)}-{part.number}.fits", unpack)
        copy = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = _mapped(copy)
        finally:
            os.close(copy)
        return Plane.of(content, walk(content)[0])

    def masked(self, plane: Plane, mask: Opened | None) -> Plane:
        """Hide what a mask says; one for an image of another size says nothing about this one.

        Raises
        ------
        DataError
            When the mask cannot be read.
        """
        if mask is None:
            return plane
        try:
            other = self.plane(mask, -1)
        except StepError as error:
            raise DataError(
                "bad_mask", f"{MASK} cannot be applied: {error.user_message} Or delete it.", parameter="path"
            ) from error
        return replace(plane, mask=other) if other.shape == plane.shape else plane


def _mapped(fd: int) -> memoryview:
    if os.fstat(fd).st_size == 0:
        return memoryview(b"")
    # shared and read-only: what is mapped does not count as memory of the process
    return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
