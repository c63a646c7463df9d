"""Telling an address of the end of a run: signed, at least once, and only where it may go."""

import asyncio
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from services.gateway.deliver import NotSent, Sender
from services.gateway.domain import runs
from services.gateway.domain.callbacks import Callbacks
from services.gateway.model import now
from services.gateway.routes.process import Ended
from services.gateway.storage import CallbackStore, Store, Tasks
from services.gateway.storage.callbacks import Due
from tests.support.archives.ca import Authority
from tests.support.gateway import Client, Gateway, gateway, until
from tests.support.receiver import Call, Receiver, receiver

SITE = {"callback_allow": "127.0.0.0/8", "callback_retry_s": 0.1, "callback_keep_trying_s": 20}


LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as running:
        yield running


async def _secret(client: Client) -> str:
    return (await client.ok("POST", "/callbacks/secret/"))["secret"]


async def _start(client: Client, task: int, url: str, *steps: str) -> str:
    body = {"steps": steps or ["inspect"], "callback_url": url}
    return (await client.ok("POST", f"/tasks/{task}/process/", json=body))["celery_id"]


async def _callback(client: Client, task: int, *states: str) -> dict[str, Any]:
    """Wait until the callback of the last run is in one of these states."""

    async def look() -> dict[str, Any] | None:
        callback = (await client.ok("GET", f"/tasks/{task}/runs/"))[0]["callback"]
        return callback if callback["state"] in states else None

    return await until(look)


async def _owed(site: Gateway) -> int:
    return len(await site.store.collection("callbacks").find({}).to_list(None))


def _right(call: Call, secret: str) -> bool:
    at = call.headers["X-STDWeb-Timestamp"]
    expected = hmac.new(secret.encode(), f"{at}.".encode() + call.body, hashlib.sha256).hexdigest()
    return call.headers["X-STDWeb-Signature"] == f"sha256={expected}"


async def test_the_end_of_a_run_is_told_and_signed(site: Gateway, ann: Client, there: Receiver) -> None:
    secret = await _secret(ann)
    task = await ann.new_task()
    run = await _start(ann, task, f"{there.url}?key=hidden", "inspect", "photometry")
    callback = await _callback(ann, task, "delivered")
    (call,) = there.calls
    assert (call.method, call.path, call.headers["Content-Type"]) == ("POST", "/done?key=hidden", "application/json")
    assert _right(call, secret)
    assert abs(int(call.headers["X-STDWeb-Timestamp"]) - time.time()) < 30
    told = json.loads(call.body)
    (row,) = await ann.ok("GET", f"/tasks/{task}/runs/")
    assert told == {
        "event_id": call.headers["X-STDWeb-Event"],
        "task_id": task,
        "run_id": run,
        "state": "photometry_done",
        "error": None,
        "created": row["created"],
        "ended": row["ended"],
    }
    Ended.model_validate(told)
    assert (callback["url"], callback["attempts"], callback["problem"]) == (there.url, 1, None)
    (kept,) = await site.store.collection("callbacks").find({}).to_list(None)
    assert not {"url", "body", "due"} & kept.keys()  # what may be secret goes when it is not needed any more


async def test_others_see_only_where_it_goes(site: Gateway, there: Receiver) -> None:
    async with site.client("eve", groups=["survey"]) as eve, site.client("bob", groups=["survey"]) as bob:
        await _secret(eve)
        task = await eve.new_task(groups="survey")
        await _start(eve, task, f"{there.url}/T0/B1/secret")
        callback = await _callback(eve, task, "delivered")
        assert callback["url"] == f"{there.url}/T0/B1/secret"
        (row,) = await bob.ok("GET", f"/tasks/{task}/runs/")
        assert row["callback"] == {**callback, "url": there.url.removesuffix("done")}


async def test_how_runs_end_otherwise_is_told_too(site: Gateway, ann: Client, there: Receiver) -> None:
    await _secret(ann)
    site.worker.fail, site.worker.hold = {"inspect": "no image plane"}, {"photometry"}
    task = await ann.new_task()
    await _start(ann, task, there.url)
    await _callback(ann, task, "delivered")
    await _start(ann, task, there.url, "photometry")
    await ann.ok("POST", f"/tasks/{task}/cancel/")
    await _callback(ann, task, "delivered")
    await _start(ann, task, there.url, "photometry")
    await ann.ok("DELETE", f"/tasks/{task}/")
    await until(lambda: _called(there, 3))
    told = [json.loads(call.body) for call in there.calls]
    assert [(each["state"], each["error"]) for each in told] == [
        ("inspect_failed", "no image plane"),
        ("cancelled", None),
        ("cancelled", None),
    ]


async def _called(there: Receiver, times: int) -> bool:
    return len(there.calls) >= times


async def test_what_fails_is_sent_again_later_and_later_until_it_is_taken(
    site: Gateway, ann: Client, there: Receiver
) -> None:
    secret = await _secret(ann)
    there.answers = [500, 302, 404]
    task = await ann.new_task()
    await _start(ann, task, there.url)
    callback = await _callback(ann, task, "pending")
    assert callback["attempts"] <= 3
    callback = await _callback(ann, task, "delivered")
    assert callback["attempts"] == 4
    assert len({call.headers["X-STDWeb-Event"] for call in there.calls}) == 1
    assert {call.body for call in there.calls} == {there.calls[0].body}
    assert all(_right(call, secret) for call in there.calls)
    assert there.at("/elsewhere") == []  # redirects are not followed


async def test_what_is_gone_is_given_up_at_once(site: Gateway, ann: Client, there: Receiver) -> None:
    await _secret(ann)
    there.answers = [410]
    task = await ann.new_task()
    await _start(ann, task, there.url)
    callback = await _callback(ann, task, "given_up", "delivered")
    assert (callback["state"], callback["attempts"], callback["problem"]) == ("given_up", 1, "the answer was 410")


async def test_what_never_works_is_given_up_in_the_end(mongo_url: str, tmp_path: Path, there: Receiver) -> None:
    settings = {"callback_allow": "127.0.0.0/8", "callback_retry_s": 0.1, "callback_keep_trying_s": 0.5}
    async with gateway(mongo_url, tmp_path, **settings) as site, site.client("ann") as ann:
        await _secret(ann)
        there.answers = [500] * 100
        task = await ann.new_task()
        await _start(ann, task, there.url)
        callback = await _callback(ann, task, "given_up")
    # after 0.1, 0.2 s and so on, within a fifth
    assert 2 <= callback["attempts"] <= 4
    assert callback["problem"] == "the answer was 500"


async def test_a_gateway_that_died_at_the_end_of_a_run_loses_nothing(
    site: Gateway, ann: Client, there: Receiver
) -> None:
    await _secret(ann)
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    await _start(ann, task, there.url)
    tasks = Tasks(site.store)
    running = await tasks.get(task)
    assert running is not None
    ended = runs.end_cancel(running, now())
    assert ended is not None
    await tasks.swap(running, ended)  # written, and dead
    await _callback(ann, task, "delivered")
    assert json.loads(there.calls[0].body)["state"] == "cancelled"


async def test_a_gateway_that_died_in_an_attempt_loses_nothing(site: Gateway, ann: Client, there: Receiver) -> None:
    await _secret(ann)
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    run = await _start(ann, task, there.url)
    store, at = CallbackStore(site.store), now()
    # due far in the future here: nobody but the one who dies may take it meanwhile
    later = at + timedelta(hours=1)
    assert await store.wake(run, "{}", later)
    assert await store.claim(Due(run, "ann", later), at + timedelta(seconds=0.5)) is not None
    assert await store.claim(Due(run, "ann", later), at + timedelta(seconds=0.5)) is None
    callback = await _callback(ann, task, "delivered")
    assert callback["attempts"] == 2
    assert now() - at >= timedelta(seconds=0.5)


async def test_several_gateways_send_it_once(mongo_url: str, tmp_path: Path, there: Receiver) -> None:
    settings = {"callback_allow": "127.0.0.0/8"}
    async with (
        gateway(mongo_url, tmp_path, **settings) as one,
        gateway(mongo_url, tmp_path, **settings),
        one.client("ann") as ann,
    ):
        await _secret(ann)
        created = [await ann.new_task() for _ in range(10)]
        for task in created:
            await _start(ann, task, there.url)
        for task in created:
            await _callback(ann, task, "delivered")
    assert len(there.calls) == len({call.headers["X-STDWeb-Event"] for call in there.calls}) == 10


async def test_one_who_hangs_does_not_keep_others_waiting(site: Gateway, ann: Client, there: Receiver) -> None:
    await _secret(ann)
    for _ in range(6):
        await _start(ann, await ann.new_task(), f"http://127.0.0.1:{there.port}/hang")
    await until(lambda: _called(there, 4))
    async with site.client("bob") as bob:
        await _secret(bob)
        task = await bob.new_task()
        await _start(bob, task, there.url)
        await _callback(bob, task, "delivered")
    assert len(there.at("/hang")) == 4


async def test_one_with_thousands_does_not_hide_what_others_are_owed(mongo_url: str) -> None:
    at = now() - timedelta(minutes=1)
    rows = [{"_id": f"r{number}", "user": "crowd", "due": at} for number in range(1500)]
    rows.append({"_id": "last", "user": "bob", "due": at + timedelta(seconds=1)})
    store = Store(mongo_url)
    await store.prepare()
    await store.collection("callbacks").insert_many(rows)
    due = await Callbacks(CallbackStore(store), Tasks(store)).due()
    store.close()
    assert [item.run_id for item in due if item.user == "bob"] == ["last"]
    assert len(due) <= 1001


async def test_nothing_is_queued_for_a_bad_address(site: Gateway, ann: Client) -> None:
    task = await ann.new_task()
    for url, word in [
        ("http://example.org/", "POST /api/callbacks/secret/"),
        ("ftp://example.org/", "http"),
        ("http://10.0.0.1/", "public"),
        ("http://user:pw@example.org/", "password"),
        (17, "string"),
        ("http://example.org/" + "x" * 2048, "2048"),
    ]:
        body = {"steps": ["inspect"], "callback_url": url}
        status, answer = await ann.call("POST", f"/tasks/{task}/process/", json=body)
        assert (status, list(answer["errors"])) == (400, ["callback_url"])
        assert word in answer["errors"]["callback_url"][0]
    assert (await ann.ok("GET", f"/tasks/{task}/state/"))["state"] == "uploaded"
    assert (await _owed(site), site.worker.seen) == (0, [])


async def test_runs_that_did_not_begin_owe_nothing(site: Gateway, ann: Client, there: Receiver) -> None:
    await _secret(ann)
    site.worker.hold = {"inspect"}
    task = await ann.new_task()
    site.broker.mute = True  # takes the step, but does not say so
    body = {"steps": ["inspect"], "callback_url": there.url}
    assert (await ann.call("POST", f"/tasks/{task}/process/", json=body))[0] == 503
    assert await _owed(site) == 0
    site.broker.mute = False
    answers = await asyncio.gather(*(ann.call("POST", f"/tasks/{task}/process/", json=body) for _ in range(5)))
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409, 409]
    assert await _owed(site) == 1
    other = await ann.new_task()
    await ann.ok("POST", f"/tasks/{other}/process/", json={"steps": ["photometry"]})
    assert (await ann.ended(other))["state"] == "photometry_done"
    assert (await ann.ok("GET", f"/tasks/{other}/runs/"))[0]["callback"] is None
    assert await _owed(site) == 1


async def test_secrets_are_shown_once_and_replaced(site: Gateway, ann: Client, there: Receiver) -> None:
    first = await _secret(ann)
    second = await site.admin.new_secret("ann")
    assert len({first, second}) == 2
    assert min(len(first), len(second)) >= 32
    task = await ann.new_task()
    await _start(ann, task, there.url)
    await _callback(ann, task, "delivered")
    assert _right(there.calls[0], second)
    assert not _right(there.calls[0], first)
    assert (await ann.call("GET", "/callbacks/secret/"))[0] == 405


# ---- where it goes


class Names:
    """A name server that gives another answer each time, as an attacker's would."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = [*answers]
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0)


async def test_the_address_that_was_checked_is_the_one_that_is_called(there: Receiver) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    sender = Sender(LOOPBACK, names)
    assert await sender.post(f"http://receiver.example:{there.port}/done", b"{}", {}) == 200
    assert names.asked == [("receiver.example", there.port)]  # once
    assert there.calls[0].headers["Host"] == f"receiver.example:{there.port}"


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["::1"], ["64:ff9b::7f00:1"], ["fe80::1%lo"]],
)
async def test_names_that_lead_inside_are_not_called(there: Receiver, addresses: list[str]) -> None:
    sender = Sender((), Names(addresses))
    with pytest.raises(NotSent, match="not public"):
        await sender.post(f"http://receiver.example:{there.port}/done", b"{}", {})
    assert there.calls == []


@pytest.mark.parametrize("host", ["xn--bcher-kva.example", "Tests.EXAMPLE"])
async def test_names_in_every_spelling_are_called(there: Receiver, host: str) -> None:
    names = Names(["127.0.0.1"])
    assert await Sender(LOOPBACK, names).post(f"http://{host}:{there.port}/done", b"{}", {}) == 200
    assert names.asked == [(host.lower(), there.port)]


async def test_what_the_system_resolves_is_checked_too(there: Receiver) -> None:
    with pytest.raises(NotSent, match="not public"):
        await Sender().post(f"http://localhost:{there.port}/done", b"{}", {})
    with pytest.raises(NotSent, match="public address"):
        await Sender().post(there.url, b"{}", {})
    assert there.calls == []


async def test_no_proxy_is_used(there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await Sender(LOOPBACK).post(there.url, b"{}", {}) == 200
        assert (len(there.calls), proxy.calls) == (1, [])


async def test_answers_are_bounded_in_time_and_length(there: Receiver) -> None:
    base = f"http://127.0.0.1:{there.port}"
    assert await Sender(LOOPBACK).post(f"{base}/endless", b"{}", {}) == 200
    with pytest.raises(NotSent, match=r"no answer within 0\.3 s"):
        await Sender(LOOPBACK, total_s=0.3).post(f"{base}/hang", b"{}", {})


async def test_what_is_not_there_or_no_http_is_said(there: Receiver) -> None:
    port = there.port
    async with receiver() as closed:
        pass
    with pytest.raises(NotSent, match="could not connect"):
        await Sender(LOOPBACK).post(closed.url, b"{}", {})
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NotSent, match="cut off"):
            await Sender(LOOPBACK).post(f"http://127.0.0.1:{port}/", b"{}", {})


async def test_the_name_is_what_the_certificate_must_have(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trust = ssl.create_default_context(cafile=str(authority.bundle))
    async with receiver(authority.context_for("receiver.example")) as there:
        for host, good in (("receiver.example", True), ("other.example", False)):
            sender = Sender(LOOPBACK, Names(["127.0.0.1"]), trust)
            posted = sender.post(f"https://{host}:{there.port}/done", b"{}", {})
            if good:
                assert await posted == 200
            else:
                with pytest.raises(NotSent, match="certificate"):
                    await posted
        with pytest.raises(NotSent, match="certificate"):  # an authority that nobody knows
            await Sender(LOOPBACK, Names(["127.0.0.1"])).post(f"https://receiver.example:{there.port}/", b"{}", {})
        assert len(there.calls) == 1
