"""An old installation is taken over: from its SQLite file, or from a dump."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest
from argon2 import PasswordHasher

from services.gateway.domain.auth import Auth
from services.gateway.domain.errors import Conflict, Invalid
from services.gateway.domain.passwords import OLD_HASHES, Passwords, is_old, new_hash, taken_over
from services.gateway.domain.throttle import Throttle
from services.gateway.model import User, now
from services.gateway.storage import Attempts
from services.gateway.upkeep import Site
from services.gateway.upkeep.check import check
from services.gateway.upkeep.importing import Source, import_site
from services.gateway.upkeep.old_site import read
from tests.support.gateway import Client, Gateway
from tests.support.old_site import HASH, PASSWORD, TOKEN, make_dump, make_files, make_sqlite
from tests.support.upkeep import MemorySite


@pytest.fixture
async def care(site: Gateway, mongo_url: str) -> AsyncIterator[Site]:
    care = MemorySite(site, mongo_url)
    yield care
    care.store.close()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder = tmp_path / "old"
    make_files(folder)
    make_sqlite(folder / "db.sqlite3")
    return Source(folder / "db.sqlite3", folder / "tasks", folder / "data")


def test_a_dump_says_the_same_as_the_file(tmp_path: Path) -> None:
    make_sqlite(tmp_path / "db.sqlite3")
    make_dump(tmp_path / "dump.json")
    assert read(tmp_path / "dump.json") == read(tmp_path / "db.sqlite3")


def test_a_file_of_the_first_versions_is_read(tmp_path: Path) -> None:
    import sqlite3

    make_sqlite(tmp_path / "db.sqlite3")
    with sqlite3.connect(tmp_path / "db.sqlite3") as base:
        for table in ("stdweb_preset", "stdweb_task_groups", "authtoken_token"):
            base.execute(f"DROP TABLE {table}")
        for column in ("completed", "celery_chain_ids", "ra", "dec", "radius", "moc"):
            base.execute(f"ALTER TABLE stdweb_task DROP COLUMN {column}")
    base.close()
    old = read(tmp_path / "db.sqlite3")
    assert ([task.id for task in old.tasks], old.presets, old.tasks[0].completed) == ([7, 9, 12, 13], [], None)


async def test_all_is_taken_over(site: Gateway, care: Site, source: Source) -> None:
    done = await import_site(care, source)
    assert (done.users, done.tokens, done.presets, done.tasks, done.files) == (4, 1, 2, 4, 11)
    notes = "\n".join(done.notes)
    for said in (
        "user bob: the password cannot be verified here; set a new one: stdweb user passwd bob",
        "user old: was not active",
        "preset 2: masks/none.fits was left out: files: there is no file 'none.fits'",
        "task 7: these keys of its config are not allowed here, and were left out: minarea, my.key",
        "task 7: links, and files with names that are not allowed here, were left out: .tmp/junk, link.fits",
        "task 12: its state was 'running'; it is uploaded now",
        "task 13: it has no folder",
    ):
        assert said in notes
    assert [one async for one in check(care, queues=False, fresh_s=-1)] == []
    async with aiohttp.ClientSession(headers={"Authorization": f"Token {TOKEN}"}) as session:
        ann = Client(site.url, session)  # with the token of old
        assert [row["id"] for row in await ann.ok("GET", "/tasks/")] == [9, 7]
        task = await ann.ok("GET", "/tasks/7/")
        assert task | {"path": ""} == {
            **task,
            "path": "",
            "original_name": "m31.fits",
            "title": "Andromeda",
            "state": "photometry_done",
            "user": "ann",
            "groups": ["nova"],
            "created": "2025-06-30T12:00:00.654Z",
            "completed": "2025-06-30T13:45:00.123Z",
            "celery_id": None,
        }
        asked = {"filter": "R", "gain": 2.5, "sn": "4", "target": "M 31", "own": {"x": [1, 2]}}
        computed = {"fwhm": 3.2, "zp": 25.1, "targets": [{"name": "M 31", "ra": 10.68, "dec": 41.27}]}
        assert task["config"] == {**asked, **computed}
        files = {row["path"] for row in await ann.ok("GET", "/tasks/7/files/")}
        names = {"image.fits", "mask.fits", "inspect.log", "objects.vot", "photometry.log", "targets"}
        assert files == names | {"custom_template.fits", "photometry.pickle"}
        assert await ann.ok("GET", "/tasks/7/files/targets/target_0000.cutout") == "cutout"
        # it goes on here: what it has computed before goes, and so do the files of the steps
        await ann.ok("POST", "/tasks/7/process/", json={"steps": ["inspect"]})
        assert (await ann.ended(7))["config"] == asked
        files = {row["path"] for row in await ann.ok("GET", "/tasks/7/files/")}
        assert files == {"image.fits", "mask.fits", "inspect.log", "custom_template.fits", "photometry.pickle"}
        made = await ann.ok("POST", "/tasks/", json={"original_name": "new.fits", "preset": 2})
        assert (made["id"], made["config"]) == (14, {"sn": 3})
        assert await ann.ok("GET", "/tasks/14/files/custom_mask.fits") == "mask of all"
        assert (await ann.ok("GET", "/tasks/13/"))["groups"] == ["nova", "survey"]  # by view_all_tasks
        assert (await ann.call("PATCH", "/tasks/12/", json={"title": "x"}))[0] == 403
    users = {user.name: user for user in await care.users.all()}
    assert users["admin"].is_staff
    assert (users["bob"].groups, users["bob"].grants) == ({"nova", "survey"}, {"edit_all_tasks"})


async def test_old_passwords_work_and_are_hashed_anew(site: Gateway, care: Site, source: Source) -> None:
    await import_site(care, source)
    async with aiohttp.ClientSession() as session:
        client = Client(site.url, session)

        async def login(name: str, password: str) -> int:
            form = {"username": name, "password": password}
            return (await client.call("POST", "/auth/token/", json=form))[0]

        assert await care.users.password("ann") == HASH
        assert await login("ann", "letmein") == 400
        assert await care.users.password("ann") == HASH
        assert await login("ann", PASSWORD) == 200
        hashed = await care.users.password("ann")
        assert hashed is not None
        assert hashed.startswith("$argon2id$")
        assert [await login(name, PASSWORD) for name in ("ann", "bob", "old")] == [200, 400, 400]


def test_hashes_of_django() -> None:
    verify = Passwords().verify
    assert verify(HASH, PASSWORD)
    assert not verify(HASH, "letmein")
    assert not verify(HASH[:-1], PASSWORD)
    assert is_old(HASH)
    new = PasswordHasher(time_cost=1, memory_cost=64).hash("x")
    kept = taken_over(f"argon2{new}")
    assert kept is not None
    assert verify(kept, "x")
    assert is_old(kept)
    for other in ("!unusable", "", "bcrypt$$2b$12$x", "md5$a$b", HASH.replace("260000", "99999999")):
        assert taken_over(other) is None


@dataclass
class Work:
    """Does what Argon2 and PBKDF2 do, and counts it."""

    argon2: list[str] = field(default_factory=list)
    rounds: int = 0

    def hash(self, password: str) -> str:
        return new_hash(password)

    def verify(self, hashed: str, password: bytes) -> bool:
        self.argon2.append(hashed.rpartition("$")[0].rpartition("$")[0])  # kind and costs
        return PasswordHasher().verify(hashed, password)

    def pbkdf2(self, kind: str, password: bytes, salt: bytes, rounds: int) -> bytes:
        self.rounds += rounds
        return hashlib.pbkdf2_hmac(kind, password, salt, rounds)


def hash_of_django(rounds: int) -> str:
    digest = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"salt", rounds)
    return f"pbkdf2_sha256${rounds}$salt${base64.b64encode(digest).decode()}"


async def test_a_refusal_is_the_same_work_whoever_is_asked_for(care: Site) -> None:
    """An observer who could tell old users, new ones and none by the time would know which names there are."""
    stored = {
        "old": hash_of_django(5000),
        "older": hash_of_django(1000),
        "new": new_hash(PASSWORD),
        "no password": None,
    }
    done: dict[str, set[str]] = {}
    for number, password in enumerate(("letmein", PASSWORD.ljust(2000, "x"), "\ud800")):
        for place, (name, hashed) in enumerate([*stored.items(), ("nobody", ""), ("\x07", "")]):
            who, work = f"{name}{number}", Work()
            if name in stored:
                await care.users.add(User(who), hashed, now())
            auth = Auth(care.users, Throttle(Attempts(care.store)), Passwords(work, work.pbkdf2))
            with pytest.raises(Invalid):
                await auth.check_password(who, password, f"192.0.{number}.{place}")
            auth.close()
            done.setdefault(f"{work.argon2} {work.rounds}", set()).add(who)
    assert list(done) == ["['$argon2id$v=19$m=19456,t=2,p=1'] 5000"], done


async def test_who_was_taken_over_costs_nothing_once_hashed_anew(care: Site) -> None:
    await care.users.add(User("old"), HASH, now())
    await care.users.add(User("new"), new_hash("right"), now())
    assert await care.users.passwords_between(*OLD_HASHES) == [HASH]
    auth = Auth(care.users, Throttle(Attempts(care.store)))
    assert await auth.check_password("old", PASSWORD, "192.0.2.1") == User("old")
    assert await care.users.passwords_between(*OLD_HASHES) == []
    auth.close()


async def test_a_second_time_changes_nothing(site: Gateway, care: Site, source: Source) -> None:
    assert (await import_site(care, source, dry_run=True)).tasks == 4
    assert not any(path.name.isdecimal() for path in (site.data_dir / "tasks").iterdir())
    assert await care.users.all() == []
    linked = await import_site(care, replace(source, link=True))
    assert (site.data_dir / "tasks/9/image.fits").stat().st_ino == (source.tasks / "9/image.fits").stat().st_ino
    again = await import_site(care, source)
    assert (again.users, again.tokens, again.presets, again.tasks, again.there) == (0, 0, 0, 0, linked.tasks)


async def test_ids_in_use_are_refused_before_anything_changes(
    site: Gateway, ann: Client, care: Site, source: Source
) -> None:
    while await ann.new_task() < 9:
        pass
    with pytest.raises(Conflict, match=r"in use here already: task 7, task 9\. "):
        await import_site(care, source)
    assert [user.name for user in await care.users.all()] == ["ann"]
    assert await care.users.presets() == []


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "SQLite format 3\0rest", '[{"model": "stdweb.task", "pk": 1, "fields": {}}]']
)
async def test_what_is_no_old_installation_is_refused(care: Site, source: Source, tmp_path: Path, content: str) -> None:
    (tmp_path / "other").write_text(content)
    with pytest.raises(Invalid, match=r"neither|cannot be read"):
        await import_site(care, replace(source, database=tmp_path / "other"))
    with pytest.raises(Invalid, match="There is no folder"):
        await import_site(care, replace(source, tasks=tmp_path / "none"))


def test_bad_numbers_in_a_config_are_left_out(tmp_path: Path) -> None:
    from services.gateway.upkeep.old_tasks import sound

    config = json.loads('{"sn": NaN, "gain": 2, "deep": {"a": Infinity}, "$where": 1}')
    assert sound(config) == ({"gain": 2}, ["sn", "deep", "$where"])
