"""Files of a task by name: through the newest commits, then what the user uploaded."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .commits import MANIFEST, Commit, Manifest, list_commits, visible
from .disk import delete, sync
from .layers import Entry, at, put_in
from .names import BadName, safe_parts
from .view import rebuild_view

INPUTS: Final = ".inputs"
RESULTS: Final = ".results"
WORK: Final = ".work"
_TRASH: Final = ".trash"
_INCOMING: Final = ".incoming"
_GONE_OR_TAKEN: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ESTALE}
_RETRIES: Final = 5  # a commit may be swept between being listed and being opened


class NotFound(LookupError):
    """No such task folder, or no such file in it."""


class TasksRoot:
    """The folder that holds the folders of all tasks.

    Parameters
    ----------
    data_dir
        The shared volume.
    """

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "tasks"
        for part in (self.path, self.path / _TRASH, self.path / _INCOMING):
            part.mkdir(parents=True, exist_ok=True)

    def task(self, task_id: int) -> "TaskDir":
        """Give the folder of a task, which need not exist."""
        return TaskDir(self, task_id)

    def draft(self, task_id: int) -> "TaskDir":
        """Give a folder in which a task is made, and which nobody looks at before it appears."""
        folder = TaskDir(self, task_id)
        folder.path = self.incoming()
        return folder

    def incoming(self, name: str | None = None) -> Path:
        """Name a file or folder for an upload, a new one without `name`; the caller writes, and moves or removes it."""
        return self.path / _INCOMING / (name or uuid.uuid4().hex)

    def trash(self, path: Path) -> bool:
        """Set a file or folder aside, in one rename. Returns whether there was one."""
        try:
            path.rename(self.path / _TRASH / uuid.uuid4().hex)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def occupy(self, path: Path) -> None:
        """Let nobody make a folder of that name any more, setting aside the one that is there.

        Raises
        ------
        FileNotFoundError
            When the folder above is gone.
        """
        while True:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
            except FileExistsError:
                if path.is_file():
                    return
                self.trash(path)
            else:
                return

    def ids(self, before: float) -> list[int]:
        """List the tasks whose folders have not changed since `before`, seconds since the epoch."""
        found: list[int] = []
        for entry in os.scandir(self.path):
            with contextlib.suppress(FileNotFoundError):
                if entry.name.isdecimal() and entry.stat(follow_symlinks=False).st_ctime < before:
                    found.append(int(entry.name))
        return found

    def sweep(self, older_than_s: float, now: float, incoming_older_than_s: float | None = None) -> int:
        """Delete what was set aside, and uploads that nobody finished, unchanged for `older_than_s` seconds.

        Parameters
        ----------
        incoming_older_than_s
            Another age for uploads, seconds: a slow client is not a dead one. None for the same.

        Returns
        -------
        int
            How many were deleted.
        """
        swept = 0
        incoming_s = older_than_s if incoming_older_than_s is None else incoming_older_than_s
        for folder, age_s in ((_TRASH, older_than_s), (_INCOMING, incoming_s)):
            for entry in (self.path / folder).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if now - entry.lstat().st_ctime < age_s:
                        continue
                    delete(entry)
                    swept += 1
        return swept


class TaskDir:
    """One task's folder.

    Parameters
    ----------
    root
        Where it is.
    task_id
        The task.
    """

    def __init__(self, root: TasksRoot, task_id: int) -> None:
        self.root = root
        self.task_id = task_id
        self.path = root.path / str(task_id)

    # ---- the folder itself

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        FileExistsError
            When there is one.
        """
        self.path.mkdir()
        (self.path / INPUTS).mkdir()
        (self.path / RESULTS).mkdir()

    def appear(self) -> bool:
        """Put a draft in its place, in one rename; tells whether it is there, or another had been before."""
        place = self.root.task(self.task_id).path
        try:
            self.path.rename(place)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
        self.path = place
        return True

    def exists(self) -> bool:
        """Tell whether the task has a folder."""
        return self.path.is_dir()

    def set_aside(self) -> bool:
        """Take the whole folder away, at once; nothing can be committed to it any more."""
        return self.root.trash(self.path)

    # ---- runs

    def close(self, run_id: str) -> None:
        """Take every attempt of a run away, and let no other one begin: nothing of it can be committed any more.

        A file takes the place of the run's folder, for ever, so that this holds for whoever comes however late, and
        touches no other run.

        Raises
        ------
        NotFound
            When the task has no folder.
        """
        place = self.path / WORK / run_id
        try:
            place.parent.mkdir(exist_ok=True)
            self.root.occupy(place)
        except FileNotFoundError as error:
            raise NotFound(self.task_id) from error

    def closed(self, run_id: str) -> bool:
        """Tell whether a run was closed."""
        return (self.path / WORK / run_id).is_file()

    def clear(self, run_id: str) -> None:
        """Remove what the attempts of a run that has ended may have left."""
        place = self.path / WORK / run_id
        try:
            place.rmdir()
        except NotADirectoryError:
            return  # it was closed, and stays so
        except OSError:
            self.root.trash(place)

    # ---- commits

    def commits(self) -> list[Commit]:
        """List the commits that count, the newest first."""
        return visible(list_commits(self.path / RESULTS))

    def passed(self, seq: int) -> bool:
        """Tell whether something of a later number was committed: the step with this one is over then."""
        return any(commit.seq > seq for commit in self.commits())

    def manifest(self, commit: Commit) -> Manifest | None:
        """Read what a commit holds; None when there is no such commit."""
        try:
            return Manifest.model_validate_json((self.path / RESULTS / commit.folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            return None

    def commit(self, source: Path, commit: Commit, manifest: Manifest) -> bool:
        """Publish a folder as a commit, with one rename, then rebuild the view and sweep what is hidden.

        Returns
        -------
        bool
            False when that commit, or the source, was gone: another has it, or a fence came first.
        """
        target = self.path / RESULTS / commit.folder
        manifest_path = source / MANIFEST
        try:
            with manifest_path.open("wb") as file:
                file.write(manifest.model_dump_json().encode())
                file.flush()
                os.fsync(file.fileno())
            source.rename(target)
        except OSError as error:
            if error.errno not in _GONE_OR_TAKEN:
                raise
            # on NFS the answer to a rename that took place may be lost: the owner in the target tells
            seen = self.manifest(commit)
            if seen is None or seen.owner != manifest.owner:
                return False
        # whoever is told of the commit must find it after a loss of power, too
        sync(target)
        sync(target.parent)
        with contextlib.suppress(OSError):
            # the commit counts whatever becomes of the view: the volume may be full, or know no links
            self.tidy()
        return True

    def tidy(self) -> None:
        """Rebuild the flat view and sweep hidden commits; anyone may, at any time."""
        commits = list_commits(self.path / RESULTS)
        shown = visible(commits)
        rebuild_view(self.path, self._layers(shown))
        for hidden in set(commits).difference(shown):
            self.root.trash(self.path / RESULTS / hidden.folder)

    # ---- files by name

    def _layers(self, commits: list[Commit] | None = None) -> list[Path]:
        """List the folders that hold files, the one that wins first."""
        commits = self.commits() if commits is None else commits
        return [*(self.path / RESULTS / commit.folder for commit in commits), self.path / INPUTS]

    def find(self, name: str) -> Path | None:
        """Resolve a name to the path of a regular file, for programs that want one; None when absent."""
        try:
            path, fd = self._open(safe_parts(name))
        except (NotFound, BadName):
            return None
        os.close(fd)
        return path

    def open(self, name: str) -> tuple[int, os.stat_result]:
        """Open a regular file for reading.

        Returns
        -------
        tuple
            Descriptor, which the caller closes, and its status.

        Raises
        ------
        NotFound
            When there is no such file, or the name cannot be one.
        """
        try:
            _, fd = self._open(safe_parts(name))
        except BadName as error:
            raise NotFound from error
        return fd, os.fstat(fd)

    def _open(self, parts: tuple[str, ...]) -> tuple[Path, int]:
        for _ in range(_RETRIES):
            layers = self._layers()
            for layer in layers:
                with contextlib.suppress(OSError), at(layer, parts[:-1]) as parent:
                    fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
                    if stat.S_ISREG(os.fstat(fd).st_mode):
                        return layer.joinpath(*parts), fd
                    os.close(fd)
            if layers == self._layers():
                break
        raise NotFound("/".join(parts))

    def list(self, path: str = "") -> list[Entry]:
        """List a folder of the task, by name.

        Raises
        ------
        NotFound
            When there is no such folder.
        """
        try:
            parts = safe_parts(path) if path.strip("/") else ()
        except BadName as error:
            raise NotFound from error
        found: dict[str, Entry] = {}
        seen = False
        for layer in self._layers():
            with contextlib.suppress(OSError), at(layer, parts) as fd:
                seen = True
                for name in os.listdir(fd):
                    if name.startswith(".") or name in found:
                        continue
                    with contextlib.suppress(OSError):
                        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        is_dir = stat.S_ISDIR(status.st_mode)
                        if is_dir or stat.S_ISREG(status.st_mode):
                            size = 0 if is_dir else status.st_size
                            found[name] = Entry("/".join((*parts, name)), size, status.st_mtime, is_dir)
        if not seen:
            raise NotFound(path)
        return [found[name] for name in sorted(found)]

    def put(self, name: str, source: Path) -> int:
        """Move a file in under a name, replacing the old one atomically; parents are made.

        Where a commit holds the name its file is replaced, else the file goes to the user's inputs.

        Returns
        -------
        int
            Size in bytes.

        Raises
        ------
        BadName
            When no file can have that name, or a folder has it.
        NotFound
            When the task has no folder.
        """
        parts = safe_parts(name)
        return self._in_layer(parts, lambda layer: put_in(layer, parts, source))

    def _in_layer(self, parts: tuple[str, ...], put: Callable[[Path], int]) -> int:
        if not self.exists():
            raise NotFound(self.task_id)
        holders = [layer for layer in self._layers() if os.path.lexists(layer.joinpath(*parts))]
        size = put(holders[0] if holders else self.path / INPUTS)
        with contextlib.suppress(OSError):
            rebuild_view(self.path, self._layers())
        return size

    def remove(self, name: str) -> None:
        """Delete a file or folder.

        Raises
        ------
        NotFound
            When there is none.
        """
        try:
            parts = safe_parts(name)
        except BadName as error:
            raise NotFound from error
        removed = False
        for layer in self._layers():
            with contextlib.suppress(OSError), at(layer, parts[:-1]) as parent:
                os.rename(parts[-1], self.root.path / _TRASH / uuid.uuid4().hex, src_dir_fd=parent)
                removed = True
        if not removed:
            raise NotFound(name)
        with contextlib.suppress(OSError):
            rebuild_view(self.path, self._layers())
