"""What administrators do on the command line, on a real store, and what the gateway makes of it."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.gateway import keys
from tests.support.command_line import CommandLine, SameProcess
from tests.support.gateway import Client, Gateway, gateway
from tests.support.store import free_port


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(mongo_url, tmp_path / "volume") as running:
        yield running


@pytest.fixture
def stdweb(mongo_url: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, mongo_url)


async def login(client: Client, name: str, password: str) -> int:
    return (await client.call("POST", "/auth/token/", data={"username": name, "password": password}))[0]


def forget(site: Gateway) -> None:
    """What the gateway knows of tokens is at most 5 s old; here it asks at once."""
    site.app[keys.AUTH]._cache.clear()


async def test_a_new_password_replaces_the_old_one_and_tokens_stay(site: Gateway, stdweb: CommandLine) -> None:
    async with site.client("ann") as ann:
        assert "Changed the password of ann" in await stdweb.ok(
            "user", "passwd", "ann", "--password-stdin", stdin="a\n"
        )
        assert await login(ann, "ann", "a") == 200
        await stdweb.ok("user", "passwd", "ann", "--password-stdin", stdin="b [c] é\n")
        assert [await login(ann, "ann", password) for password in ("a", "b [c] é")] == [400, 200]
        forget(site)
        assert await ann.ok("GET", "/tasks/") == []


async def test_rights_are_given_and_taken(site: Gateway, stdweb: CommandLine) -> None:
    async with site.client("ann") as ann, site.client("bob", groups=["nova"]) as bob:
        task = await ann.new_task()

        async def seen() -> int:
            forget(site)
            return (await bob.call("GET", f"/tasks/{task}/"))[0]

        for rights, expected in (
            (("--grant", "view_all_tasks"), 200),
            (("--no-grants",), 403),
            (("--staff",), 200),
            (("--no-staff", "--group", "survey", "--group", "[bold]"), 403),
        ):
            assert await stdweb.ok("user", "set", "bob", *rights) == "Changed user bob\n"
            assert await seen() == expected, rights
        listed = await stdweb.ok("user", "list")
        assert re.search(r"│ ann( +│){6}\n│ bob +│ +│ \[bold\], survey( +│){4}", listed), listed
        await stdweb.ok("user", "set", "bob", "--no-groups", "--staff")
        assert re.search(r"│ bob +│ yes( +│){5}", await stdweb.ok("user", "list"))


async def test_revoked_tokens_are_refused(site: Gateway, stdweb: CommandLine) -> None:
    async with site.client("ann") as ann, site.client("bob") as bob:
        await stdweb.ok("token", "create", "ann")
        assert await stdweb.ok("token", "revoke", "ann") == "Revoked 2 tokens of ann\n"
        forget(site)
        assert (await ann.call("GET", "/tasks/"))[0] == 401
        assert (await bob.call("GET", "/tasks/"))[0] == 200
        assert await stdweb.ok("token", "revoke", "ann") == "Revoked 0 tokens of ann\n"


async def test_a_secret_for_callbacks_is_shown_once(site: Gateway, stdweb: CommandLine) -> None:
    site.worker.hold = {"inspect"}  # nobody is called
    async with site.client("ann") as ann:
        task = await ann.new_task()
        body = {"steps": ["inspect"], "callback_url": "https://192.0.2.1/"}
        assert "public" in (await ann.call("POST", f"/tasks/{task}/process/", json=body))[1]["detail"]
        body["callback_url"] = "https://unknown.invalid/"
        assert "secret" in (await ann.call("POST", f"/tasks/{task}/process/", json=body))[1]["detail"]
        secrets = [(await stdweb.ok("user", "secret", "ann")).strip() for _ in range(2)]
        assert all(re.fullmatch(r"[\w-]{43}", secret) for secret in secrets)
        assert secrets[0] != secrets[1]
        assert (await ann.call("POST", f"/tasks/{task}/process/", json=body))[0] == 200


async def test_presets_start_tasks(site: Gateway, stdweb: CommandLine) -> None:
    await stdweb.ok("preset", "add", "deep", "--config", "sn=3", "--config", "filter=R", "--config", "flags=[true]")
    listed = await stdweb.ok("preset", "list")
    number = re.search(r'│ (\d+) +│ deep +│ {"sn": 3, "filter": "R", "flags": \[true\]} +│', listed).group(1)
    async with site.client("ann") as ann:
        task = await ann.ok("POST", "/tasks/", json={"original_name": "a.fits", "preset": int(number)})
    assert task["config"] == {"sn": 3, "filter": "R", "flags": [True]}


async def test_presets_bring_files(site: Gateway, stdweb: CommandLine) -> None:
    here = replace(stdweb, data_dir=site.data_dir)
    (stdweb.folder / "custom_mask.fits").write_bytes(b"mask")
    await here.ok("preset", "add", "wide", "--config", "sn=3", "custom_mask.fits")
    assert re.search(r'│ 1 +│ wide +│ {"sn": 3} +│ custom_mask.fits +│', await here.ok("preset", "list"))
    async with site.client("ann") as ann:
        task = await ann.ok("POST", "/tasks/", json={"original_name": "a.fits", "preset": 1})
        assert await ann.ok("GET", f"/tasks/{task['id']}/files/custom_mask.fits") == "mask"
    answer = await here.run("preset", "add", "bad", "none.fits")
    assert (answer.status, answer.complaint) == (1, "files: there is no file 'none.fits'\n")


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        ("user set nobody --staff --group new", "", (1, "name: there is no user 'nobody'")),
        ("user set ann --grant fly", "", (1, "unknown grant 'fly'; allowed: view_all_tasks, edit_all_tasks")),
        ("user set ann --group a,b", "", (1, "groups: bad name 'a,b'")),
        ("user set ann", "", (2, "nothing to change")),
        ("user set ann --group nova --no-groups", "", (2, "either --group or --no-groups")),
        ("user passwd nobody --password-stdin", "x\n", (1, "name: there is no user 'nobody'")),
        ("user passwd ann --password-stdin", "\n", (1, "password: may not be empty")),
        ("user passwd ann --password-stdin", "", (1, "password: may not be empty")),
        ("user add ben --password-stdin", "\n", (1, "password: may not be empty")),
        ("user add ann --password-stdin", "x\n", (1, "name: there is a user 'ann' already")),
        ("user add a|b --password-stdin", "x\n", (1, "name: 1 to 150 printable characters")),
        ("user secret nobody", "", (1, "name: there is no user 'nobody'")),
        ("token create nobody", "", (1, "name: there is no user 'nobody'")),
        ("token revoke nobody", "", (1, "name: there is no user 'nobody'")),
        ("preset add bad --config sn=x", "", (1, "sn: must be a valid number")),
        ("preset add bad mask.fits", "", (1, "files: the shared volume is not known here; set STDWEB_DATA_DIR")),
        ("preset add bad --config sn", "", (2, "'sn' is not of the form key=value")),
    ],
)
async def test_what_is_wrong_is_said_and_changes_nothing(
    site: Gateway, stdweb: CommandLine, arguments: str, stdin: str, expected: tuple[int, str]
) -> None:
    await site.admin.add_user("ann", "secret", groups=["nova"])

    async def everything() -> list[object]:
        return [await site.store.collection(name).find({}).to_list(None) for name in ("users", "groups", "presets")]

    before = await everything()
    answer = await stdweb.run(*arguments.split(" "), stdin=stdin)
    assert (answer.status, answer.shown) == (expected[0], "")
    assert expected[1] in answer.complaint
    assert "Traceback" not in answer.complaint
    assert await everything() == before


async def test_a_store_that_is_away_is_said(tmp_path: Path) -> None:
    stdweb = CommandLine(tmp_path, f"mongodb://127.0.0.1:{free_port()}/none")
    answer = await stdweb.run("user", "list")
    assert (answer.status, "The store does not answer" in answer.complaint) == (1, True)
    assert "make status" in answer.complaint
    assert "Traceback" not in answer.complaint


async def test_a_store_of_another_version_is_said(site: Gateway, stdweb: CommandLine) -> None:
    async with site.client("ann") as ann:
        await ann.new_task()
    await site.app[keys.STORE].collection("counters").update_one({"_id": "form"}, {"$set": {"value": 99}})
    whole = replace(stdweb, data_dir=site.data_dir, amqp_url=f"amqp://127.0.0.1:{free_port()}/")
    for command in (("user", "list"), ("admin", "check")):
        answer = await whole.run(*command)
        assert answer.status == 1
        assert "written in form 99; this version reads" in " ".join(answer.complaint.split())
        assert "Traceback" not in answer.complaint


async def test_limits_of_a_user_are_set_shown_and_taken_back(site: Gateway, mongo_url: str, tmp_path: Path) -> None:
    stdweb = SameProcess(tmp_path, mongo_url)
    async with site.client("ann"):
        for given, shown in (("50G", "50G"), ("1536MiB", "1536M"), ("none", "none"), ("site", "")):
            await stdweb.ok("user", "set", "ann", "--quota", given)
            rows = [line.split("│") for line in (await stdweb.ok("user", "list")).splitlines() if "ann" in line]
            assert [row[-3].strip() for row in rows] == [shown]
        await stdweb.ok("user", "set", "ann", "--max-steps", "3")
        (user,) = await site.admin.list_users()
        assert (user.quota_bytes, user.max_steps) == (None, 3)
        await stdweb.ok("user", "set", "ann", "--max-steps", "site")
        assert (await site.admin.list_users())[0].max_steps is None
        for option, wrong in (("--quota", "-1"), ("--quota", "0"), ("--quota", "5 apples"), ("--max-steps", "0")):
            answer = await stdweb.run("user", "set", "ann", f"{option}={wrong}")
            assert (answer.status, f"{option} is " in answer.complaint) == (2, True), answer
