"""Each promise broken, by hand: what the judge of the campaign must find."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.chaos.evidence import Evidence, Process
from tests.chaos.sane import call, commit, fits, process, queue, run, step


def results(world: Evidence, task_id: int = 1, folder: str = "0000000002-03-inspect") -> Path:
    return world.volume / "tasks" / str(task_id) / ".results" / folder


def rewrite(world: Evidence, **fields) -> None:
    path = results(world) / ".manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def line_of(world, what, op, task_id=None):
    return next(
        one
        for one in world.ledger
        if (one["what"], one["op"]) == (what, op) and task_id in {None, one.get("task"), one.get("got_id")}
    )


def lose_task(world):
    world.tasks.pop(0)


def revive_task(world):
    world.ledger.append({"what": "accepted", "op": "delete", "task": 1})


def double_task(world):
    world.tasks.append({**copy.deepcopy(world.tasks[0]), "_id": 5, "run": None})


def same_key(world):
    world.tasks[0]["key"] = world.tasks[1]["key"] = "k"


def answer_twice(world):
    world.ledger.append({**world.ledger[0], "key": "k9"})


def unlist(world):
    world.others["shelves"][0]["ids"].remove(2)


def lose_run(world):
    world.ledger.append(process(1, "lost", ["inspect"]))


def other_steps(world):
    world.ledger[6]["steps"] = ["cleanup"]


def run_twice(world):
    world.runs.append({**run("z", [{**step("z", 1, "inspect"), "seq": 7}]), "_id": "z", "task_id": 1})


def one_run_two_tasks(world):
    world.runs.append({**run("a", [step("a", 1, "inspect")]), "_id": "a", "task_id": 2})


def answer_run_twice(world):
    world.ledger.append(process(1, "a", ["inspect"]))


def stick(world):
    world.tasks[0]["run"] |= {"status": "running", "ended": None}
    world.tasks[0]["run"]["steps"][0]["status"] = "started"


def resume_cancelled(world):
    world.tasks[1]["run"]["status"] = "done"
    world.tasks[1]["run"]["steps"][1]["status"] = "done"


def cancel_by_nobody(world):
    world.ledger = [line for line in world.ledger if line["op"] != "cancel"]


def skip_a_step(world):
    world.tasks[0]["run"]["steps"][0]["status"] = "scheduled"


def fail_without_reason(world):
    world.tasks[2]["run"]["error"] = None
    world.ledger[6]["good"] = world.ledger[7]["good"] = world.ledger[8]["good"] = True


def fail_by_fault(world):
    world.tasks[2]["run"]["error"] = "The step inspect stopped because of a fault in this service."
    for line in world.ledger:
        line["good"] = True


def number_twice(world):
    world.tasks[1]["run"]["steps"][1]["seq"] = 2


def pend(world):
    world.tasks[0]["pending"] = {"kind": "upload"}


def wrong_state(world):
    world.tasks[0]["state"] = "running"


def keep_mark(world):
    world.tasks[0]["work"] = "r|ann|inspect"


def overwrite_title(world):
    world.tasks[0]["title"] = "something else"


def overwrite_config(world):
    world.tasks[0]["asked"] = '{"gain": 1.0}'


def overwrite_upload(world):
    (world.volume / "tasks" / "1" / ".inputs" / "notes.txt").write_bytes(b"old")


def lose_upload(world):
    (world.volume / "tasks" / "1" / ".inputs" / "notes.txt").unlink()


def wrong_answer(world):
    world.ledger.append({"what": "violation", "op": "answer", "why": "500"})


def too_late(world):
    world.ledger.append({"what": "trouble", "op": "late", "task": 1})


def take_end_back(world):
    stick(world)


def see_another_end(world):
    line_of(world, "seen", "end")["state"] = "inspect_failed"


def see_another_picture(world):
    line_of(world, "seen", "picture", 2)["sha256"] = "other"


def call_in_vain(world):
    world.ledger = [one for one in world.ledger if not one.get("ok")]


def call_never(world):
    world.ledger = [one for one in world.ledger if one["what"] != "called"]


def call_unsigned(world):
    line_of(world, "called", "callback")["signed"] = False


def call_otherwise(world):
    line_of(world, "called", "callback")["sha256"] = "other"


def call_untruly(world):
    line_of(world, "called", "callback")["got_state"] = "photometry_done"


def call_unasked(world):
    world.ledger.append(call("a", 1, "inspect_done"))


def call_of_nothing(world):
    world.ledger.append(call("z", 9, "inspect_done"))


def edited(world):
    return world.volume / "tasks" / "4" / ".results" / "0000000004-00-edit"


def rewrite_image(world, content, name="image.fits"):
    (edited(world) / name).write_bytes(content)
    manifest = edited(world) / ".manifest.json"
    told = json.loads(manifest.read_text())
    files = [{"name": path.name, "size": path.stat().st_size} for path in edited(world).glob("image*")]
    manifest.write_text(json.dumps({**told, "files": files}))


def crop_twice(world):
    rewrite_image(world, fits(98, "stdweb: offsets of rows removed"))


def crop_never(world):
    rewrite_image(world, fits(100, "stdweb: offsets of rows removed"))


def destripe_twice(world):
    rewrite_image(world, fits(99, *2 * ["stdweb: offsets of rows removed"]))


def cut_image(world):
    rewrite_image(world, (edited(world) / "image.fits").read_bytes()[:-1000])


def lose_original(world):
    rewrite_image(world, fits(99), "image.orig.fits")


def lose_late_edit(world):
    line_of(world, "accepted", "crop")["what"] = "refused"


def park(world):
    world.letters.append({"run_id": "a", "task_id": 1})
    world.queues[1]["messages_ready"] = 1


def park_unread(world):
    world.queues[1]["messages_ready"] = 1


def orphan_folder(world):
    (world.volume / "tasks" / "77").mkdir()


def lose_folder(world):
    shutil.rmtree(world.volume / "tasks" / "1")


def stray_folder(world):
    (world.volume / "tasks" / "1" / ".results" / "inspect").mkdir()


def lose_manifest(world):
    (results(world) / ".manifest.json").unlink()


def cut_file(world):
    (results(world) / "mask.fits").write_bytes(b"ma")


def add_file(world):
    (results(world) / "extra.fits").write_bytes(b"of another attempt")


def drop_file(world):
    rewrite(world, files=[{"name": "inspect.log", "size": 4}])
    (results(world) / "mask.fits").unlink()


def mix_attempts(world):
    (results(world, 2) / "mask.fits").write_bytes(b"MASK")


def commit_of_nobody(world):
    rewrite(world, run_id="nobody")


def commit_elsewhere(world):
    rewrite(world, run_id="b", step_id="b-1")


def commit_of_other_step(world):
    rewrite(world, step="cleanup")


def commit_cancelled(world):
    folder = "0000000003-04-photometry"
    files = {"photometry__log": b"1", "objects__vot": b"1", "photometry__json": b"{}"}
    commit(world.volume, 2, folder, "b", {}, **files)


def later_attempt(world):
    rewrite(world, attempt=2)


def lose_commit(world):
    shutil.rmtree(results(world))


def other_computed(world):
    world.tasks[0]["computed"]["inspect"] = '{"gain":3.0}'


def leave_temporary(world):
    (world.volume / "tasks" / "1" / ".view.1f").write_bytes(b"")


def leave_scratch(world):
    (world.volume / "tasks" / "1" / ".work" / "a" / "inspect-1").mkdir(parents=True)


def close_done(world):
    (world.volume / "tasks" / "1" / ".work").mkdir()
    (world.volume / "tasks" / "1" / ".work" / "a").write_bytes(b"")


def orphan_process(world):
    world.processes.append(Process(20, 1, "source-extractor"))


def process_at_work(world):
    world.processes.append(Process(13, 10, "stdweb inspect: inspect of task 1"))


def frozen_process(world):
    world.processes.append(Process(13, 10, "stdweb inspect: idle", "stopped"))


def unknown_queue(world):
    world.queues.append(queue("mine"))


def orphan_queue(world):
    world.queues.append(queue("listener.2", consumers=0))


def leave_message(world):
    world.queues[0]["messages_unacknowledged"] = 1


def lose_consumer(world):
    world.queues[0]["consumers"] = 1


def leave_trash(world):
    (world.volume / "tasks" / ".trash" / "old").mkdir()
    world.at = os.lstat(world.volume / "tasks" / ".trash" / "old").st_ctime + 400


PLANTED: dict[str, list[Callable[[Evidence], None]]] = {
    "lost task": [lose_task],
    "deleted task is back": [revive_task],
    "task made twice": [double_task, same_key],
    "one task for two requests": [answer_twice],
    "not in the listing": [unlist],
    "lost run": [lose_run],
    "wrong steps": [other_steps],
    "run twice": [run_twice],
    "run of two tasks": [one_run_two_tasks],
    "one run for two requests": [answer_run_twice],
    "stuck run": [stick],
    "cancel without effect": [resume_cancelled],
    "cancelled by nobody": [cancel_by_nobody],
    "steps do not fit the run": [skip_a_step],
    "failed without a reason": [fail_without_reason],
    "failed by a fault": [fail_by_fault],
    "numbers of steps": [number_twice],
    "stuck change of the image": [pend],
    "state": [wrong_state],
    "mark of work": [keep_mark],
    "title overwritten": [overwrite_title],
    "config overwritten": [overwrite_config],
    "upload lost": [overwrite_upload, lose_upload],
    "wrong answer": [wrong_answer],
    "too late": [too_late],
    "end taken back": [take_end_back],
    "told another end": [see_another_end],
    "pictures differ": [see_another_picture],
    "callback lost": [call_in_vain, call_never],
    "callback wrong": [call_unsigned, call_otherwise, call_untruly],
    "called for nothing": [call_unasked, call_of_nothing],
    "image edited otherwise": [crop_twice, crop_never, destripe_twice, cut_image, lose_late_edit],
    "original lost": [lose_original],
    "dead letter unexplained": [park, park_unread],
    "folder without a task": [orphan_folder],
    "lost files": [lose_folder],
    "stray folder": [stray_folder],
    "commit without manifest": [lose_manifest],
    "commit not whole": [cut_file, add_file, drop_file],
    "results differ": [mix_attempts],
    "effect without a step": [commit_of_nobody],
    "effect on another task": [commit_elsewhere],
    "commit of another step": [commit_of_other_step],
    "effect against the store": [commit_cancelled],
    "attempt from nowhere": [later_attempt],
    "lost results": [lose_commit],
    "computed keys": [other_computed],
    "temporary file": [leave_temporary],
    "scratch left": [leave_scratch],
    "done run was closed": [close_done],
    "orphan process": [orphan_process],
    "process at work after the end": [process_at_work],
    "process left frozen": [frozen_process],
    "unknown queue": [unknown_queue],
    "orphan queue": [orphan_queue],
    "message left": [leave_message],
    "consumers": [lose_consumer],
    "not swept": [leave_trash],
}
