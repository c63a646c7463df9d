"""Workers of the test service against a real RabbitMQ: what a step leaves and says, and every way to die."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from shared.broker.topology import DEAD_QUEUE, step_route
from shared.contracts.messages import StepDone, StepFailed, StepProgress, StepStarted
from shared.taskdir import Commit
from shared.worker.gently import NICENESS
from tests.support.rabbit import TestBroker, free_ports
from tests.support.service import Bench, alive, until
from tests.support.steps import BRIEF


@pytest.fixture
async def bench(rabbit: TestBroker, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(rabbit.new_url(), tmp_path, step_memory_bytes=200 * 2**20) as one:
        yield one


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_done_is_reported_once_with_whole_results(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "files"})
    done = await bench.end_of(message)
    assert isinstance(done, StepDone), bench.logs()
    assert done.computed == {"answer": 42}
    assert [info.name for info in done.files] == ["out.txt", "plots/a.png", "probe.log"]
    assert done.peak_memory_bytes > 2**20
    assert bench.reports == [done]  # it ended too soon to say that it had begun
    task = bench.task()
    assert {entry.path for entry in task.list()} == {"out.txt", "plots", "probe.log"}
    assert "doing files" in task.find("probe.log").read_text()
    assert not any((task.path / ".work" / message.run_id).iterdir())
    # a second copy of the message tells the same again, under the same id, and works no more
    await bench.send(message)
    await until(lambda: len(bench.ends(message)) == 2)
    assert bench.ids.count(f"{message.step_id}-1-done") == 2
    assert not any(isinstance(report, StepStarted) for report in bench.reports)


async def test_progress_and_log_lines_arrive_while_the_step_runs(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    await until(lambda: len(bench.progress) > 2)
    assert all(isinstance(one, StepProgress) and one.fraction == 0.5 for one in bench.progress)
    assert [type(report) for report in bench.reports] == [StepStarted]
    assert any("doing wait" in line for one in bench.progress for line in one.log)
    (pid,) = Path(f"{bench.gate()}.pids").read_text().split()
    assert os.getpriority(os.PRIO_PROCESS, int(pid)) == NICENESS
    assert bench.progress[-1].logged == sum(len(one.log) for one in bench.progress)
    assert not bench.ends(message)
    bench.gate().touch()
    assert isinstance(await bench.end_of(message), StepDone)


@pytest.mark.parametrize(
    ("do", "code", "said"),
    [("data", "blank", "take another one"), ("bug", "internal", "fault"), ("nan", "internal", "zp")],
)
async def test_a_failed_step_commits_its_log_only(bench: Bench, do: str, code: str, said: str) -> None:
    bench.start()
    message = await bench.ask({"do": do})
    failed = await bench.end_of(message)
    assert isinstance(failed, StepFailed)
    assert (failed.code, said in failed.error, "secret" in failed.error) == (code, True, False)
    assert [entry.path for entry in bench.task().list()] == ["probe.log"]
    assert bench.task().manifest(Commit(message.seq, 1, "probe")).outcome == "failed"


async def test_questions_to_archives_are_metrics_of_the_worker(rabbit: TestBroker, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with Bench(rabbit.new_url(), tmp_path, health_port=port) as bench:
        bench.start()
        for _ in range(2):  # by one process or by two, each tells what is new
            assert isinstance(await bench.end_of(await bench.ask({"do": "ask"})), StepDone)
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
            lines = (await response.text()).splitlines()
    assert 'stdweb_archive_calls_total{archive="vizier",outcome="answered"} 4.0' in lines
    assert 'stdweb_archive_calls_total{archive="broken",outcome="failed"} 2.0' in lines
    assert 'stdweb_archive_cache_hits_total{archive="vizier"} 2.0' in lines
    assert any(line.startswith('stdweb_archive_seconds_total{archive="broken"}') for line in lines)


async def test_a_passing_failure_is_tried_again(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "passing", "gate": str(bench.gate()), "failures": 2})
    done = await bench.end_of(message)
    assert isinstance(done, StepDone)
    assert (done.repeats, bench.gate().read_text()) == (2, "3")


async def test_a_failure_that_does_not_pass_fails_after_three_tries(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "passing", "gate": str(bench.gate()), "failures": 99})
    failed = await bench.end_of(message)
    assert isinstance(failed, StepFailed)
    assert (failed.code, failed.repeats, bench.gate().read_text()) == ("archive_away", 2, "3")


async def test_a_full_disk_is_a_passing_failure(bench: Bench) -> None:
    bench.start()
    failed = await bench.end_of(await bench.ask({"do": "full", "gate": str(bench.gate())}))
    assert isinstance(failed, StepFailed)
    assert (failed.code, bench.gate().read_text()) == ("disk_full", "again again again ")
    assert "no space left" in failed.error


async def test_a_killed_child_is_tried_again(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    (first,) = await until(bench.pids)
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(bench.pids()) == 2)
    bench.gate().touch()
    done = await bench.end_of(message)
    assert isinstance(done, StepDone)
    assert done.repeats == 1


async def test_three_deaths_fail_the_step(bench: Bench) -> None:
    bench.start()
    failed = await bench.end_of(await bench.ask({"do": "die"}))
    assert isinstance(failed, StepFailed)
    assert (failed.code, failed.repeats) == ("crashed", 2)
    assert "3 times" in failed.error


async def test_the_time_limit(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "family", "gate": str(bench.gate())}, BRIEF)
    failed = await bench.end_of(message)
    assert isinstance(failed, StepFailed)
    assert failed.code == "time_limit"
    assert 1 <= failed.seconds < 3
    assert not any(alive(pid) for pid in bench.pids())


async def test_the_memory_limit(bench: Bench) -> None:
    bench.start()
    failed = await bench.end_of(await bench.ask({"do": "hog"}))
    assert isinstance(failed, StepFailed)
    assert failed.code == "memory_limit"
    assert failed.peak_memory_bytes > 200 * 2**20


async def test_cancel_ends_all_processes_and_publishes_nothing(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "family", "gate": str(bench.gate())})
    pids = await until(bench.pids)
    assert len(pids) == 3
    await bench.cancel(message)
    await until(lambda: not any(alive(pid) for pid in pids), 5)
    other = await bench.ask({}, task_id=2)
    await bench.end_of(other)
    assert not bench.ends(message)
    assert bench.task().list() == []


async def test_what_a_step_leaves_running_is_gone_when_it_is_done(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "family", "gate": str(bench.gate()), "stay": False})
    assert isinstance(await bench.end_of(message), StepDone)
    _, *others = bench.pids()
    assert len(others) == 2
    assert not any(alive(pid) for pid in others)


async def test_nothing_outlives_a_killed_worker_and_another_finishes(bench: Bench) -> None:
    worker = bench.start()
    message = await bench.ask({"do": "family", "gate": str(bench.gate())})
    pids = await until(bench.pids)
    worker.kill()
    worker.wait()
    await until(lambda: not any(alive(pid) for pid in pids), 5)
    # the same message, redelivered to another worker, begins anew once the lease has not changed for long enough
    Path(f"{bench.gate()}.pids").unlink()
    bench.start()
    await until(bench.pids)
    await bench.cancel(message)


async def test_a_killed_worker_s_step_is_done_once_by_another(bench: Bench) -> None:
    worker = bench.start()
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    (first,) = await until(bench.pids)
    bench.start()
    worker.kill()
    await until(lambda: len(bench.pids()) == 2)
    bench.gate().touch()
    assert isinstance(await bench.end_of(message), StepDone)
    assert bench.task().find("out.txt").read_text() == str(bench.pids()[1])
    assert not alive(first)


async def test_a_killed_fork_server_takes_its_children_along_and_comes_back(bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    (first,) = await until(bench.pids)
    os.kill(parent_of(first), signal.SIGKILL)
    await until(lambda: len(bench.pids()) == 2)
    assert not alive(first)
    bench.gate().touch()
    assert isinstance(await bench.end_of(message), StepDone)


async def test_a_worker_without_children_leaves_its_messages_to_others(bench: Bench, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    bench.start(TEST_WARM_FAILS=str(broken))
    first = await bench.ask({"do": "wait", "gate": str(bench.gate("first"))})
    (child,) = await until(lambda: bench.pids("first"))
    server = parent_of(child)
    bench.gate("first").touch()
    await bench.end_of(first)
    broken.touch()
    os.kill(server, signal.SIGKILL)
    await until(lambda: "cannot get warm" in bench.logs())
    message = await bench.ask({"do": "pid"})
    await until(lambda: '"decision": "no child"' in bench.logs())
    bench.start()
    assert isinstance(await bench.end_of(message), StepDone)


async def test_a_child_does_several_cheap_jobs_but_none_after_one_that_left_something(bench: Bench) -> None:
    bench.start()
    clean = [(await bench.end_of(await bench.ask({"do": "pid"}))).computed["pid"] for _ in range(6)]
    assert len(set(clean)) < 6
    left = [(await bench.end_of(await bench.ask({"do": "leave"}))).computed["pid"] for _ in range(4)]
    assert len(set(left)) == 4


async def test_a_frozen_worker_publishes_nothing_after_it_was_taken_over(bench: Bench) -> None:
    worker = bench.start()
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    (first,) = await until(bench.pids)
    worker.send_signal(signal.SIGSTOP)
    bench.start()
    # the broker still counts the message as the frozen worker's: the gateway publishes it again
    await bench.send(message)
    await until(lambda: len(bench.pids()) == 2)
    bench.gate().touch()
    assert isinstance(await bench.end_of(message), StepDone)
    owner = bench.task().manifest(Commit(message.seq, 1, "probe")).owner
    worker.send_signal(signal.SIGCONT)
    await until(lambda: "fenced" in (bench.folder / "worker0.log").read_text())
    await until(lambda: not alive(first))
    assert len(bench.ends(message)) == 1
    assert bench.task().manifest(Commit(message.seq, 1, "probe")).owner == owner
    assert bench.task().find("out.txt").read_text() == str(bench.pids()[1])


async def test_a_live_lease_is_respected(bench: Bench) -> None:
    bench.start()
    bench.start()
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    await until(bench.pids)
    await bench.send(message)
    await until(lambda: bench.logs().count('"decision": "delayed"') >= 5)
    assert len(bench.pids()) == 1
    bench.gate().touch()
    assert isinstance(await bench.end_of(message), StepDone)
    assert len(bench.pids()) == 1


async def test_messages_of_closed_and_of_past_runs_are_dropped(bench: Bench) -> None:
    bench.start()
    closed, old, new = (bench.message({}, run_id=name) for name in ("closed", "old", "new"))
    bench.task().close("closed")
    await bench.send(closed)
    await bench.send(new)
    await bench.end_of(new)
    await bench.send(old)  # its results would be hidden by those of the new run
    await until(lambda: bench.logs().count('"decision": "dropped"') == 2)
    assert not bench.ends(closed)
    assert not bench.ends(old)


async def test_poison_goes_to_the_dead_letters(bench: Bench) -> None:
    bench.start()
    stranger = bench.message({}).model_copy(update={"step": "unknown"})
    await bench.broker.publish(step_route("probe"), stranger, message_id="poison")
    depth = await bench.broker.depth(DEAD_QUEUE)
    while not depth.messages:
        await asyncio.sleep(0.05)
        depth = await bench.broker.depth(DEAD_QUEUE)
    assert isinstance(await bench.end_of(await bench.ask({})), StepDone)


async def test_a_stopping_worker_lets_its_step_end(bench: Bench) -> None:
    worker = bench.start()
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    await until(bench.pids)
    worker.terminate()
    await until(lambda: "service stops" in bench.logs())
    bench.gate().touch()
    assert isinstance(await bench.end_of(message), StepDone)
    assert await asyncio.to_thread(worker.wait, 20) == 0
    assert len(bench.pids()) == 1


async def test_a_step_that_outlasts_the_draining_is_done_by_another(bench: Bench) -> None:
    worker = bench.start(STDWEB_DRAIN_S="0")
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    await until(bench.pids)
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 20) == 0
    bench.gate().touch()
    bench.start()
    assert isinstance(await bench.end_of(message), StepDone)
    assert len(bench.pids()) == 2


async def test_a_worker_does_only_the_steps_that_it_is_told(bench: Bench) -> None:
    bench.start(STDWEB_ONLY="brief")
    probe = await bench.ask({})
    assert isinstance(await bench.end_of(await bench.ask({}, BRIEF, task_id=2)), StepDone)
    assert not bench.ends(probe)
    bench.start(STDWEB_ONLY="probe")
    assert isinstance(await bench.end_of(probe), StepDone)
    wrong = bench.start(STDWEB_ONLY="probe,prob")
    assert await asyncio.to_thread(wrong.wait, 20) == 1
    assert "has no prob, but probe" in bench.logs()


async def test_a_killed_broker_costs_nothing(rabbit: TestBroker, bench: Bench) -> None:
    bench.start()
    message = await bench.ask({"do": "wait", "gate": str(bench.gate())})
    await until(bench.pids)
    rabbit.kill()
    bench.gate().touch()
    await until(lambda: bench.task().find("out.txt"))
    await asyncio.to_thread(rabbit.restart)
    done = await bench.end_of(message, 60)
    assert isinstance(done, StepDone)
    assert len(bench.pids()) == 1
    assert isinstance(await bench.end_of(await bench.ask({}, task_id=2)), StepDone)
