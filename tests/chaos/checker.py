"""The judge: reads what is left, knows nothing of the coordinator's code, and says what promise was broken.

The promises are those of the API and of the architecture: what was answered 2xx is there; a run ends; a step takes
effect once, whole, from one attempt; users' edits stay; what was cancelled has no effect; nothing is left behind.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import files, leftovers, told
from .evidence import Doc, Evidence, in_json
from .images import EDITS
from .story import ENDED, Story, course, end_state

LASTING = {"wrong answer", "too late"}
"""Violations that no waiting mends."""


@dataclass(frozen=True)
class Violation:
    """A promise that was broken."""

    rule: str
    what: str
    task: int | None = None


@dataclass
class Verdict:
    """What the checker found, and how much it looked at."""

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def check(evidence: Evidence) -> Verdict:
    """Judge."""
    verdict = Verdict()
    story = Story(evidence)
    for rule in _RULES:
        verdict.violations += rule(story)
    verdict.violations += [Violation(*found) for found in files.check(story, verdict.counts)]
    verdict.violations += [Violation(*found) for found in told.check(story)]
    verdict.violations += [Violation(*found) for found in leftovers.check(evidence)]
    verdict.counts["tasks"] = len(evidence.tasks)
    for run in story.runs.values():
        verdict.counts[f"runs {run['status']}"] += 1
        verdict.counts["steps done"] += sum(step["status"] == "done" for step in run["steps"])
        verdict.counts["steps tried again"] += sum(step["attempt"] > 1 for step in run["steps"])
    verdict.counts["requests accepted"] = sum(line["what"] == "accepted" for line in evidence.ledger)
    verdict.counts["image edits"] = len(story.lines("accepted", *EDITS))
    verdict.counts["pictures seen"] = len(story.lines("seen", "picture"))
    verdict.counts["ends followed"] = sum(line.get("how") == "told" for line in story.lines("seen", "end"))
    verdict.counts["callbacks asked"] = sum(bool(line.get("callback")) for line in story.lines("accepted", "process"))
    return verdict


def _tasks(story: Story) -> Iterator[Violation]:
    """Tasks that were promised are there, once, and no others."""
    for task_id, line in story.made.items():
        gone = task_id in story.deleted | story.maybe_deleted
        if task_id not in story.tasks and not gone:
            yield Violation("lost task", f"made with key {line['key']}, and not in the store", task_id)
    for task_id in story.deleted & set(story.tasks):
        yield Violation("deleted task is back", "answered as deleted, and in the store", task_id)
    extra = set(story.tasks) - set(story.made)
    allowed = len(story.lines("unknown", "create", "duplicate"))
    if len(extra) > allowed:
        yield Violation("task made twice", f"{sorted(extra)} were promised to nobody; {allowed} requests were given up")


def _tasks_once(story: Story) -> Iterator[Violation]:
    """One request, one task; and each is listed once."""
    keys = Counter(doc["key"] for doc in story.tasks.values() if doc.get("key"))
    for key, count in keys.items():
        if count > 1:
            yield Violation("task made twice", f"{count} tasks have the key {key}")
    answers = Counter(line["got_id"] for line in story.lines("accepted", "create", "duplicate"))
    for task_id, count in answers.items():
        if count > 1:
            yield Violation("one task for two requests", f"answered {count} times", task_id)
    shelved = Counter(task_id for shelf in story.evidence.others.get("shelves", ()) for task_id in shelf["ids"])
    for task_id in story.tasks if "shelves" in story.evidence.others else ():
        if shelved[task_id] != 1:
            yield Violation("not in the listing", f"listed {shelved[task_id]} times", task_id)


def _runs(story: Story) -> Iterator[Violation]:
    """Runs that were promised are there, and have ended."""
    for line in story.lines("accepted", "process"):
        task_id, run_id = line["task"], line["got_celery_id"]
        run = story.runs.get(run_id)
        if run is None:
            if task_id not in story.deleted | story.maybe_deleted:
                yield Violation("lost run", f"run {run_id} was accepted and is not in the store", task_id)
        elif [step["name"] for step in run["steps"]] != line["steps"]:
            yield Violation("wrong steps", f"run {run_id} was asked for {line['steps']}", task_id)
    for run in story.runs.values():
        if run["status"] not in ENDED or run.get("ended") is None:
            yield Violation("stuck run", f"run {run['id']} is {run['status']}: {course(run)}", run["task_id"])


def _runs_once(story: Story) -> Iterator[Violation]:
    """One request, one run."""
    answers = Counter(line["got_celery_id"] for line in story.lines("accepted", "process"))
    for run_id, count in answers.items():
        if count > 1:
            yield Violation("one run for two requests", f"{run_id} was answered {count} times")
    for run_id in story.doubled:
        yield Violation("run of two tasks", run_id)
    doubtful = Counter(line["task"] for line in story.lines("unknown", "process"))
    for task_id, runs in story.of_task.items():
        unasked = [run["id"] for run in runs if run["id"] not in answers]
        if len(unasked) > doubtful[task_id] and task_id in story.made:
            yield Violation("run twice", f"{unasked} were promised to nobody", task_id)


def _cancels(story: Story) -> Iterator[Violation]:
    """A cancel that was answered has its effect, and nobody else's has."""
    for line in story.lines("accepted", "cancel"):
        run = story.runs.get(line["run"])
        if run is not None and line.get("got_revoked_count") and run["status"] != "cancelled":
            yield Violation("cancel without effect", f"run {run['id']} is {run['status']}", line["task"])
    for run in story.runs.values():
        if run["status"] == "cancelled" and run["id"] not in story.cancels_asked:
            yield Violation("cancelled by nobody", f"run {run['id']}", run["task_id"])


def _steps(story: Story) -> Iterator[Violation]:
    """The steps of a run tell the same story as the run, and one that fails had to."""
    good = {line["got_celery_id"]: line["good"] for line in story.lines("accepted", "process")}
    for run in story.runs.values():
        states = [step["status"] for step in run["steps"]]
        done = next((place for place, state in enumerate(states) if state != "done"), len(states))
        rest = states[done:]
        right = {
            "done": not rest,
            "failed": bool(rest) and rest[0] == "failed" and set(rest[1:]) <= {"cancelled"},
            "cancelled": bool(rest) and set(rest) == {"cancelled"},
        }
        told = f"run {run['id']} is {run['status']}: {course(run)}"
        if not right.get(run["status"], True):
            yield Violation("steps do not fit the run", told, run["task_id"])
        if run["status"] == "failed" and good.get(run["id"], True):
            why = run.get("error") or ""
            if not why:
                yield Violation("failed without a reason", told, run["task_id"])
            elif not _explained(story, run, why):
                yield Violation("failed by a fault", f"{told}: {why}", run["task_id"])


def _explained(story: Story, run: Doc, why: str) -> bool:
    """Tell whether a failure is what a user should expect of that fault."""
    if "no space left" in why or "disk" in why:
        return story.within(run, "disk full")
    if "crashed" in why:
        return story.within(run, "kill child", "kill fork server")
    return False


def _states(story: Story) -> Iterator[Violation]:
    """The state of a task is that of its last run, or of the image that came after it."""
    replaced = story.ids("asked", "image", *EDITS)
    for task_id, doc in story.tasks.items():
        seqs = [step["seq"] for run in story.of_task.get(task_id, []) for step in run["steps"]]
        if len(set(seqs)) != len(seqs) or max(seqs, default=0) > doc.get("seq", 0):
            yield Violation("numbers of steps", f"{sorted(seqs)} of {doc.get('seq')}", task_id)
        if doc.get("pending"):
            yield Violation("stuck change of the image", str(doc["pending"]), task_id)
        run = doc.get("run")
        if not run or run["status"] not in ENDED:
            continue
        allowed = {end_state(run)} | ({"uploaded"} if task_id in replaced else set())
        if doc["state"] not in allowed:
            yield Violation("state", f"{doc['state']}, and its last run is {run['status']}", task_id)
        if not str(doc.get("work", "")).startswith("d|") and not doc.get("pending"):
            yield Violation("mark of work", f"{doc.get('work')} after the end", task_id)


def _edits(story: Story) -> Iterator[Violation]:
    """The last edit of a user that was accepted is what there is."""
    for task_id, doc in story.tasks.items():
        if task_id not in story.made:
            continue
        titles, config = _wanted(story, task_id)
        if titles and doc.get("title") not in titles:
            yield Violation("title overwritten", f"{doc.get('title')!r} instead of {titles[-1]!r}", task_id)
        asked = in_json(doc.get("asked"))
        for key, value in config.items():
            if asked.get(key) != value:
                yield Violation("config overwritten", f"{key} is {asked.get(key)!r} instead of {value!r}", task_id)


def _wanted(story: Story, task_id: int) -> tuple[list[str], Doc]:
    """Give the titles that a task may have, and the keys of its config that are certain."""
    made = story.made[task_id]
    titles = [made["title"]] if "title" in made else []
    config: Doc = {}
    late: list[str] = []
    late_keys: set[str] = set()
    for line in story.evidence.ledger:
        if line.get("task") != task_id or line["what"] not in {"accepted", "unknown", "perhaps"}:
            continue
        if line["what"] == "perhaps":  # a try without an answer, repeated elsewhere: it may come at any time
            late += [line["title"]] if line["op"] == "title" else []
            late_keys |= set(line["config"]) if line["op"] == "config" else set()
            continue
        certain = line["what"] == "accepted"
        if line["op"] == "title":
            titles = [line["title"]] if certain else [*titles, line["title"]]
        elif line["op"] in {"config", "process"}:
            for key, value in line["config"].items():
                config.pop(key, None)
                if certain:
                    config[key] = value
    return titles and [*late, *titles], {key: value for key, value in config.items() if key not in late_keys}


def _answers(story: Story) -> Iterator[Violation]:
    """What clients saw was right, and came."""
    for line in story.evidence.ledger:
        if line["what"] == "violation":
            yield Violation("wrong answer", line["why"])
        elif line["what"] == "trouble":
            yield Violation("too late", f"{line['op']}: {line.get('why') or line}", line.get("task"))


def _parked(story: Story) -> Iterator[Violation]:
    """Every dead letter has a run that failed for it."""
    for letter in story.evidence.letters:
        run = story.runs.get(str(letter.get("run_id")))
        if run is None and letter.get("task_id") in story.deleted:
            continue
        if run is None or run["status"] == "done" or not run.get("error"):
            yield Violation("dead letter unexplained", str(letter), letter.get("task_id"))


_RULES = (_tasks, _tasks_once, _runs, _runs_once, _cancels, _steps, _states, _edits, _answers, _parked)
