"""Files that can be made again: pictures, and plain copies of compressed images. Shared by all replicas."""

import contextlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

_KEEP_FRACTION: Final = 0.8
_FORGOTTEN_S: Final = 600.0
"""Age of a file that nobody finished; drawing takes less."""

_UNFINISHED: Final = "."


class Cache:
    """A folder of files, each written once under its final name and never changed.

    Parameters
    ----------
    folder
        On the shared volume; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def size(self, name: str) -> int | None:
        """Give the size of a file, bytes; None when there is none."""
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def path(self, name: str, make: Callable[[BinaryIO], object]) -> Path:
        """Give the path of a file, made first when there is none. It may be swept at any time.

        Parameters
        ----------
        make
            Writes it; what it raises leaves nothing behind.
        """
        path = self.folder / name
        if path.exists():
            return path
        fresh = self.folder / f"{_UNFINISHED}{uuid.uuid4().hex}"
        try:
            with fresh.open("x+b", buffering=0) as file:
                make(file)
            fresh.rename(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        return path

    def sweep(self, limit_bytes: int) -> int:
        """Delete the oldest files while there is more than allowed, and what nobody finished. Returns how many."""
        found: list[tuple[float, int, Path]] = []
        swept = 0
        old = time.time() - _FORGOTTEN_S
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # another replica was here
                status = entry.stat(follow_symlinks=False)
                if not entry.name.startswith(_UNFINISHED):
                    found.append((status.st_mtime, status.st_size, Path(entry.path)))
                elif status.st_mtime < old:
                    os.unlink(entry.path)
                    swept += 1
        total = sum(size for _, size, _ in found)
        if total > limit_bytes:
            for _, size, path in sorted(found):
                path.unlink(missing_ok=True)
                swept += 1
                total -= size
                if total <= _KEEP_FRACTION * limit_bytes:
                    break
        return swept
