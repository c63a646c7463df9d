"""The supervisor with stand-in processes: order, restarts, end."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from stdweb.stack.supervisor import Component, Health, Report, Supervisor

SERVE = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(time.monotonic())); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVE


def component(name: str, folder: Path, tier: int = 0, code: str = SERVE) -> Component:
    async def ready() -> bool:
        return (folder / name).exists()

    return Component(name, [sys.executable, "-c", code, str(folder / name)], dict(os.environ), ready, tier)


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


def health(folder: Path, name: str) -> Health:
    report = Report.read(folder)
    return report.components[name] if report else Health()


@asynccontextmanager
async def running(folder: Path, *components: Component) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(components, folder, grace_s=0.5)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        supervisor.stop()
        await asyncio.wait_for(task, 10)


async def test_services_start_after_what_they_need(tmp_path: Path) -> None:
    parts = (component("service", tmp_path, tier=1), component("broker", tmp_path))
    async with running(tmp_path, *parts):
        await until(lambda: (Report.read(tmp_path) or Report(components={"none": Health()})).ready)
        assert float((tmp_path / "service").read_text()) > float((tmp_path / "broker").read_text())
    assert {one.state for one in Report.read(tmp_path).components.values()} == {"ended"}


async def test_what_dies_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path, component("worker", tmp_path)):
        await until(lambda: health(tmp_path, "worker").state == "ready")
        first = health(tmp_path, "worker").pid
        (tmp_path / "worker").unlink()
        os.kill(first, signal.SIGKILL)
        await until(lambda: health(tmp_path, "worker").deaths == 1 and health(tmp_path, "worker").state == "ready")
        assert health(tmp_path, "worker").pid != first
        assert health(tmp_path, "worker").never_ready == 0


async def test_what_never_starts_is_counted_and_its_output_kept(tmp_path: Path) -> None:
    async with running(tmp_path, component("broken", tmp_path, code="raise SystemExit('no such vhost')")):
        await until(lambda: health(tmp_path, "broken").never_ready >= 2)
    assert "no such vhost" in (tmp_path / "logs" / "broken.log").read_text()


async def test_one_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path, component("stubborn", tmp_path, code=STUBBORN)):
        await until(lambda: health(tmp_path, "stubborn").state == "ready")
        pid = health(tmp_path, "stubborn").pid
    assert not Path(f"/proc/{pid}").exists()


async def test_a_program_that_cannot_be_started_now_is_started_later(tmp_path: Path) -> None:
    plain = component("late", tmp_path)
    program = tmp_path / "program"
    async with running(tmp_path, Component("late", [str(program), *plain.argv[1:]], plain.env, plain.ready)):
        await until(lambda: health(tmp_path, "late").never_ready > 0 or (tmp_path / "logs/late.log").exists())
        program.symlink_to(sys.executable)
        await until(lambda: health(tmp_path, "late").state == "ready")


async def test_a_report_that_cannot_be_written_ends_no_supervision(tmp_path: Path) -> None:
    async with running(tmp_path, component("worker", tmp_path)):
        await until(lambda: health(tmp_path, "worker").state == "ready")
        (tmp_path / "status.new").mkdir()  # as if the disk were full
        (tmp_path / "worker").unlink()
        os.kill(health(tmp_path, "worker").pid, signal.SIGKILL)
        await until((tmp_path / "worker").exists)
        (tmp_path / "status.new").rmdir()
