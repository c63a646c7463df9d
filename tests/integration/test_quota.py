"""The disk that the tasks of one user may take."""

import asyncio
from pathlib import Path

import aiohttp

from services.gateway import keys
from tests.support.gateway import Client, Gateway, gateway

SITE = {"user_quota_bytes": 100_000}


def form(size: int) -> aiohttp.FormData:
    made = aiohttp.FormData()
    made.add_field("file", b"x" * size, filename="a.fits")
    return made


async def refused(client: Client, path: str, **options: object) -> None:
    status, answer = await client.call("POST", path, **options)
    assert status == 413, answer
    assert "All tasks of one user together may hold 0.0954 MiB of files" in answer["detail"]
    assert "Delete tasks" in answer["detail"]


def forget(site: Gateway) -> None:
    """What the gateway has measured is at most a minute old; here it measures at once."""
    site.app[keys.QUOTA]._taken.clear()
    site.app[keys.QUOTA]._limits.clear()


async def test_uploads_beyond_the_quota_are_refused_and_leave_nothing(site: Gateway, ann: Client) -> None:
    task = await ann.new_task(b"x" * 60_000)
    await refused(ann, "/tasks/", data=form(50_000))
    await refused(ann, f"/tasks/{task}/files/notes.txt", data=form(50_000))
    assert [row["id"] for row in await ann.ok("GET", "/tasks/")] == [task]
    assert not any((site.data_dir / "tasks/.incoming").iterdir())
    await ann.ok("POST", f"/tasks/{task}/files/notes.txt", data=form(30_000))
    async with site.client("bob") as bob:
        await bob.new_task(b"x" * 60_000)  # the others' space is theirs
    forget(site)
    await refused(ann, "/tasks/", data=form(50_000))
    await ann.ok("DELETE", f"/tasks/{task}/")
    forget(site)
    await ann.new_task(b"x" * 60_000)


async def test_many_small_files_count_as_what_they_take(site: Gateway, ann: Client) -> None:
    task = await ann.new_task(b"x")
    for number in range(23):
        await ann.ok("POST", f"/tasks/{task}/files/{number}.txt", data=form(1))
    await refused(ann, f"/tasks/{task}/files/more.txt", data=form(1))
    forget(site)
    await refused(ann, "/tasks/", data=form(1))


async def test_several_at_once_are_counted(site: Gateway, ann: Client) -> None:
    answers = await asyncio.gather(*(ann.call("POST", "/tasks/", data=form(30_000)) for _ in range(6)))
    assert sorted(status for status, _ in answers) == [201] * 3 + [413] * 3


async def test_files_of_a_shared_task_are_the_owners(site: Gateway) -> None:
    async with site.client("ann", groups=["nova"]) as ann, site.client("bob", groups=["nova"]) as bob:
        task = await ann.new_task(b"x" * 60_000, groups="nova")
        await bob.ok("POST", f"/tasks/{task}/files/notes.txt", data=form(30_000))
        await refused(bob, f"/tasks/{task}/files/more.txt", data=form(30_000))
        own = await bob.new_task(b"x" * 90_000)
        await refused(bob, f"/tasks/{task}/duplicate/")
        await bob.ok("DELETE", f"/tasks/{own}/")
        forget(site)
        await bob.ok("POST", f"/tasks/{task}/duplicate/")


async def test_a_user_may_have_another_quota(site: Gateway, ann: Client) -> None:
    await ann.new_task(b"x" * 60_000)
    await site.admin.set_user("ann", quota_bytes=200_000)
    forget(site)
    await ann.new_task(b"x" * 60_000)
    await site.admin.set_user("ann", quota_bytes=0)  # without limit
    forget(site)
    task = await ann.new_task(b"x" * 300_000)
    await site.admin.set_user("ann", quota_bytes="site")
    forget(site)
    await refused(ann, "/tasks/", data=form(10))
    await site.admin.set_user("ann", quota_bytes=1000)
    forget(site)
    status, answer = await ann.call("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    assert (status, "may hold 0.000954 MiB" in answer["detail"]) == (413, True)


async def test_copies_share_files_and_results_count(site: Gateway, ann: Client) -> None:
    task = await ann.new_task(b"x" * 45_000)
    await ann.ok("POST", f"/tasks/{task}/duplicate/")
    forget(site)
    third = (await ann.ok("POST", f"/tasks/{task}/duplicate/"))["id"]  # of one file there are three names
    await ann.ok("POST", f"/tasks/{third}/process/", json={"steps": ["inspect"]})
    await ann.ended(third)
    grown = next((site.data_dir / "tasks" / str(third) / ".results").glob("*-inspect"))
    (grown / "mask.fits").write_bytes(b"x" * 60_000)
    forget(site)
    await refused(ann, f"/tasks/{third}/process/", json={"steps": ["inspect"]})
    await refused(ann, f"/tasks/{third}/fix/", json={})
    assert (await ann.ok("GET", f"/tasks/{third}/"))["state"] == "inspect_done"


async def test_without_a_quota_nothing_is_measured(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path) as site, site.client("ann") as ann:
        task = await ann.new_task(b"x" * 200_000)
        await ann.ok("POST", f"/tasks/{task}/duplicate/")
        assert site.app[keys.QUOTA]._taken == {}
