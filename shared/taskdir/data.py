"""Reading files of the shared data directory, which nobody writes."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .layers import at
from .names import BadName, safe_parts

DATA: Final = "data"
"""Name of the shared data directory on the shared volume."""

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def open_data(data_dir: Path, path: str) -> Iterator[Path]:
    """Open a regular file of the shared data directory, following no link, for as long as the block takes.

    Parameters
    ----------
    data_dir
        The shared volume.
    path
        Relative to the shared data directory.

    Yields
    ------
    Path
        Under which this process, and no other, can read the file, whatever becomes of its name.

    Raises
    ------
    FileNotFoundError
        When there is none, or the path leads out.
    """
    try:
        *folders, name = safe_parts(path)
        with at(data_dir / DATA, tuple(folders)) as parent:
            fd = os.open(name, _FILE, dir_fd=parent)
    except (BadName, OSError) as error:
        raise FileNotFoundError from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
