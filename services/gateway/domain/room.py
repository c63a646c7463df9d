"""How much the shared volume takes."""

import shutil
from pathlib import Path
from typing import Final

from .errors import TooLarge, Unavailable

DISK_FULL: Final = "The server has no room for this; tell its administrator, or try again later."


class Room:
    """Limits of what is written for users.

    Parameters
    ----------
    folder
        Of the volume.
    most_bytes
        Largest file.
    reserve_bytes
        Free space that must stay.
    """

    def __init__(self, folder: Path, most_bytes: int, reserve_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._reserve_bytes = reserve_bytes

    def check_size(self, size_bytes: int) -> None:
        """Refuse a file of at least so many bytes, if it is too large.

        Raises
        ------
        TooLarge
            Saying how large it may be.
        """
        if size_bytes > self._most_bytes:
            raise TooLarge(f"A file may have at most {self._most_bytes} bytes.")

    def check(self, more_bytes: int) -> None:
        """Refuse to write so many bytes more, if that leaves too little room.

        Raises
        ------
        Unavailable
            The disk may be less full later.
        """
        if shutil.disk_usage(self._folder).free - more_bytes < self._reserve_bytes:
            raise Unavailable(DISK_FULL)
