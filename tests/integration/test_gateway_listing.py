"""The listing of tasks: what it shows, and what it reads for that."""

import asyncio
import gc
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pymongo import MongoClient, monitoring

from services.gateway.domain.listing import Listing, Wanted
from services.gateway.model import Task, User
from services.gateway.storage import Store, Tasks
from services.gateway.storage.codec import task_fields
from services.gateway.storage.shelves import ROWS, row_of
from shared.taskdir import TasksRoot
from tests.support.gateway import Client, Gateway, gateway

ANN = {"groups": ["survey"]}

AT = datetime(2026, 11, 23, tzinfo=UTC)


def some(owners: Sequence[str], count: int) -> list[Task]:
    """Tasks of several owners in turn; every tenth has failed."""
    return [
        Task(
            id=number,
            original_name=f"field{number}.fits",
            title=f"Straße x{number % 9}",
            user=owners[number % len(owners)],
            groups=("survey",) if number % 3 == 0 else (),
            created=AT,
            modified=AT,
            state="photometry_failed" if number % 10 == 0 else "photometry_done",
        )
        for number in range(1, count + 1)
    ]


def store_all(url: str, tasks: list[Task]) -> None:
    """Write tasks and their shelves, many at a time."""
    shelves: dict[str, list[Task]] = {}
    for task in tasks:
        shelves.setdefault(task.user, []).append(task)
    with MongoClient(url) as client:
        database = client.get_default_database()
        for start in range(0, len(tasks), 5000):
            database["tasks"].insert_many([document(task) for task in tasks[start : start + 5000]], ordered=False)
        for user, owned in shelves.items():
            for start in range(0, len(owned), ROWS):
                some = owned[start : start + ROWS]
                shelf, is_open = {"_id": some[0].id, "user": user}, start + ROWS >= len(owned)
                database["texts"].insert_one({**shelf, "rows": {str(task.id): row_of(task) for task in some}})
                database["shelves"].insert_one({**shelf, "open": is_open, "ids": [task.id for task in some]})
        database["counters"].update_one({"_id": "tasks"}, {"$set": {"value": len(tasks)}})


def document(task: Task) -> dict[str, Any]:
    fields = {key: value for key, value in task_fields(task).items() if value is not None}
    own = {"user": task.user, "title": task.title, "groups": list(task.groups), "created": task.created, "rev": 0}
    return {"_id": task.id, **own, **fields}


async def listed(client: Client, query: str = "") -> list[int]:
    return [row["id"] for row in await client.ok("GET", f"/tasks/{query}")]


async def pages(client: Client, query: str) -> tuple[list[int], list[int]]:
    """Follow `next` from the first page; the ids in order, and the counts."""
    url: str | None = f"{client.url}/tasks/{query}"
    ids, counts = [], []
    while url is not None:
        async with client.session.get(url) as response:
            assert response.status == 200
            page = await response.json()
        ids += [row["id"] for row in page["results"]]
        counts.append(page["count"])
        url = page["next"]
    return ids, counts


async def test_words_are_plain_text_in_any_case(site: Gateway, ann: Client) -> None:
    names = (("a.fits", "M 31 field"), ("b.fits", "m 33"), ("c.fits", "100% (.*)"), ("d.fits", "Straße"))
    ids = [
        (await ann.ok("POST", "/tasks/", json={"original_name": name, "title": title, "groups": ["survey"]}))["id"]
        for name, title in names
    ]
    for query, found in (
        ("M", [0, 1]),
        ("m 31", [0]),
        ("FIELD a.f", [0]),
        ("(.*)", [2]),
        ("%", [2]),
        ("strasse", [3]),
        ("SURVEY", [0, 1, 2, 3]),
        ("ann b", [1]),
        ("surveys", []),
        ("a\0", []),
        ("fits\nM", [0, 1]),
    ):
        rows = await ann.ok("GET", "/tasks/", params={"query": query})
        assert [row["id"] for row in rows] == [ids[index] for index in reversed(found)], query
    await ann.ok("PATCH", f"/tasks/{ids[0]}/", json={"original_name": "renamed.fits"})
    await ann.ok("PATCH", f"/tasks/{ids[1]}/", json={"title": "other", "groups": []})
    assert await listed(ann, "?query=renamed") == [ids[0]]
    assert await listed(ann, "?query=a.fits") == []
    assert await listed(ann, "?query=other") == [ids[1]]
    assert await listed(ann, "?query=33") == []
    assert await listed(ann, "?query=survey") == [ids[3], ids[2], ids[0]]
    await ann.ok("DELETE", f"/tasks/{ids[3]}/")
    assert await listed(ann) == ids[2::-1]


async def test_states(site: Gateway, ann: Client) -> None:
    site.worker.hold.add("photometry")
    done, held, fresh = [await ann.new_task() for _ in range(3)]
    await ann.ok("POST", f"/tasks/{done}/process/", json={"steps": ["inspect"]})
    await ann.ended(done)
    await ann.ok("POST", f"/tasks/{held}/process/", json={"steps": ["photometry"]})
    async with site.client("chief", is_staff=True) as chief:
        for client in (ann, chief):
            assert await listed(client, "?state=inspect_done") == [done]
            assert await listed(client, "?state=running") == [held]
            assert await listed(client, "?state=uploaded") == [fresh]
            assert await listed(client, "?state=cancelled") == []
            assert await listed(client, "?state=&user=&query=") == [fresh, held, done]
        await ann.ok("POST", f"/tasks/{held}/cancel/")
        assert await listed(chief, "?state=cancelled&user=ann") == [held]


async def test_pages_show_each_task_once(site: Gateway, ann: Client, mongo_url: str) -> None:
    tasks = some(["ann", "bob", "eve"], 1500)
    store_all(mongo_url, tasks)
    own = [task.id for task in reversed(tasks) if task.user == "ann"]
    gone = own[10:13] + own[-1:]
    for task_id in gone:
        await ann.ok("DELETE", f"/tasks/{task_id}/")
    kept = [task_id for task_id in own if task_id not in gone]
    assert await pages(ann, "?limit=70") == (kept, [len(kept)] * 8)
    assert await pages(ann, "?limit=70&offset=35") == (kept[35:], [len(kept)] * 7)
    assert (await pages(ann, "?offset=30"))[0] == kept[30:]
    assert await pages(ann, "?limit=10&offset=100000") == ([], [len(kept)])
    failed = [task.id for task in reversed(tasks) if task.id in set(kept) and task.state == "photometry_failed"]
    ids, counts = await pages(ann, "?limit=7&state=photometry_failed")
    assert ids == failed
    assert counts[-1] == len(failed)
    assert all(count >= 8 for count in counts[:-1])
    both = [task_id for task_id in failed if task_id % 9 == 1]
    assert (await pages(ann, "?limit=3&state=photometry_failed&query=strasse+x1"))[0] == both
    async with site.client("chief", is_staff=True) as chief, site.client("guest", groups=["survey"]) as guest:
        everything = [task.id for task in reversed(tasks) if task.id not in gone]
        assert await listed(chief) == everything
        async with chief.session.head(f"{chief.url}/tasks/") as response:
            assert (response.status, await response.read()) == (200, b"")
        assert await pages(chief, "?limit=1000") == (everything, [len(everything)] * 2)
        shared = [task_id for task_id in kept if task_id % 3 == 0]
        assert await listed(guest, "?user=ann") == shared
        assert (await pages(guest, "?user=ann&limit=100&state=photometry_failed"))[0] == [
            task_id for task_id in failed if task_id in set(shared)
        ]
        assert await listed(guest) == []


async def test_addresses_of_pages(mongo_url: str, tmp_path: Path) -> None:
    """They are the client's own, and a proxy's only when it is trusted."""
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "sky.example:8443"}
    url, _, options = mongo_url.partition("?")
    for trusted, shown in (((), None), (("127.0.0.0/8",), "https://sky.example:8443/api/tasks/")):
        own, folder = f"{url}{len(trusted)}?{options}", tmp_path / str(len(trusted))
        async with gateway(own, folder, trusted_proxies=trusted) as site, site.client("ann") as ann:
            for _ in range(3):
                await ann.ok("POST", "/tasks/", json={"original_name": "a b&c"})
            page = await ann.ok("GET", "/tasks/?limit=1&offset=1&query=b%26c", headers=forwarded)
            start = shown or f"{site.url}/tasks/"
            for key, offset in (("next", "2"), ("previous", "0")):
                assert page[key].startswith(f"{start}?")
                asked = parse_qs(urlsplit(page[key]).query)
                assert asked == {"limit": ["1"], "offset": [offset], "query": ["b&c"]}


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=-1", "offset=-1", "offset=1e3", "offset=%2B0.0", "limit=+1", "limit=99999999999"],
)
async def test_bad_numbers_are_named(ann: Client, query: str) -> None:
    status, answer = await ann.call("GET", f"/tasks/?{query}")
    assert (status, list(answer["errors"])) == (400, [query.partition("=")[0]])


async def test_a_task_whose_making_was_cut_off_is_forgotten(site: Gateway, ann: Client) -> None:
    kept = await ann.new_task()
    ghost = some(["ann"], kept + 1)[-1]
    await Tasks(site.store).shelves.put(ghost)
    assert (await ann.ok("GET", "/tasks/?limit=10"))["results"][0]["id"] == kept
    assert (await ann.ok("GET", "/tasks/?limit=10"))["count"] == 1


@pytest.mark.parametrize("first", [True, False], ids=["first task of its owner", "one more"])
async def test_a_task_that_two_gateways_make_at_once_is_listed_once(site: Gateway, ann: Client, first: bool) -> None:
    others = [] if first else [await ann.new_task()]
    task = some(["ann"], len(others) + 1)[-1]
    tasks = Tasks(site.store)
    # both have looked before either has put it there
    assert await asyncio.gather(tasks.shelves.hold(task), tasks.shelves.hold(task)) == [False, False]
    await asyncio.gather(tasks.shelves.put(task), tasks.shelves.put(task))
    assert sorted(await asyncio.gather(tasks.insert(task, "k"), tasks.insert(task, "k"))) == [False, True]
    assert await listed(ann) == [task.id, *others]
    assert (await ann.ok("GET", "/tasks/?limit=10"))["count"] == len(others) + 1
    assert await listed(ann, "?query=stra") == [task.id]


class Finds(monitoring.CommandListener):
    """Keeps the questions that are asked about tasks, and how many documents came."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.came: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        name = event.command.get("find") or event.command.get("collection")
        if event.command_name in {"find", "getMore"} and name in {"tasks", "shelves", "texts"}:
            self._names[event.request_id] = str(name)
            if event.command_name == "find" and name == "tasks":
                self.asked.append({key: event.command[key] for key in ("find", "filter", "projection")})

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if name := self._names.get(event.request_id):
            cursor = event.reply["cursor"]
            self.came[name] = self.came.get(name, 0) + len(cursor.get("firstBatch", cursor.get("nextBatch", ())))

    def failed(self, event: object) -> None:
        pass


COUNT = 100_000
OWNERS = [f"user{number}" for number in range(49)]


async def test_a_listing_of_all_holds_a_few_tasks_at_a_time(site: Gateway, ann: Client, mongo_url: str) -> None:
    await asyncio.to_thread(store_all, mongo_url, some(["ann"], 3000))
    gc.collect()
    most, body = 0, bytearray()
    async with ann.session.get(f"{ann.url}/tasks/") as response:
        async for piece in response.content.iter_any():
            body += piece
            most = max(most, sum(type(one) is Task for one in gc.get_objects()))
    assert [row["id"] for row in json.loads(body)] == list(range(3000, 0, -1))
    assert 0 < most <= 700  # three pieces of 200, and a few


@pytest.fixture(scope="module")
def many(embedded_store: Any) -> str:
    """Store a hundred thousand tasks of 49 owners. Dropping them takes minutes: they go with the store."""
    url = embedded_store.url.replace("/stdweb", "/manytasks")
    with MongoClient(url) as client:
        for keys in ([("user", 1), ("state", 1), ("_id", 1)], [("work", 1), ("_id", 1)]):
            client.get_default_database()["tasks"].create_index(keys)
    store_all(url, some(OWNERS, COUNT))
    return url


LIMIT = 20


WANTED = (
    {},
    {"state": "photometry_done"},
    {"state": "photometry_failed"},
    {"state": "none"},
    {"words": ("strasse", "x3")},
    {"words": ("field77",), "state": "photometry_done"},
    {"owner": "user7"},
    {"owner": "user7", "state": "photometry_failed"},
)


@pytest.mark.timeout(900)  # the store takes half a millisecond for a task
@pytest.mark.parametrize("wanted", WANTED, ids=str)
@pytest.mark.parametrize("user", [User("user7"), User("chief", is_staff=True)], ids=["owner", "staff"])
async def test_no_more_is_read_than_is_shown(many: str, tmp_path: Path, user: User, wanted: dict) -> None:
    """Of a hundred thousand tasks: every question has its index, and reads at most one task more than is shown."""
    finds = Finds()
    store = Store(many, (finds,))
    page = await Listing(Tasks(store), TasksRoot(tmp_path)).page(user, Wanted(**wanted), LIMIT, 0)
    store.close()
    assert finds.came.get("tasks", 0) <= LIMIT + 1
    mine = not user.is_staff or "owner" in wanted
    assert next(iter(finds.came)) == ("texts" if "words" in wanted else "shelves")
    assert finds.came.pop("texts", 0) + finds.came.pop("shelves", 0) <= (
        COUNT // len(OWNERS) if mine else COUNT
    ) // ROWS + (1 if mine else len(OWNERS))
    with MongoClient(many) as client:
        plans = [
            client.get_default_database().command("explain", asked, verbosity="executionStats") for asked in finds.asked
        ]
    # the embedded store looks for words in a state by id, and sees their state only then
    slack = 5 if len(wanted) == 2 and "words" in wanted else 0
    assert sum(plan["executionStats"]["totalDocsExamined"] for plan in plans) <= LIMIT + 1 + slack
    assert not any("COLLSCAN" in json.dumps(plan, default=str) for plan in plans)
    assert page.tasks or wanted.get("state") == "none"
