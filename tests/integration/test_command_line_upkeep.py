"""`stdweb admin` on a real store, volume and broker."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import aio_pika
import pytest

from shared.broker.topology import PARKING_QUEUE
from tests.support.command_line import SameProcess
from tests.support.gateway import Client, Gateway
from tests.support.old_site import make_dump, make_files
from tests.support.rabbit import TestBroker
from tests.support.store import free_port


@pytest.fixture
def stdweb(site: Gateway, mongo_url: str, tmp_path: Path) -> SameProcess:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return SameProcess(folder, mongo_url, site.data_dir)


async def test_check_and_repair(site: Gateway, ann: Client, stdweb: SameProcess, rabbit: TestBroker) -> None:
    first, second = await ann.new_task(), await ann.new_task()
    whole = replace(stdweb, amqp_url=rabbit.new_url())
    assert await whole.ok("admin", "check") == "Nothing is wrong.\n"
    (site.data_dir / f"tasks/{first}/stranger.txt").write_text("x")
    shutil.rmtree(site.data_dir / f"tasks/{second}")
    answer = await stdweb.run("admin", "check", "--no-queues")
    assert (answer.status, answer.complaint) == (1, "")
    assert re.search(rf"│ view +│ task {first} +│ the visible part .* stranger.txt +│ build it anew", answer.shown)
    assert re.search(rf"│ folder +│ task {second} +│ its folder is missing, .* │ by you: restore", answer.shown)
    assert "2 found; `stdweb admin repair` mends 1 of them" in answer.shown
    answer = await stdweb.run("admin", "repair", "--no-queues")
    assert (answer.status, "1 mended, 1 left to you" in answer.shown) == (1, True)
    await ann.ok("DELETE", f"/tasks/{second}/")
    assert await stdweb.ok("admin", "check", "--repair", "--no-queues") == "Nothing is wrong.\n"


async def test_dead_letters(site: Gateway, stdweb: SameProcess, rabbit: TestBroker) -> None:
    stdweb = replace(stdweb, amqp_url=rabbit.new_url())
    assert await stdweb.ok("admin", "dead-letters", "list") == "There are no dead letters.\n"
    answer = await stdweb.run("admin", "dead-letters", "requeue")
    assert (answer.status, "either ids, or --all" in answer.complaint) == (2, True)
    answer = await stdweb.run("admin", "dead-letters", "drop", "abc")
    assert (answer.status, "there is no dead letter whose id begins with 'abc'" in answer.complaint) == (1, True)
    connection = await aio_pika.connect(stdweb.amqp_url)
    async with connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(aio_pika.Message(b"\x1b[2Jno step"), PARKING_QUEUE)
    shown = await stdweb.ok("admin", "dead-letters", "list")
    letter = re.findall(r"[0-9a-f]{12}", shown)
    assert (len(letter), "no: it is no message of a step" in shown) == (1, True)
    shown = await stdweb.ok("admin", "dead-letters", "show", *letter)
    assert ("11 bytes\n\\x1b[2Jno step\n" in shown, "\x1b" in shown) == (True, False)
    assert f"{letter[0]} unreadable: deleted\n" in await stdweb.ok("admin", "dead-letters", "drop", *letter)
    assert await stdweb.ok("admin", "dead-letters", "list") == "There are no dead letters.\n"


async def test_expire(site: Gateway, stdweb: SameProcess) -> None:
    cache = site.data_dir / "cache"
    cache.mkdir()
    (cache / "a.jpg").write_bytes(b"x" * 2000)
    for option, said in (("--dry-run", "Would delete 1 files"), ("--scratch-hours=24", "Deleted 1 files")):
        shown = await stdweb.ok("admin", "expire", "--cache-days", "0", option)
        assert f"{said} and folders, 2,000 bytes" in shown
    assert list(cache.iterdir()) == []


async def test_backup_and_restore(
    site: Gateway, ann: Client, stdweb: SameProcess, tmp_path: Path, mongo_url: str
) -> None:
    task = await ann.new_task(b"pixels")
    backup = str(tmp_path / "backup")
    assert "Backed up 1 tasks, 1 users, 0 presets, 2 files, " in await stdweb.ok("admin", "backup", backup)
    answer = await stdweb.run("admin", "backup", backup)
    assert (answer.status, answer.complaint) == (1, f"{backup} exists; name a new folder for the backup.\n")
    answer = await stdweb.run("admin", "restore", backup)
    assert (answer.status, "into an empty installation only" in answer.complaint) == (1, True)
    (tmp_path / "other").mkdir()
    name = mongo_url.rpartition("/")[2].partition("?")[0]
    other = SameProcess(stdweb.folder, mongo_url.replace(name, f"{name}r"), tmp_path / "other")
    assert "Restored 1 tasks" in await other.ok("admin", "restore", backup)
    assert (tmp_path / f"other/tasks/{task}/image.fits").read_bytes() == b"pixels"
    assert await other.ok("admin", "check", "--no-queues") == "Nothing is wrong.\n"


async def test_import(site: Gateway, stdweb: SameProcess, tmp_path: Path) -> None:
    make_files(tmp_path / "old")
    make_dump(tmp_path / "dump.json")
    arguments = ("admin", "import-stdweb", str(tmp_path / "dump.json"), "--tasks", str(tmp_path / "old/tasks"))
    shown = await stdweb.ok(*arguments, "--dry-run")
    assert "Would take over 4 users, 1 tokens, 2 presets, 4 tasks, 11 files" in shown
    assert "task 12: its state was 'running'; it is uploaded now" in shown
    assert "Took over 4 users" in await stdweb.ok(*arguments)
    assert "0 tasks, 0 files, 0 bytes; 4 tasks were here already" in await stdweb.ok(*arguments)


@pytest.mark.parametrize(
    ("changed", "arguments", "said"),
    [
        ({"data_dir": None}, "expire", "or set STDWEB_DATA_DIR"),
        ({"data_dir": Path("/nowhere")}, "expire", "There is no folder /nowhere"),
        ({}, "check", "or set STDWEB_AMQP_URL"),
        ({"mongo_url": f"mongodb://127.0.0.1:{free_port()}/none"}, "expire", "The store does not answer"),
        ({}, "restore /nowhere", "holds no backup"),
        ({}, "import-stdweb /nowhere --tasks /nowhere", "cannot be read"),
    ],
)
async def test_what_is_wrong_is_said(
    stdweb: SameProcess, changed: dict[str, object], arguments: str, said: str
) -> None:
    answer = await replace(stdweb, **changed).run("admin", *arguments.split())  # type: ignore[arg-type]
    assert (answer.status, said in answer.complaint, "Traceback" in answer.complaint) == (1, True, False), answer
