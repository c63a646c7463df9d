"""Names that users may give to files, and walking to them without following a link."""

import contextlib
import os
from typing import Final

MAX_NAME_BYTES: Final = 255
MAX_PATH_BYTES: Final = 1024
MAX_DEPTH: Final = 16

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BadName(ValueError):
    """A name that no file of a task can have."""


def safe_parts(path: str) -> tuple[str, ...]:
    """Split a relative path into names, or refuse it.

    Names starting with a dot are ours; links, `..` and absolute paths lead out; control characters end up in headers.

    Raises
    ------
    BadName
        Saying what is wrong with it.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        msg = "a name must be valid Unicode"
        raise BadName(msg) from None
    if len(encoded) > MAX_PATH_BYTES:
        msg = f"a path may have at most {MAX_PATH_BYTES} bytes"
        raise BadName(msg)
    parts = tuple(path.removesuffix("/").split("/"))
    if len(parts) > MAX_DEPTH:
        msg = f"a path may have at most {MAX_DEPTH} parts"
        raise BadName(msg)
    for part in parts:
        if not part or part.startswith("."):
            msg = "a name may be neither empty nor begin with a dot"
            raise BadName(msg)
        if "\\" in part or not part.isprintable():
            msg = "a name may hold neither backslashes nor control characters"
            raise BadName(msg)
        if len(part.encode()) > MAX_NAME_BYTES:
            msg = f"a name may have at most {MAX_NAME_BYTES} bytes"
            raise BadName(msg)
    return parts


def open_directory(parts: tuple[str, ...], dir_fd: int, *, make: bool = False) -> int:
    """Open a directory below `dir_fd`, part by part, following no link.

    Returns
    -------
    int
        A new descriptor, which the caller closes.

    Raises
    ------
    OSError
        When a part is missing (unless `make`), a link, or not a directory.
    """
    current = os.dup(dir_fd)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=current)
            below = os.open(part, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def open_root(path: str | os.PathLike[str]) -> int:
    """Open a folder of ours by its path."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
