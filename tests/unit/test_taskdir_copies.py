"""Copies of a task's files."""

import errno
import os
from pathlib import Path

import pytest

from shared.taskdir import Commit, Manifest, NotFound, TaskDir, TasksRoot, copy_file, copy_task


@pytest.fixture
def task(tmp_path: Path) -> TaskDir:
    """A task with an upload, a commit of a step, and things that are no files."""
    root = TasksRoot(tmp_path)
    folder = root.task(1)
    folder.create()
    for number, name, step in ((1, "image.fits", "upload"), (2, "targets/a.fits", "photometry")):
        work = root.incoming()
        (work / name).parent.mkdir(parents=True)
        (work / name).write_bytes(step.encode())
        manifest = Manifest(run_id="", step_id="", step=step, attempt=1, owner="me", outcome="done")
        assert folder.commit(work, Commit(number, 0 if step == "upload" else 3, step), manifest)
    notes = root.incoming()
    notes.write_bytes(b"notes")
    folder.put("notes/my.txt", notes)
    (folder.path / ".inputs" / "link.txt").symlink_to("/etc/passwd")
    (folder.path / ".inputs" / "out").symlink_to("/etc")
    os.mkfifo(folder.path / ".inputs" / "pipe")
    return folder


def content(folder: TaskDir) -> dict[str, bytes]:
    found = {}
    for name in ("image.fits", "targets/a.fits", "notes/my.txt"):
        fd, _ = folder.open(name)
        with open(fd, "rb") as file:
            found[name] = file.read()
    return found


def double(task: TaskDir, sizes: list[int]) -> TaskDir:
    other = task.root.task(2)
    other.create()
    copy_task(task, other, sizes.append)
    return other


EXPECTED = {"image.fits": b"upload", "targets/a.fits": b"photometry", "notes/my.txt": b"notes"}


def test_files_are_linked(task: TaskDir) -> None:
    sizes: list[int] = []
    other = double(task, sizes)
    assert content(other) == EXPECTED
    assert other.commits() == task.commits()
    assert (other.path / "targets" / "a.fits").samefile(task.path / "targets" / "a.fits")
    assert sizes == []  # takes no room
    assert not any(os.path.lexists(other.path / ".inputs" / name) for name in ("link.txt", "out", "pipe"))


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_links_cannot_be_made_files_are_copied(task: TaskDir, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(code, "no links here")

    monkeypatch.setattr(os, "link", link)
    sizes: list[int] = []
    other = double(task, sizes)
    monkeypatch.undo()
    assert content(other) == EXPECTED
    assert sorted(sizes)[:3] == [5, 6, 10]
    source, copy = task.find("targets/a.fits"), other.find("targets/a.fits")
    assert source is not None
    assert copy is not None
    assert not copy.samefile(source)


def test_each_goes_its_own_way(task: TaskDir) -> None:
    other = double(task, [])
    for name in EXPECTED:
        fresh = task.root.incoming()
        fresh.write_bytes(b"changed")
        other.put(name, fresh)
    assert content(task) == EXPECTED
    task.remove("notes/my.txt")
    task.set_aside()
    task.root.sweep(-1, 1e12)
    assert content(other) == dict.fromkeys(EXPECTED, b"changed")


def test_a_refusal_for_want_of_room_goes_through(task: TaskDir, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        copy_file(str(task.find("notes/my.txt")), None, tmp_path / "copy", full, link=False)


def test_a_task_that_has_gone(task: TaskDir) -> None:
    task.set_aside()
    with pytest.raises(NotFound):
        double(task, [])
