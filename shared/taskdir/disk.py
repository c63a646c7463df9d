"""Files and folders as the disk has them."""

import contextlib
import os
import shutil
from pathlib import Path


def delete(path: Path) -> None:
    """Delete a file or a whole folder; links are removed, not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Write the names in a folder to the disk; one that was swept meanwhile needs none."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
