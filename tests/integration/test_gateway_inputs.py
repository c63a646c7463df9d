"""What clients may send by mistake or on purpose, and what deaths and races leave: never a 500, nothing half done."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from services.gateway import keys
from services.gateway.app import build_app
from services.gateway.connections import Runner
from services.gateway.domain import orphans
from services.gateway.domain.runs import Request
from services.gateway.reconcile import Reconciler
from services.gateway.storage import Store
from shared.broker.memory import MemoryBroker
from shared.settings import GatewaySettings
from shared.taskdir import TaskDir
from tests.support.gateway import Client, Gateway, until

ANN = {"groups": ["survey", "nova"]}

JSON = "application/json"
FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="title"'


async def raw(
    ann: Client, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send what no decent client would."""
    where = urlsplit(ann.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    sent = {
        "Host": "x",
        "Connection": "close",
        "Content-Length": str(len(body)),
        "Authorization": ann.session.headers["Authorization"],
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items() if value)
    writer.write(f"{method} /api{path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, content = answer.partition(b"\r\n\r\n")
    status, *rest = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in rest), content


# ---- bodies


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"local_file": []}, "local_file"),
        ({"local_file": {}}, "local_file"),
        ({"local_file": "a.fits", "ext": []}, "ext"),
        ({"original_name": "a", "preset": []}, "preset"),
        ({"original_name": "a", "preset": {}}, "preset"),
        ({"original_name": "a", "title": ["x"]}, "title"),
        ({"original_name": "\ud800"}, "original_name"),
        ({"original_name": "a", "config": {"x": "\ud800"}}, "config"),
        ({"original_name": "a", "config": {"x": {"\udfff": 1}}}, "config"),
        ({"original_name": "a", "groups": ["\ud800"]}, "groups"),
        ({"original_name": "a", "groups": [["survey"]]}, "groups"),
        ({"original_name": "a", "groups": {}}, "groups"),
    ],
)
async def test_fields_of_a_wrong_kind_are_named(site: Gateway, ann: Client, fields: dict, key: str) -> None:
    async with site.client("chief", is_staff=True) as chief:
        for client in (ann, chief):
            status, answer = await client.call("POST", "/tasks/", json=fields)
            assert (status, list(answer["errors"])) == (400, [key]), answer


@pytest.mark.parametrize(
    ("kind", "body", "more"),
    [
        ("application/x-www-form-urlencoded; charset=nope", b"title=x", {}),
        ("application/x-www-form-urlencoded", b"title=\xff", {}),
        (FORM, PART + b"\r\nContent-Type: text/plain; charset=nope\r\n\r\nx\r\n--b--\r\n", {}),
        (FORM, PART + b"\r\nContent-Transfer-Encoding: nope\r\n\r\nx\r\n--b--\r\n", {}),
        (FORM, PART + b"\r\n\r\n\xff\xfe\r\n--b--\r\n", {}),
        (FORM, PART + b"\r\n\r\nno end", {}),
        (FORM, b"--b\r\nnonsense", {}),
        (FORM, b"", {}),
        ("multipart/form-data", b"x", {}),
        (JSON, b"no gzip", {"Content_Encoding": "gzip"}),
        (JSON, b'{"title": "\xff"}', {}),
        (JSON, b'{"config": {"x": NaN}}', {}),
        (JSON, b'{"config": {"x": 1e999}}', {}),
        (JSON, b'{"title": ' + b"[" * 3000, {}),
    ],
)
async def test_a_damaged_body_is_bad_input(ann: Client, kind: str, body: bytes, more: dict[str, str]) -> None:
    task = await ann.new_task()
    status, headers, content = await raw(ann, "PATCH", f"/tasks/{task}/", body, Content_Type=kind, **more)
    assert (status, headers["Content-Type"].split(";")[0]) == (400, JSON), content
    assert json.loads(content)["detail"]
    assert (await ann.ok("GET", f"/tasks/{task}/"))["title"] == ""


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/x-www-form-urlencoded", b'{"steps": ["inspect"]}', "Content-Type: application/json"),
        (JSON, b'{"steps": [inspect]}', "line 1 column 12"),
        (JSON, b'{"config": {}}', "steps: is needed"),
        (JSON, b'{"steps": ["inspect"], "config": {"sn": "x"}}', "sn: must be a valid number"),
    ],
)
async def test_what_is_wrong_with_a_body_is_said(ann: Client, kind: str, body: bytes, said: str) -> None:
    task = await ann.new_task()
    status, answer = await ann.call("POST", f"/tasks/{task}/process/", data=body, headers={"Content-Type": kind})
    assert (status, said in answer["detail"]) == (400, True), answer


async def test_only_short_literals_are_read(ann: Client) -> None:
    task = await ann.new_task()
    for count, expected in ((500, 200), (30_000, 400)):  # reading the second one would take half a second
        literal = "{" + "'a': 1," * count + "}"
        status, answer = await ann.call("PATCH", f"/tasks/{task}/", json={"config": literal})
        assert status == expected, answer
    assert "16 KiB" in answer["detail"]
    assert (await ann.ok("PATCH", f"/tasks/{task}/", json={"config": json.dumps({"a": "x" * 100_000})}))["config"]["a"]


@pytest.mark.parametrize("depth", [15, 400, 900, 100_000])
async def test_a_step_that_is_no_text_is_refused(ann: Client, depth: int) -> None:
    task = await ann.new_task()
    body = b'{"steps": [' + b"[" * depth + b"]" * depth + b"]}"
    status, _, content = await raw(ann, "POST", f"/tasks/{task}/process/", body, Content_Type=JSON)
    assert status == 400, content
    assert len(content) < 500


async def test_a_run_that_no_message_can_carry_is_not_started(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    body = {"steps": ["inspect"], "config": {"x": "\ud800"}}
    status, answer = await ann.call("POST", f"/tasks/{task}/process/", json=body)
    assert (status, list(answer["errors"])) == (400, ["config"])
    assert await ann.ok("GET", f"/tasks/{task}/state/") == {"id": task, "state": "uploaded", "celery_id": None}


async def test_a_form_has_a_bounded_number_of_parts(ann: Client) -> None:
    fields = [("original_name", "a"), *[("groups", "survey")] * 64]
    for multipart in (True, False):
        form = aiohttp.FormData(fields, default_to_multipart=multipart)
        status, answer = await ann.call("POST", "/tasks/", data=form)
        assert (status, "64" in answer["detail"]) == (400, True)


async def test_groups_may_be_given_one_by_one(ann: Client) -> None:
    form = aiohttp.FormData([("original_name", "a"), ("groups", "survey"), ("groups", "nova")])
    task = await ann.ok("POST", "/tasks/", data=form)
    assert task["groups"] == ["survey", "nova"]
    for kind in ("application/x-www-form-urlencoded", FORM):
        await ann.ok("PATCH", f"/tasks/{task['id']}/", json={"groups": []})
        parts = [
            b'--b\r\nContent-Disposition: form-data; name="groups"\r\n\r\n%b\r\n' % name
            for name in (b"nova", b"survey")
        ]
        body = b"groups=nova&groups=survey" if kind != FORM else b"".join(parts) + b"--b--\r\n"
        status, _, content = await raw(ann, "PATCH", f"/tasks/{task['id']}/", body, Content_Type=kind)
        assert (status, json.loads(content)["groups"]) == (200, ["nova", "survey"])


# ---- around the body


@pytest.mark.parametrize("host", ["a b:99999999", "a:99999999"])
async def test_links_to_pages_need_a_host_that_can_be_read(ann: Client, host: str) -> None:
    for _ in range(2):
        await ann.new_task()
    status, _, content = await raw(ann, "GET", "/tasks/?limit=1", Host=host)
    assert (status, "Host" in json.loads(content)["detail"]) == (400, True)


async def test_an_unknown_expectation_gets_json(ann: Client) -> None:
    status, headers, content = await raw(ann, "POST", "/tasks/", b"{}", Content_Type=JSON, Expect="nonsense")
    assert (status, headers["Content-Type"].split(";")[0]) == (417, JSON)
    assert json.loads(content)["detail"]


async def test_options_name_every_method_of_an_address(ann: Client) -> None:
    task = await ann.new_task()
    for path, allowed in (
        ("/tasks/", "GET, HEAD, OPTIONS, POST"),
        ("/tasks", "GET, HEAD, OPTIONS, POST"),
        (f"/tasks/{task}/", "DELETE, GET, HEAD, OPTIONS, PATCH, POST"),
        (f"/tasks/{task}/files/", "DELETE, GET, HEAD, OPTIONS"),
        (f"/tasks/{task}/files/a.txt", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("/reference/filters/", "GET, HEAD, OPTIONS"),
    ):
        async with ann.session.options(ann.url + path) as response:
            assert response.headers["Allow"] == allowed, path
            assert (await response.json())["methods"] == allowed.split(", ")


# ---- races and deaths


async def test_an_edit_while_the_image_is_changed_does_not_hold_it(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    loop = asyncio.get_running_loop()

    def commit(*_: object) -> bool:
        edit = ann.ok("PATCH", f"/tasks/{task}/", json={"config": {"sn": 3}})
        asyncio.run_coroutine_threadsafe(edit, loop).result(10)
        return True

    await site.app[keys.FILES]._images._change(task, "delete", commit)
    seen = await site.app[keys.COORDINATOR].tasks.get(task)
    assert (seen.pending, seen.state, seen.asked) == (None, "initial", {"sn": 3})


async def test_a_start_beside_an_edit_is_not_refused(site: Gateway, ann: Client) -> None:
    task_id = await ann.new_task()
    coordinator = site.app[keys.COORDINATOR]
    before = await coordinator.tasks.get(task_id)
    await ann.ok("PATCH", f"/tasks/{task_id}/", json={"config": {"sn": 3}})
    user = await site.app[keys.AUTH].user(ann.session.headers["Authorization"])
    started = await coordinator.process(before, Request(user.name, ["inspect"]))
    assert (started.running, started.asked) == (True, {"sn": 3})
    assert (await ann.ended(task_id))["state"] == "inspect_done"


async def test_what_is_no_number_is_not_kept(site: Gateway, ann: Client) -> None:
    site.worker.computed = {"inspect": {"gain": 1.5, "saturation": float("nan"), "list": [1, float("inf")]}}
    task = await ann.new_task()
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})
    config = (await ann.ended(task))["config"]
    assert (config["gain"], "saturation" in config) == (1.5, False)
    async with ann.session.get(f"{ann.url}/tasks/{task}/") as response:
        assert "NaN" not in await response.text()


def folder(site: Gateway, task_id: int) -> TaskDir:
    return site.app[keys.ROOT].task(task_id)


async def test_only_folders_that_say_so_are_swept(site: Gateway, ann: Client) -> None:
    coordinator = site.app[keys.COORDINATOR]
    task = await ann.new_task()
    of_another_store, half_made = folder(site, task + 1000), folder(site, task + 1001)
    for each in (of_another_store, half_made):
        each.create()
    orphans.disown(half_made)
    reconciler = Reconciler(
        site.app[keys.SETTINGS], coordinator.tasks, coordinator.root, coordinator, site.app[keys.FILES]._images
    )

    async def swept() -> bool:
        await reconciler.sweep(incoming_s=0)
        return not half_made.exists()

    await until(swept)
    assert of_another_store.exists()
    assert folder(site, task).exists()


async def test_a_folder_that_is_in_the_way_is_left_alone(site: Gateway, ann: Client) -> None:
    in_the_way = folder(site, await ann.new_task() + 1)
    in_the_way.create()
    (in_the_way.path / "precious").write_text("x")
    task = await ann.new_task()
    assert task == in_the_way.task_id + 1
    assert (in_the_way.path / "precious").exists()


async def test_background_work_that_dies_is_noticed(mongo_url: str, tmp_path: Path) -> None:
    store = Store(mongo_url)
    await store.collection("tokens").create_index([("used", 1)], expireAfterSeconds=1)  # in the way of ours
    settings = GatewaySettings(amqp_url="amqp://unused", mongo_url=mongo_url, data_dir=tmp_path)
    broken = asyncio.Event()
    runner = Runner(build_app(settings, store, MemoryBroker(), broken.set), access_log=None)
    await runner.setup()
    await asyncio.wait_for(broken.wait(), 10)
    await runner.cleanup()


async def test_without_a_broker_the_gateway_stays_ready(site: Gateway, ann: Client) -> None:
    url = site.url.removesuffix("/api") + "/readyz"

    async def answer() -> tuple[int, str]:
        async with ann.session.get(url) as response:
            return response.status, (await response.json())["status"]

    async def ready() -> bool:
        return await answer() == (200, "ok")

    await until(ready)
    site.broker.away = True
    assert await answer() == (200, "degraded")
    site.broker.away = False


async def test_metrics_are_those_of_one_registry(site: Gateway, ann: Client) -> None:
    await ann.ok("GET", "/tasks/")
    async with ann.session.get(site.url.removesuffix("/api") + "/metrics") as response:
        text = await response.text()
    assert 'stdweb_request_seconds_count{method="GET",status="200"}' in text
    assert "stdweb_steps_waiting" in text
    assert "process_resident_memory_bytes" in text
