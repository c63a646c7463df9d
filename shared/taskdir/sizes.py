"""How much of the disk a task takes."""

import os
import stat
from collections.abc import Iterator

from .folder import INPUTS, RESULTS, TaskDir


def files_of(task: TaskDir) -> Iterator[tuple[int, int]]:
    """List the inode and the size in bytes of each file that the user uploaded or a step committed.

    A file with several names, such as one that a duplicate shares, comes once for each. What is deleted meanwhile is
    left out.
    """
    for layer in (INPUTS, RESULTS):
        for _, _, names, fd in os.fwalk(task.path / layer):
            for name in names:
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield status.st_ino, status.st_size
