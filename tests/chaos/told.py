"""The judge's look at what clients were shown and told: ends of runs, calls, pictures."""

from collections import defaultdict
from collections.abc import Iterator

from .evidence import Doc
from .images import EDITS
from .story import ENDED, Story, end_state

Found = tuple[str, str, int | None]


def check(story: Story) -> Iterator[Found]:
    """Compare it with what is."""
    yield from _ends(story)
    yield from _calls(story)
    yield from _pictures(story)


def _ends(story: Story) -> Iterator[Found]:
    """Who asked, and who followed, has seen the end that the run has."""
    for line in story.lines("seen", "end"):
        run = story.runs.get(line["run"])
        if run is None:
            continue
        if run["status"] not in ENDED:
            yield "end taken back", f"run {run['id']} was seen ended", run["task_id"]
        elif line["state"] != end_state(run) and not (line["state"] == "uploaded" and _late(story, line["task"])):
            yield "told another end", f"run {run['id']} is {end_state(run)}: seen as {line['state']}", run["task_id"]


def _late(story: Story, task_id: int) -> bool:
    """Tell whether an edit of the image had no answer: it may have been done at any time."""
    return any(line["task"] == task_id for line in story.lines("perhaps", *EDITS, "image"))


def _calls(story: Story) -> Iterator[Found]:
    """Who asked to be called was, at least once, with the truth, and always with the same words."""
    asked = {line["got_celery_id"]: line for line in story.lines("accepted", "process") if line.get("callback")}
    doubtful = {line["task"] for line in story.lines("unknown", "process") if line.get("callback")}
    gone = story.deleted | story.maybe_deleted
    calls: defaultdict[str, list[Doc]] = defaultdict(list)
    for line in story.lines("called", "callback"):
        calls[line["got_run_id"]].append(line)
    for run_id, lines in calls.items():
        yield from _call(story, run_id, lines)
        if run_id not in asked and lines[0]["got_task_id"] not in doubtful:
            yield "called for nothing", f"run {run_id}", lines[0]["got_task_id"]
    for run_id, line in asked.items():
        if line["task"] not in gone and not any(call["ok"] for call in calls[run_id]):
            yield "callback lost", f"of run {run_id}, called {len(calls[run_id])} times", line["task"]


def _call(story: Story, run_id: str, lines: list[Doc]) -> Iterator[Found]:
    run = story.runs.get(run_id)
    if not all(line["signed"] for line in lines) or len({line["sha256"] for line in lines}) > 1:
        yield "callback wrong", f"run {run_id}: not signed, or not always the same", None
    if run is not None and (lines[0]["got_state"], lines[0]["got_task_id"]) != (end_state(run), run["task_id"]):
        yield "callback wrong", f"run {run_id} is {end_state(run)}: told as {lines[0]['got_state']}", run["task_id"]


def _pictures(story: Story) -> Iterator[Found]:
    """The same image looks the same, whoever draws it."""
    seen: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for line in story.lines("seen", "picture"):
        seen[line["source"]].setdefault(line["sha256"], line["task"])
    for source, digests in seen.items():
        if len(digests) > 1:
            yield "pictures differ", f"{source} has {len(digests)} looks: tasks {list(digests.values())}", None
