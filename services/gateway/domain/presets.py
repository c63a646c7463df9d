"""Presets: configs to start tasks from, and the files that go with them.

The files of a preset lie in a folder of their own on the shared volume, `presets/<id>`, and never change.
"""

import contextlib
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shared.taskdir import BadName, copy_file, copy_tree, safe_parts
from shared.taskdir.disk import delete

from ..model import Preset
from ..storage import Users
from .errors import Invalid, Missing
from .files import INPUTS, guarded
from .images import IMAGE
from .room import Room

_MAX_ID: Final = 2**31


class Presets:
    """The presets, for reading."""

    def __init__(self, users: Users) -> None:
        self._users = users

    async def all(self) -> list[Preset]:
        """List the presets by id."""
        return await self._users.presets()

    async def get(self, text: str) -> Preset:
        """Read a preset.

        Raises
        ------
        Missing
            When there is none of that id.
        """
        preset = None
        if text.isascii() and text.isdecimal() and len(text) < 11 and int(text) < _MAX_ID:  # noqa: PLR2004
            preset = await self._users.preset(int(text))
        if preset is None:
            raise Missing(f"There is no preset {text[:32]}.")
        return preset


class PresetFiles:
    """Files of the presets.

    Parameters
    ----------
    data_dir
        The shared volume.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "presets"

    def names(self, files: Iterable[Path]) -> tuple[str, ...]:
        """Give the names that files get in a task.

        Raises
        ------
        Invalid
            When a file is none, has the name of another, or one that a preset cannot bring.
        """
        names: list[str] = []
        for path in files:
            if not path.is_file():
                raise Invalid.field("files", f"there is no file {path.name!r}")
            try:
                safe_parts(path.name)
            except BadName as error:
                raise Invalid.field("files", f"{path.name!r}: {error}") from None
            if path.name == IMAGE or (guarded(path.name) and path.name not in INPUTS):
                raise Invalid.field("files", f"{path.name} is made for each task, and cannot be part of a preset")
            if path.name in names:
                raise Invalid.field("files", f"two files are named {path.name}")
            names.append(path.name)
        return tuple(names)

    def keep(self, preset_id: int, files: Iterable[Path]) -> None:
        """Copy files into the folder of a new preset, which appears whole."""
        fresh = self._path / f".{uuid.uuid4().hex}"
        fresh.mkdir(parents=True)
        try:
            for path in files:
                # a copy: whoever has the file may go on changing it
                copy_file(str(path), None, fresh / path.name, lambda _: None, link=False)
            fresh.rename(self._path / str(preset_id))
        except BaseException:
            delete(fresh)
            raise

    def drop(self, preset_id: int) -> None:
        """Delete the folder of a preset."""
        delete(self._path / str(preset_id))

    def copy(self, preset: Preset, target: Path, room: Room) -> None:
        """Copy the files of a preset into a folder of a new task.

        Raises
        ------
        Invalid
            When they are not there.
        """
        if not preset.files:
            return
        with contextlib.suppress(FileNotFoundError):
            copy_tree(self._path / str(preset.id), target, room.check)
        if missing := [name for name in preset.files if not (target / name).is_file()]:
            raise Invalid.field("preset", f"the file {missing[0]} of this preset is missing; tell the administrator")
