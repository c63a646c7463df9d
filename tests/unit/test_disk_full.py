"""Failures of a full disk are told as such, whatever words a program or a library has for them."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.errors import InternalError
from shared.worker.child import is_disk_full


def test_by_the_number_of_the_error(tmp_path: Path) -> None:
    assert is_disk_full(OSError(errno.ENOSPC, "full"), tmp_path)
    assert is_disk_full(OSError(errno.EDQUOT, "quota"), tmp_path)
    assert not is_disk_full(OSError(errno.EIO, "broken"), tmp_path)


@pytest.mark.parametrize(("free_blocks", "full"), [(0, True), (16383, True), (16384, False)])
def test_by_the_room_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_blocks: int, full: bool
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free_blocks, f_frsize=4096))
    failed = InternalError("program_failed", "source-extractor failed with status 1.")
    assert is_disk_full(failed, tmp_path) == full
