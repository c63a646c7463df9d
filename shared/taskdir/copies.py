"""Copies of files within the shared volume: by a second link where the volume has links, else byte by byte.

A link is as good as a copy: whatever is put under a name of a task replaces the name and never writes into the file,
so that what happens to the one leaves the other as it is.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .folder import INPUTS, RESULTS, NotFound, TaskDir

_NO_LINKS: Final = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
_PIECE_BYTES: Final = 4 * 2**20

Room = Callable[[int], None]
"""Told how many bytes are about to be written; raises when there is no room for them."""


def copy_task(source: TaskDir, target: TaskDir, room: Room) -> None:
    """Copy what the user uploaded and every commit that counts into the new folder of another task.

    Raises
    ------
    NotFound
        When the source has gone, or a commit was hidden and swept meanwhile.
    """
    try:
        copy_tree(source.path / INPUTS, target.path / INPUTS, room)
        for commit in source.commits():
            copy_tree(source.path / RESULTS / commit.folder, target.path / RESULTS / commit.folder, room)
    except FileNotFoundError as error:
        raise NotFound(source.task_id) from error
    with contextlib.suppress(OSError):
        target.tidy()  # the files are there, whatever becomes of the view


def copy_tree(source: Path, target: Path, room: Room) -> None:
    """Copy the regular files below a folder; links are left out.

    Raises
    ------
    FileNotFoundError
        When the source, or something in it, has gone.
    """
    for folder, _, names, fd in os.fwalk(source, onerror=_raise):
        place = target / os.path.relpath(folder, source)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            if stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                copy_file(name, fd, place / name, room)


def copy_file(name: str, dir_fd: int | None, target: Path, room: Room, *, link: bool = True) -> None:
    """Copy one regular file to a new name.

    Parameters
    ----------
    link
        Whether a second link will do: only for files that nobody writes into.

    Raises
    ------
    FileExistsError
        When there is something of that name.
    """
    if link and _linked(name, dir_fd, target):
        return
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if link else 0), dir_fd=dir_fd)
    with open(fd, "rb") as source, target.open("xb") as copy:
        room(os.fstat(fd).st_size)
        shutil.copyfileobj(source, copy, _PIECE_BYTES)
        copy.flush()
        os.fsync(copy.fileno())


def _linked(name: str, dir_fd: int | None, target: Path) -> bool:
    try:
        os.link(name, target, src_dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _raise(error: OSError) -> None:
    raise error
