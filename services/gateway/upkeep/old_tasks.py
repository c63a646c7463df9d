"""Tasks of an old installation as tasks of this one: what was asked apart from what was computed, files in commits."""

import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.contracts import states
from shared.contracts.edits import IMAGE
from shared.contracts.messages import FileInfo
from shared.contracts.steps import IMAGE_RANK, STEPS, Step
from shared.taskdir import BadName, Commit, Manifest, TaskDir, copy_file, safe_parts
from shared.taskdir.commits import MANIFEST
from shared.taskdir.folder import INPUTS, RESULTS

from ..domain import config as configs
from ..domain.errors import Invalid
from ..model import Task
from .old_site import OldTask

_COMPUTED: Final = {
    "inspect": ("targets", "target_ra", "target_dec"),
    "photometry": (
        *("fwhm", "pixscale", "field_ra", "field_dec", "field_sr", "zp", "zp_err", "mag_limit", "color_term"),
        *("cat_col_mag", "cat_col_mag_err", "cat_col_color_mag1", "cat_col_color_mag2", "astrom_rms"),
    ),
}
"""Keys that the steps write. The old system kept them among those that were asked, where it cannot be told of all
others, such as the gain, who has set them: these stay as asked."""

_STEPS: Final = tuple(
    sorted((step for step in STEPS.values() if step.name not in {"cleanup", "stack"}), key=lambda step: step.rank)
)
_STATES: Final = {states.INITIAL, states.UPLOADED, states.CANCELLED} | {
    name for step in STEPS.values() for name in (states.done(step.state), states.failed(step.state))
}


@dataclass(frozen=True)
class OldFile:
    """A file of an old task, by its name in the task's folder."""

    name: str
    path: Path
    size: int


def sound(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Keep of a config what may be asked here; gives also the keys that may not."""
    kept, bad = {}, []
    for key, value in config.items():
        if value is None:
            continue
        try:
            kept.update(configs.merge({}, configs.parse({key: value})))
        except Invalid:
            bad.append(str(key)[:64])
    try:
        return configs.merge({}, configs.parse(kept)), bad
    except Invalid:  # single keys are right, all together are too much, or contradict one another
        return {}, [*bad, *kept]


def files_of(folder: Path) -> tuple[list[OldFile], list[str]]:
    """List the files of an old task; gives also the names of what cannot be taken."""
    found, left = [], []
    for name, path in sorted(_walk(folder)):
        status = path.lstat()
        try:
            safe_parts(name)
        except BadName:
            left.append(name)
            continue
        if stat.S_ISREG(status.st_mode):
            found.append(OldFile(name, path, status.st_size))
        else:
            left.append(name)
    return found, left


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in [*names, *links]:
            path = Path(parent) / name
            yield path.relative_to(folder).as_posix(), path


def converted(old: OldTask, files: list[OldFile]) -> tuple[Task, list[str]]:
    """Give the task as it will be here; gives also what is said about it."""
    config, bad = sound(old.config)
    notes = [f"these keys of its config are not allowed here, and were left out: {', '.join(bad)}"] if bad else []
    computed = {step: {key: config.pop(key) for key in keys if key in config} for step, keys in _COMPUTED.items()}
    groups = _grouped(files)
    state = old.state
    if state not in _STATES:
        state = states.UPLOADED if IMAGE in {file.name for file in files} else states.INITIAL
        notes.append(f"its state was {old.state!r}; it is {state} now")
    task = Task(
        id=old.id,
        original_name=_text(old.original_name) or "image.fits",
        title=_text(old.title),
        user=old.user,
        groups=old.groups,
        created=old.created,
        modified=old.modified,
        state=state,
        asked=config,
        computed={step: keys for step, keys in computed.items() if keys},
        completed=old.completed,
        seq=len(groups.commits),
    )
    return task, notes


def _text(value: str) -> str:
    return "".join(char if char.isprintable() else " " for char in value)[:1024]


@dataclass(frozen=True)
class _Grouped:
    commits: list[tuple[Commit, list[OldFile]]]
    inputs: list[OldFile]


def _grouped(files: list[OldFile]) -> _Grouped:
    """Tell which file belongs to which commit: the image, then each step that has left something."""
    rest = list(files)
    commits: list[tuple[Commit, list[OldFile]]] = []
    image = [file for file in rest if file.name == IMAGE]
    if image:
        commits.append((Commit(1, IMAGE_RANK, "upload"), image))
    for step in _STEPS:
        made = [file for file in rest if file.name != IMAGE and _makes(step, file.name)]
        if made:
            commits.append((Commit(len(commits) + 1, step.rank, step.name), made))
    taken = {file.name for _, group in commits for file in group}
    return _Grouped(commits, [file for file in rest if file.name not in taken])


def _makes(step: Step, name: str) -> bool:
    return (
        name == step.log
        or name in step.files
        or name.startswith(tuple(file for file in step.files if file.endswith("/")))
    )


def fill(folder: TaskDir, task: Task, files: list[OldFile], *, link: bool) -> None:
    """Put the files into the new folder of a task.

    Parameters
    ----------
    link
        Whether files on the same volume may be shared with the old installation.
    """
    grouped = _grouped(files)
    for file in grouped.inputs:
        _place(file, folder.path / INPUTS / file.name, link=link)
    for commit, group in grouped.commits:
        place = folder.path / RESULTS / commit.folder
        for file in group:
            _place(file, place / file.name, link=link)
        row = STEPS.get(commit.step)
        failed = row is not None and task.state == states.failed(row.state)
        manifest = Manifest(
            run_id="",
            step_id="",
            step=commit.step,
            attempt=1,
            owner=uuid.uuid4().hex,
            outcome="failed" if failed else "done",
            computed=task.computed.get(commit.step, {}),
            files=tuple(FileInfo(name=file.name, size=file.size) for file in group),
        )
        (place / MANIFEST).write_text(manifest.model_dump_json())
    folder.tidy()


def _place(file: OldFile, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    copy_file(str(file.path), None, target, lambda _: None, link=link)
