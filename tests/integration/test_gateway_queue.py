"""What the queue says of steps and chains that run, have ended, or belong to others; form of every answer."""

import re
from collections.abc import Iterator

from services.gateway import keys
from services.gateway.domain.run_ids import RunIds
from tests.support.gateway import Client, Gateway

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def run(client: Client, *steps: str) -> tuple[int, str]:
    task = await client.new_task()
    return task, (await client.ok("POST", f"/tasks/{task}/process/", json={"steps": list(steps)}))["celery_id"]


def found(row: dict) -> tuple[str, bool, bool | None, bool | None]:
    return row["state"], row["ready"], row["successful"], row["failed"]


async def test_a_chain_and_its_steps_after_the_end(site: Gateway, ann: Client) -> None:
    site.worker.fail = {"photometry": "No stars."}
    task, chain = await run(ann, "inspect", "photometry", "cleanup")
    await ann.ended(task)
    # the next run puts this one into the history
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["cleanup"]})
    await ann.ended(task)
    assert await ann.ok("GET", f"/queue/{chain}/") == {
        "id": chain,
        "state": "FAILURE",
        "ready": True,
        "successful": False,
        "failed": True,
        "task_id": task,
        "task_name": "observation.fits",
        "chain_position": 3,
        "chain_total": 3,
    }
    states = [found(await ann.ok("GET", f"/queue/{chain}-{number}/")) for number in (1, 2, 3)]
    assert states == [
        ("SUCCESS", True, True, False),
        ("FAILURE", True, False, True),
        ("REVOKED", True, False, False),
    ]
    assert (await ann.call("POST", f"/queue/{chain}/terminate/"))[0] == 400
    for unknown in (f"{chain}-4", f"{chain}-", chain[:-1], "0" * 33, "0" * 48, f"{chain}-1-1", "%00", "x" * 300):
        assert (await ann.call("GET", f"/queue/{unknown}"))[0] == 404, unknown
        assert (await ann.call("POST", f"/queue/{unknown}/terminate"))[0] == 404, unknown
    await ann.ok("DELETE", f"/tasks/{task}/")
    assert (await ann.call("GET", f"/queue/{chain}/"))[0] == 404


async def test_a_chain_before_its_end(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"inspect"}
    task, chain = await run(ann, "inspect", "photometry")
    assert found(await ann.ok("GET", f"/queue/{chain}")) == ("PENDING", False, None, None)
    async with site.client("eve") as eve:
        row = await eve.ok("GET", f"/queue/{chain}")
        assert (row["task_id"], row["task_name"], row["state"]) == (None, None, "PENDING")
        shown = await eve.ok("GET", "/queue")
        assert [(row["chain_id"], row["task_id"], row["task_name"]) for row in shown] == [(chain, None, None)] * 2
    async with site.client("viewer", grants=["view_all_tasks"]) as viewer:
        assert (await viewer.ok("GET", "/queue"))[0]["task_id"] == task
        assert (await viewer.call("POST", f"/queue/{chain}/terminate"))[0] == 403
    assert (await ann.ok("POST", f"/queue/{chain}/terminate"))["revoked_count"] == 2


async def test_the_name_of_a_run_tells_its_task_to_the_gateways_of_the_site_alone(site: Gateway) -> None:
    tasks = site.app[keys.COORDINATOR].tasks
    first, second, stranger = RunIds(tasks), RunIds(tasks), RunIds(tasks)
    stranger._key = bytes(32)
    names = [await ids.new(7) for ids in (first, second, first)]
    assert len({name[32:] for name in names}) == 3
    for ids in (first, second):
        assert [await ids.task_of(name) for name in names] == [7, 7, 7]
    assert {await stranger.task_of(name) for name in names} == {None}
    for text in ("", "zz", "0" * 32, "0" * 47 + "g", "0" * 49, names[0].upper() + "-1"):
        assert await first.task_of(text) is None


async def test_every_read_answers_head_and_with_and_without_slash(site: Gateway, ann: Client) -> None:
    site.worker.hold = {"photometry"}
    task, chain = await run(ann, "inspect", "photometry")
    for path in (
        "/tasks",
        f"/tasks/{task}",
        f"/tasks/{task}/state",
        f"/tasks/{task}/files",
        f"/tasks/{task}/files/image.fits",
        "/queue",
        f"/queue/{chain}",
        f"/queue/{chain}-1",
        "/reference",
        "/reference/filters",
        "/reference/catalogs",
        "/reference/templates",
    ):
        for address in (path, f"{path}/"):
            async with ann.session.head(ann.url + address, headers={"Accept": "image/png"}) as response:
                assert (response.status, await response.read()) == (200, b""), address
                assert response.headers["X-Request-ID"]
            async with ann.session.get(ann.url + address, headers={"Accept": "image/png"}) as response:
                assert response.status == 200, address
                assert await response.read()


def texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, key)
    elif isinstance(value, str):
        yield key, value


async def test_times_are_utc_and_no_answer_shows_a_server_path(site: Gateway, ann: Client) -> None:
    task, chain = await run(ann, "inspect")
    await ann.ended(task)
    seen = set()
    for path in ("/tasks", f"/tasks/{task}", f"/tasks/{task}/files", f"/queue/{chain}"):
        for key, text in texts(await ann.ok("GET", path)):
            assert str(site.data_dir) not in text
            if key in {"created", "modified", "completed"}:
                seen.add(key)
                assert TIME.fullmatch(text), (path, key, text)
    assert seen == {"created", "modified", "completed"}
    for method, path in (
        ("GET", f"/tasks/{task}/files/none"),
        ("POST", f"/tasks/{task}/files/image.fits/x"),
        ("GET", "/x"),
    ):
        _, answer = await ann.call(method, path)
        assert str(site.data_dir) not in answer["detail"]


async def test_pages_lead_to_each_other(site: Gateway, ann: Client) -> None:
    ids = [(await ann.ok("POST", "/tasks/", json={"original_name": f"a {n} & b"}))["id"] for n in range(5)][::-1]
    address: str | None = "/tasks/?limit=2&query=a+%26"
    pages = []
    while address:
        page = await ann.ok("GET", address)
        assert page["count"] == 5
        pages.append([row["id"] for row in page["results"]])
        address = page["next"] and page["next"].removeprefix(site.url)
    assert pages == [ids[:2], ids[2:4], ids[4:]]
    back = await ann.ok("GET", page["previous"].removeprefix(site.url))
    assert [row["id"] for row in back["results"]] == ids[2:4]
    odd = await ann.ok("GET", "/tasks/?limit=2&offset=1")
    assert [row["id"] for row in (await ann.ok("GET", odd["previous"].removeprefix(site.url)))["results"]] == ids[:2]
    beyond = await ann.ok("GET", "/tasks/?limit=2&offset=100")
    assert (beyond["results"], beyond["next"]) == ([], None)
    assert [row["id"] for row in (await ann.ok("GET", "/tasks/?offset=3"))["results"]] == ids[3:]
