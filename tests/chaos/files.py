"""The judge's look at the shared volume: whole commits, each of one attempt, of steps that the store has as done."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import images
from .evidence import Doc, in_json

if TYPE_CHECKING:
    from .checker import Story

Found = tuple[str, str, int | None]

_COMMIT = re.compile(r"(\d{10})-(\d\d)-([a-z_]+)")
_RANKS = {"stack": 1, "cleanup": 2, "inspect": 3, "photometry": 4, "simple_transients": 5, "subtraction": 6}
_IMAGE = ("upload", "edit", "delete")
_MARKS = {".inputs", ".results", ".work", ".unowned"}
_MUST = {
    "inspect": {"inspect.log", "mask.fits"},
    "photometry": {"photometry.log", "objects.vot", "photometry.json"},
    "subtraction": {"subtraction.log", "sub_diff.fits"},
}
_SAME = {"inspect": "mask.fits"}
"""Files that are the same, byte by byte, whenever a step is done on the same image."""


def check(story: "Story", counts: Counter[str]) -> Iterator[Found]:
    """Look at every task's folder."""
    masks: dict[tuple[str, str], dict[str, int]] = {}
    tasks = story.evidence.volume / "tasks"
    there = {int(entry.name) for entry in tasks.iterdir() if entry.name.isdecimal()} if tasks.exists() else set()
    for task_id in sorted(there - set(story.tasks)):
        if not (tasks / str(task_id) / ".unowned").exists():
            yield "folder without a task", f"tasks/{task_id}", task_id
        counts["folders left to be swept"] += 1
    for task_id, doc in story.tasks.items():
        if task_id not in there:
            yield "lost files", "the task has no folder", task_id
            continue
        yield from _Folder(story, task_id, doc, tasks / str(task_id), counts=counts, masks=masks).check()
    for (picture, name), digests in masks.items():
        if len(digests) > 1:
            yield (
                "results differ",
                f"{name} of {picture} has {len(digests)} contents: tasks {list(digests.values())}",
                None,
            )


class _Folder:
    def __init__(
        self,
        story: "Story",
        task_id: int,
        doc: Doc,
        path: Path,
        *,
        counts: Counter[str],
        masks: dict[tuple[str, str], dict[str, int]],
    ) -> None:
        self._story = story
        self._id = task_id
        self._doc = doc
        self._path = path
        self._counts = counts
        self._masks = masks
        made = story.made.get(task_id)
        self._made = made
        self._image: tuple[tuple[int, int, str], Path] | None = None

    def check(self) -> Iterator[Found]:
        commits: dict[tuple[int, int, str], Path] = {}
        for entry in (self._path / ".results").iterdir():
            match = _COMMIT.fullmatch(entry.name)
            if match is None:
                yield "stray folder", f".results/{entry.name}", self._id
            else:
                commits[int(match[1]), int(match[2]), match[3]] = entry
        self._image = max(((one, at) for one, at in commits.items() if one[2] in _IMAGE), default=None)
        manifests: dict[tuple[int, int, str], Doc] = {}
        for commit, folder in commits.items():
            try:
                manifests[commit] = json.loads((folder / ".manifest.json").read_text())
            except (OSError, ValueError) as error:
                yield "commit without manifest", f"{folder.name}: {error}", self._id
                continue
            yield from self._whole(commit, folder, manifests[commit])
            yield from self._rightful(commit, manifests[commit])
        yield from self._visible(set(commits), manifests)
        yield from self._leavings()
        yield from self._uploads()
        if self._image is not None and self._made is not None and "size" in self._made:
            yield from images.check(self._story, self._id, self._made, self._image[1])

    def _whole(self, commit: tuple[int, int, str], folder: Path, manifest: Doc) -> Iterator[Found]:
        """Files are those of the manifest, no more and no fewer."""
        said = {file["name"]: file["size"] for file in manifest["files"]}
        seen = {
            str(path.relative_to(folder)): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file() and path.name != ".manifest.json"
        }
        self._counts["commits"] += 1
        self._counts["files"] += len(seen)
        if said != seen:
            differ = {name for name in said.keys() | seen.keys() if said.get(name) != seen.get(name)}
            yield "commit not whole", f"{folder.name}: {sorted(differ)} differ from the manifest", self._id
        if manifest["outcome"] == "done" and (missing := _MUST.get(commit[2], set()) - set(seen)):
            yield "commit not whole", f"{folder.name}: no {sorted(missing)}", self._id
        same = _SAME.get(commit[2])
        image = self._image
        if same is not None and same in seen and manifest["outcome"] == "done" and image and image[0] < commit:
            digest = hashlib.sha256((folder / same).read_bytes()).hexdigest()
            # the mask depends on the gain, which users set
            source = f"image {_digest(image[1] / 'image.fits')} at gain {manifest['computed'].get('gain')}"
            self._masks.setdefault((source, same), {}).setdefault(digest, self._id)

    def _step_of(self, manifest: Doc) -> tuple[Doc, Doc] | None:
        run = self._story.runs.get(manifest["run_id"])
        step = next((one for one in run["steps"] if one["id"] == manifest["step_id"]), None) if run else None
        return (run, step) if run and step else None

    def _family(self) -> set[int]:
        """Give the task, and those that it is a double of."""
        found, one = {self._id}, self._id
        while one in self._story.sources:
            one = self._story.sources[one]
            found.add(one)
        return found

    def _rightful(self, commit: tuple[int, int, str], manifest: Doc) -> Iterator[Found]:
        """Each commit is of a step that the store has as ended so."""
        seq, rank, name = commit
        if name in _IMAGE:
            return
        label = f"{seq}-{name}"
        if manifest["step"] != name or rank != _RANKS[name]:
            yield "commit of another step", f"{label} says {manifest['step']}", self._id
        found = self._step_of(manifest)
        if found is None:
            if not self._family() & (self._story.deleted | self._story.maybe_deleted):
                yield "effect without a step", f"{label} of run {manifest['run_id']}", self._id
            return
        run, step = found
        if run["task_id"] not in self._family():
            yield "effect on another task", f"{label} is of task {run['task_id']}", self._id
        if step["seq"] != seq or step["name"] != name:
            yield "commit of another step", f"{label} is of step {step['seq']}-{step['name']}", self._id
        if step["status"] != manifest["outcome"]:
            yield "effect against the store", f"{label} has {manifest['outcome']}, the store {step['status']}", self._id
        if manifest["attempt"] > step["attempt"]:
            yield "attempt from nowhere", f"{label} is of attempt {manifest['attempt']}", self._id

    def _visible(
        self, commits: set[tuple[int, int, str]], manifests: dict[tuple[int, int, str], Doc]
    ) -> Iterator[Found]:
        """What no later step has hidden is there, and its computed keys are the task's."""
        steps = {
            (step["seq"], _RANKS[step["name"]], step["name"])
            for run in self._story.of_task.get(self._id, [])
            for step in run["steps"]
            if step["status"] == "done"
        }
        lowest = 99
        shown = []
        for commit in sorted(steps | commits, reverse=True):
            if commit[1] < lowest:
                lowest = commit[1]
                shown.append(commit)
        for seq, _, name in sorted(set(shown) & steps - commits):
            yield "lost results", f"{seq}-{name} is done, and its commit is not there", self._id
        self._counts["hidden commits left"] += len(commits - set(shown))
        computed = {name: in_json(text) for name, text in (self._doc.get("computed") or {}).items()}
        wanted = {}
        for commit in shown:
            manifest = manifests.get(commit)
            if manifest is not None and commit[2] in _RANKS and manifest["outcome"] == "done":
                said = {key: value for key, value in manifest["computed"].items() if value is not None}
                wanted |= {commit[2]: said} if said else {}
        if computed != wanted:
            yield "computed keys", f"of {sorted(computed)} instead of {sorted(wanted)}, or other values", self._id

    def _leavings(self) -> Iterator[Found]:
        """No scratch folder, lease or temporary file of a run that has ended."""
        for entry in self._path.iterdir():
            if entry.name.startswith(".") and entry.name not in _MARKS:
                yield "temporary file", entry.name, self._id
        work = self._path / ".work"
        for entry in work.iterdir() if work.exists() else ():
            if entry.is_dir():
                left = sorted(str(path.relative_to(work)) for path in entry.rglob("*"))
                yield "scratch left", f".work/{entry.name}: {left[:5]}", self._id
            elif self._needlessly_closed(entry.name):
                yield "done run was closed", f".work/{entry.name}", self._id

    def _needlessly_closed(self, run_id: str) -> bool:
        run = self._story.runs.get(run_id)
        return run is not None and run["status"] == "done" and run_id not in self._story.cancels_asked

    def _uploads(self) -> Iterator[Found]:
        """Files of users are what they sent last."""
        lines = [
            one
            for one in self._story.evidence.ledger
            if one.get("task") == self._id and one["op"] in {"upload", "drop"}
        ]
        allowed: dict[str, set[str]] = {}
        late: set[tuple[str, str]] = set()  # tries without an answer, repeated elsewhere: they may come at any time
        for line in lines:
            name, digest = line["name"], line.get("sha256", "")
            if line["what"] in {"accepted", "refused"}:  # who is told that there is no such file has dropped it, too
                allowed[name] = {digest}
            elif line["what"] == "unknown":
                allowed.setdefault(name, {""}).add(digest)
            elif line["what"] == "perhaps":
                late.add((name, digest))
        for name, digests in allowed.items():
            digest = _digest(self._path / ".inputs" / name)
            if digest not in digests and (name, digest) not in late:
                yield "upload lost", f"{name} is not what was sent last", self._id


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
