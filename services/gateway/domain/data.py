"""The shared data directory, which everybody may read and nobody writes through the API."""

import asyncio
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared.taskdir import BadName, Entry, open_directory, open_root, safe_parts

from .errors import Missing

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE: Final = "There is no such file in the shared data directory."


class Data:
    """Access to the shared data directory; names that begin with a dot, and links, are not seen.

    Parameters
    ----------
    data_dir
        The shared volume.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "data"

    async def entries(self, path: str) -> list[Entry] | None:
        """List a folder, folders first; None when it is none.

        Parameters
        ----------
        path
            Relative; empty for the directory itself.
        """
        return await asyncio.to_thread(self._list, path)

    async def open(self, path: str) -> int:
        """Open a regular file for reading; the caller closes the descriptor.

        Raises
        ------
        Missing
            When there is none, or the path leads out.
        """
        try:
            return await asyncio.to_thread(self.open_now, path)
        except (BadName, OSError):
            raise Missing(_GONE) from None

    def open_now(self, path: str) -> int:
        """Open a regular file for reading; the caller closes the descriptor.

        Raises
        ------
        BadName, OSError
            When there is none, or the path leads out.
        """
        *folders, name = safe_parts(path)
        folder = self._folder(tuple(folders))
        try:
            fd = os.open(name, _FILE, dir_fd=folder)
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError
        return fd

    def _folder(self, parts: tuple[str, ...]) -> int:
        root = open_root(self._path)
        try:
            return open_directory(parts, root)
        finally:
            os.close(root)

    def _list(self, path: str) -> list[Entry] | None:
        try:
            parts = safe_parts(path) if path else ()
            folder = self._folder(parts)
        except (BadName, OSError):
            return [] if not path else None
        found = []
        try:
            for name in os.listdir(folder):
                with suppress(BadName, OSError):
                    safe_parts(name)  # what cannot be asked for is not shown
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        found.append(Entry("/".join((*parts, name)), 0, status.st_mtime, is_dir=True))
                    elif stat.S_ISREG(status.st_mode):
                        found.append(Entry("/".join((*parts, name)), status.st_size, status.st_mtime, is_dir=False))
        finally:
            os.close(folder)
        return sorted(found, key=lambda entry: (not entry.is_dir, entry.name))
