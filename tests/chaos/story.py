"""The evidence, sorted by tasks and runs."""

from .evidence import Doc, Evidence

ENDED = {"done", "failed", "cancelled"}
STEMS = {
    "cleanup": "cleanup",
    "inspect": "inspect",
    "photometry": "photometry",
    "simple_transients": "transients_simple",
    "subtraction": "subtraction",
    "stack": "stacking",
}


class Story:
    """What clients did, and what is left of it."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.tasks: dict[int, Doc] = {doc["_id"]: doc for doc in evidence.tasks}
        self.runs: dict[str, Doc] = {}
        self.of_task: dict[int, list[Doc]] = {task_id: [] for task_id in self.tasks}
        self.doubled: set[str] = set()
        current = [{**doc["run"], "task_id": doc["_id"]} for doc in evidence.tasks if doc.get("run")]
        # a task may be left with its last run in the history, too: a start that was undone, or has died
        for run in [*({**run, "id": run["_id"]} for run in evidence.runs), *current]:
            seen = self.runs.get(run["id"])
            if seen is not None and seen["task_id"] != run["task_id"]:
                self.doubled.add(run["id"])
            self.runs[run["id"]] = run
        for run in self.runs.values():
            self.of_task.setdefault(run["task_id"], []).append(run)
        for runs in self.of_task.values():
            runs.sort(key=lambda run: min(step["seq"] for step in run["steps"]))
        self.made: dict[int, Doc] = {}
        for line in evidence.ledger:
            if line["op"] in {"create", "duplicate"} and line["what"] == "accepted":
                self.made[line["got_id"]] = line
        self.deleted = self.ids("accepted", "delete") | self.ids("refused", "delete")
        self.maybe_deleted = self.ids("unknown", "delete")
        self.cancels_asked = {line["run"] for line in self.lines("asked", "cancel")}
        self.sources = {line["got_id"]: line["source"] for line in self.lines("accepted", "duplicate")}

    def lines(self, what: str, *ops: str) -> list[Doc]:
        """Give lines of the ledger."""
        return [line for line in self.evidence.ledger if line["what"] == what and line["op"] in ops]

    def ids(self, what: str, *ops: str) -> set[int]:
        """Give the tasks of lines."""
        return {line["task"] for line in self.lines(what, *ops)}

    def within(self, run: Doc, *kinds: str) -> bool:
        """Tell whether a fault of one of these kinds, or its aftermath, falls into a run."""
        began, ended = run["at"].timestamp(), (run["ended"] or run["at"]).timestamp()
        return any(
            fault["kind"] in kinds and fault["began"] <= ended + 1 and fault["ended"] >= began - 1
            for fault in self.evidence.faults
        )


def course(run: Doc) -> str:
    """Tell what became of the steps of a run."""
    return ", ".join(f"{step['name']} {step['status']} ({step['attempt']})" for step in run["steps"])


def end_state(run: Doc) -> str:
    """Name the state in which a run that has ended leaves its task."""
    stem = next((STEMS[step["name"]] for step in run["steps"] if step["status"] == "failed"), "")
    ends = {"done": f"{STEMS[run['steps'][-1]['name']]}_done", "failed": f"{stem}_failed"}
    return ends.get(run["status"], "cancelled")
