"""Files in one layer of a task: its inputs, or a commit."""

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .names import BadName, open_directory, open_root


@dataclass(frozen=True)
class Entry:
    """A file or folder of a task.

    Parameters
    ----------
    path
        Name relative to the task's folder.
    size
        Bytes; 0 for a folder.
    modified
        Seconds since the epoch.
    """

    path: str
    size: int
    modified: float
    is_dir: bool

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]


@contextlib.contextmanager
def at(layer: Path, parts: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
    """Open a folder below a layer for as long as the block takes, following no link."""
    root = open_root(layer)
    try:
        fd = open_directory(parts, root, make=make)
    finally:
        os.close(root)
    try:
        yield fd
    finally:
        os.close(fd)


def put_in(layer: Path, parts: tuple[str, ...], source: Path) -> int:
    """Move a file into a layer under a name; gives its size in bytes.

    Raises
    ------
    BadName
        When a folder, a file or a link is in the way.
    """
    size = source.stat().st_size
    try:
        with at(layer, parts[:-1], make=True) as parent:
            os.rename(source, parts[-1], dst_dir_fd=parent)
    except (IsADirectoryError, NotADirectoryError) as error:
        msg = "a folder has that name" if isinstance(error, IsADirectoryError) else "a part of the path is a file"
        raise BadName(msg) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            msg = "a part of the path is a link"
            raise BadName(msg) from error
        raise
    return size
