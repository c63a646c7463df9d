"""The task folder: names, layers, commits that hide others, fences, and attempts that race."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.taskdir import (
    Attempt,
    AttemptKey,
    BadName,
    Commit,
    Fenced,
    Manifest,
    NotFound,
    TaskDir,
    TasksRoot,
    claim,
    fence,
    look,
    safe_parts,
    visible,
)

KEY = AttemptKey("run", "probe", 1)


@pytest.fixture
def task(tmp_path: Path) -> TaskDir:
    made = TasksRoot(tmp_path).task(7)
    made.create()
    return made


def manifest(attempt: Attempt, step: str = "probe") -> Manifest:
    return Manifest(run_id="run", step_id="s", step=step, attempt=1, owner=attempt.owner, outcome="done")


def commit(task: TaskDir, seq: int, rank: int, step: str, **files: str) -> Commit:
    attempt = claim(task, AttemptKey("run", step, seq))
    for name, text in files.items():
        (attempt.work / name).write_text(text)
    made = Commit(seq, rank, step)
    attempt.commit(made, manifest(attempt, step))
    return made


def upload(task: TaskDir, name: str, text: str) -> None:
    source = task.root.incoming()
    source.write_text(text)
    task.put(name, source)


# ---- names


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/../b", "a//b", ".run", "a/.b", "a\\b", "a\0b", "a\nb", "x" * 256]
)
def test_bad_names_are_refused(task: TaskDir, name: str) -> None:
    with pytest.raises(BadName):
        safe_parts(name)
    assert task.find(name) is None
    with pytest.raises(NotFound):
        task.open(name)


@given(st.text(max_size=40))
def test_a_name_never_leads_out(name: str) -> None:
    try:
        parts = safe_parts(name)
    except BadName:
        return
    assert os.path.normpath("/".join(parts)) == "/".join(parts)
    assert not any(part.startswith(".") for part in parts)


def test_links_are_not_followed(task: TaskDir, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (task.path / ".inputs/link").symlink_to(tmp_path / "secret")
    (task.path / ".inputs/folder").symlink_to(tmp_path)
    assert task.find("link") is None
    assert task.find("folder/secret") is None
    assert task.list() == []
    upload(task, "plain", "new")
    with pytest.raises(BadName):
        upload(task, "folder/x", "out")
    assert not (tmp_path / "x").exists()


# ---- layers


def test_results_win_over_inputs_and_the_view_shows_them(task: TaskDir) -> None:
    upload(task, "cat.parquet", "mine")
    commit(task, 1, 3, "photometry", **{"cat.parquet": "theirs"})
    assert task.find("cat.parquet").read_text() == "theirs"
    assert (task.path / "cat.parquet").read_text() == "theirs"
    commit(task, 2, 2, "inspect", **{"mask.fits": "m"})
    assert task.find("cat.parquet").read_text() == "mine"
    assert sorted(path.name for path in task.path.iterdir() if not path.name.startswith(".")) == [
        "cat.parquet",
        "mask.fits",
    ]


def test_a_commit_hides_its_own_and_later_steps_at_once(task: TaskDir) -> None:
    commit(task, 1, 2, "inspect", mask="1")
    commit(task, 2, 3, "photometry", objects="1")
    assert [one.step for one in task.commits()] == ["photometry", "inspect"]
    commit(task, 3, 2, "inspect", mask="2")
    assert [one.seq for one in task.commits()] == [3]
    assert task.find("objects") is None
    assert task.find("mask").read_text() == "2"
    assert len(list((task.path / ".results").iterdir())) == 1


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)), unique_by=lambda pair: pair[0]))
def test_visible_commits_are_those_that_no_later_one_hides(pairs: list[tuple[int, int]]) -> None:
    commits = [Commit(seq, rank, "x") for seq, rank in pairs]
    expected = {one for one in commits if not any(o.seq > one.seq and o.rank <= one.rank for o in commits)}
    assert set(visible(commits)) == expected


def test_put_replaces_and_remove_removes(task: TaskDir) -> None:
    upload(task, "a/b.txt", "1")
    upload(task, "a/b.txt", "22")
    assert [(entry.path, entry.size) for entry in task.list("a")] == [("a/b.txt", 2)]
    with pytest.raises(BadName):
        upload(task, "a", "file where a folder is")
    task.remove("a")
    assert task.find("a/b.txt") is None
    assert not (task.path / "a").exists()
    with pytest.raises(NotFound):
        task.remove("a")


# ---- attempts


def test_an_attempt_commits_once_and_leaves_nothing(task: TaskDir) -> None:
    attempt = claim(task, KEY)
    first = look(task, KEY)
    attempt.beat(1)
    assert look(task, KEY) != first
    (attempt.work / "out").write_text("x")
    attempt.commit(Commit(1, 1, "probe"), manifest(attempt))
    assert look(task, KEY) is None
    assert task.manifest(Commit(1, 1, "probe")).owner == attempt.owner
    attempt.close()
    assert not list((task.path / ".work/run").iterdir())


def test_a_closed_attempt_writes_to_no_descriptor(task: TaskDir, tmp_path: Path) -> None:
    attempt = claim(task, KEY)
    attempt.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    assert other == attempt.lease_fd  # the number is given to the next file
    attempt.beat(5)
    attempt.close()
    assert os.fstat(other).st_size == 0
    os.close(other)


def test_whoever_claims_last_commits(task: TaskDir) -> None:
    frozen = claim(task, KEY)
    (frozen.work / "out").write_text("frozen")
    taker = claim(task, KEY)
    (taker.work / "out").write_text("taker")
    assert not frozen.held()
    frozen.beat(9)
    assert look(task, KEY).startswith(taker.owner)
    with pytest.raises(Fenced):
        frozen.commit(Commit(1, 1, "probe"), manifest(frozen))
    frozen.close()
    assert taker.held()
    taker.commit(Commit(1, 1, "probe"), manifest(taker))
    assert task.find("out").read_text() == "taker"


def test_a_second_commit_of_the_same_step_is_fenced(task: TaskDir) -> None:
    first, second = claim(task, KEY), claim(task, AttemptKey("run", "probe", 2))
    first.commit(Commit(1, 1, "probe"), manifest(first))
    with pytest.raises(Fenced):
        second.commit(Commit(1, 1, "probe"), manifest(second))
    assert task.manifest(Commit(1, 1, "probe")).owner == first.owner


def test_a_fence_and_a_deletion_leave_nothing_to_commit(task: TaskDir) -> None:
    attempt = claim(task, KEY)
    fence(task, KEY)
    with pytest.raises(Fenced):
        attempt.commit(Commit(1, 1, "probe"), manifest(attempt))
    attempt = claim(task, KEY)
    task.set_aside()
    with pytest.raises(Fenced):
        attempt.commit(Commit(1, 1, "probe"), manifest(attempt))
    assert not task.exists()
    with pytest.raises(NotFound):
        claim(task, KEY)


def test_of_racing_attempts_and_a_cancel_at_most_one_takes_effect(tmp_path: Path) -> None:
    root = TasksRoot(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        for number in range(1, 16):
            task = root.task(number)
            task.create()
            start = threading.Barrier(4)

            def work(text: str, task: TaskDir = task, start: threading.Barrier = start) -> str | None:
                start.wait()
                try:
                    attempt = claim(task, KEY)
                    (attempt.work / "a").write_text(text)
                    (attempt.work / "b").write_text(text)
                    attempt.commit(Commit(1, 1, "probe"), manifest(attempt))
                except (Fenced, NotFound, FileNotFoundError, NotADirectoryError):
                    return None
                return attempt.owner

            def cancel(task: TaskDir = task, start: threading.Barrier = start) -> None:
                start.wait()
                task.close("run")

            racers = [threads.submit(work, str(one)) for one in range(3)]
            cancelling = threads.submit(cancel)
            winners = [owner for racer in racers if (owner := racer.result())]
            cancelling.result()
            made = task.manifest(Commit(1, 1, "probe"))
            assert len(winners) <= 1
            if winners:
                assert made.owner == winners[0]
                folder = task.path / ".results" / Commit(1, 1, "probe").folder
                assert (folder / "a").read_text() == (folder / "b").read_text()
            else:
                assert made is None


def test_a_closed_run_never_begins_nor_commits_and_the_next_one_is_untouched(task: TaskDir) -> None:
    old, other = claim(task, KEY), AttemptKey("next", "probe", 1)
    task.close("run")
    new = claim(task, other)
    task.close("run")  # a gateway that was frozen in the middle of a cancel does it again, late
    assert new.held()
    with pytest.raises(Fenced):
        old.commit(Commit(1, 1, "probe"), manifest(old))
    old.close()
    with pytest.raises(Fenced):
        claim(task, KEY)
    assert look(task, KEY) is None
    task.clear("run")
    assert task.closed("run")
    assert not task.closed("next")
    new.commit(Commit(2, 1, "probe"), manifest(new))
    task.clear("next")
    assert [path.name for path in (task.path / ".work").iterdir()] == ["run"]


def test_a_run_can_be_closed_before_anybody_works_but_not_without_a_task(task: TaskDir) -> None:
    task.close("run")
    with pytest.raises(Fenced):
        claim(task, KEY)
    task.set_aside()
    with pytest.raises(NotFound):
        task.close("run")


def test_a_fence_of_an_attempt_leaves_the_next_one(task: TaskDir) -> None:
    silent, next_one = claim(task, KEY), claim(task, AttemptKey("run", "probe", 2))
    fence(task, KEY)
    assert not silent.held()
    assert next_one.held()


def test_of_many_that_claim_at_once_one_has_the_folder_and_its_lease(task: TaskDir) -> None:
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            attempts = list(threads.map(lambda _: claim(task, KEY), range(8)))
            held = [attempt for attempt in attempts if attempt.held()]
            assert len(held) == 1
            assert look(task, KEY).startswith(held[0].owner)
            assert len(list((task.path / ".work/run/probe-1").iterdir())) == 2
            for attempt in attempts:
                attempt.close()


def test_a_commit_counts_even_when_the_view_cannot_be_built(task: TaskDir) -> None:
    attempt = claim(task, KEY)
    (attempt.work / "out").write_text("x")
    (attempt.work / "plots").mkdir()
    (attempt.work / "plots/a").write_text("x")
    (task.path / "plots/a").mkdir(parents=True)  # somebody who mounts the volume has put a folder there
    attempt.commit(Commit(1, 1, "probe"), manifest(attempt))
    assert task.find("plots/a").read_text() == "x"


def test_a_later_commit_ends_earlier_steps(task: TaskDir) -> None:
    assert not task.passed(0)
    attempt = claim(task, AttemptKey("run", "inspect", 1))
    attempt.commit(Commit(3, 20, "inspect"), manifest(attempt))
    assert task.passed(2)
    assert not task.passed(3)


def test_the_sweep_deletes_what_was_set_aside(task: TaskDir) -> None:
    claim(task, KEY)
    fence(task, KEY)
    now = (task.root.path / ".trash").stat().st_mtime
    assert task.root.sweep(60, now + 30) == 0
    assert task.root.sweep(60, now + 90) == 1
    assert not list((task.root.path / ".trash").iterdir())
