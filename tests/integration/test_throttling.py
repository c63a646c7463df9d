"""Who guesses passwords is slowed down; who knows the password is not kept out by others."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.gateway import keys
from services.gateway.domain.throttle import _PAIR, Throttle
from services.gateway.model import now
from services.gateway.storage import Attempts
from tests.support.gateway import Gateway, gateway, until

HOME, AWAY = "192.0.2.10", "198.51.100.20"
FREE = 10  # wrong passwords for one account from one address, before the first wait


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(mongo_url, tmp_path, trusted_proxies="127.0.0.0/8") as running:
        await running.admin.add_user("ann", "right")
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=100)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


async def attempt(
    http: aiohttp.ClientSession, site: Gateway, name: str, password: str, address: str = HOME, *, way: str = "token"
) -> tuple[int, dict[str, Any], int]:
    """Log in; returns status, body, and how long to wait, seconds."""
    body, headers = {"username": name, "password": password}, {"X-Forwarded-For": address}
    async with http.post(f"{site.url}/auth/{way}/", json=body, headers=headers) as answer:
        return answer.status, await answer.json(), int(answer.headers.get("Retry-After", 0))


async def fail(site: Gateway, account: str, address: str, times: int) -> None:
    """Let an account have failed so often."""
    throttle = Throttle(Attempts(site.store))
    for _ in range(times):
        await throttle.failed(account, address)


async def later(site: Gateway, by: timedelta) -> None:
    """Let time pass for the counters."""
    attempts = site.store.collection("attempts")
    for doc in await attempts.find({}).to_list(None):
        await attempts.update_one({"_id": doc["_id"]}, {"$set": {"at": doc["at"] - by}})


@pytest.mark.parametrize("way", ["token", "login"])
async def test_repeated_failures_are_slowed_the_same_for_known_and_unknown(
    site: Gateway, http: aiohttp.ClientSession, way: str
) -> None:
    said = []
    for name in ("ann", "nobody"):
        for _ in range(FREE):
            status, answer, wait_s = await attempt(http, site, name, "wrong", way=way)
            assert (status, wait_s) == (400, 0)
        await fail(site, name, HOME, 6)
        status, answer, wait_s = await attempt(http, site, name, "wrong", way=way)
        assert status == 429
        assert 54 < wait_s <= 64
        said.append(answer["detail"].replace(str(wait_s), "N"))
    assert said == ["Too many failed logins. Try again in N s."] * 2
    # the other way in, and the right password, wait as well: it would be told apart from a wrong one
    assert (await attempt(http, site, "ann", "right", way="login" if way == "token" else "token"))[0] == 429


async def test_the_right_password_after_a_few_failures_begins_anew(site: Gateway, http: aiohttp.ClientSession) -> None:
    for _ in range(2):
        for _ in range(FREE - 1):
            assert (await attempt(http, site, "ann", "wrong"))[0] == 400
        assert (await attempt(http, site, "ann", "right"))[0] == 200


def test_the_wait_grows_to_a_bound() -> None:
    assert [_PAIR.wait_s(FREE + more) for more in (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10**6)] == [
        0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300
    ]  # fmt: skip


async def test_asking_too_early_does_not_prolong_the_wait(site: Gateway, http: aiohttp.ClientSession) -> None:
    await fail(site, "ann", HOME, FREE + 9)
    waits = [(await attempt(http, site, "ann", "right"))[2] for _ in range(5)]
    assert waits == sorted(waits, reverse=True)
    assert 290 < waits[0] <= 300
    await later(site, timedelta(seconds=300))
    assert (await attempt(http, site, "ann", "right"))[0] == 200


async def test_failures_are_forgotten(site: Gateway, http: aiohttp.ClientSession) -> None:
    await fail(site, "ann", HOME, FREE + 9)
    await later(site, timedelta(hours=1, seconds=1))
    assert (await attempt(http, site, "ann", "wrong"))[0] == 400


async def test_all_gateways_agree(site: Gateway, http: aiohttp.ClientSession, mongo_url: str, tmp_path: Path) -> None:
    await fail(site, "ann", HOME, FREE + 6)
    async with gateway(mongo_url, tmp_path / "other", trusted_proxies="127.0.0.1") as other:
        assert (await attempt(http, other, "ann", "right"))[0] == 429


async def test_an_attacker_elsewhere_does_not_keep_a_user_out(site: Gateway, http: aiohttp.ClientSession) -> None:
    assert (await attempt(http, site, "ann", "right", HOME))[0] == 200
    for number in range(60):
        await fail(site, "ann", f"203.0.113.{number}", 5)
    status, _, wait_s = await attempt(http, site, "ann", "guess", AWAY)
    assert status == 429
    assert 10 < wait_s <= 15
    assert (await attempt(http, site, "ann", "right", HOME))[0] == 200
    assert (await attempt(http, site, "other", "guess", AWAY))[0] == 400  # others wait for nothing
    await later(site, timedelta(seconds=15))
    assert (await attempt(http, site, "ann", "right", AWAY))[0] == 200


async def test_one_address_cannot_try_many_accounts(site: Gateway, http: aiohttp.ClientSession) -> None:
    assert (await attempt(http, site, "ann", "right", AWAY))[0] == 200
    for number in range(60):
        await fail(site, f"user{number}", AWAY, 1)
    status, _, wait_s = await attempt(http, site, "user99", "guess", AWAY)
    assert status == 429
    assert 50 < wait_s <= 60
    assert (await attempt(http, site, "user99", "guess", HOME))[0] == 400
    assert (await attempt(http, site, "ann", "right", AWAY))[0] == 200  # at home here
    # a success of the attacker's own does not begin anew
    assert (await attempt(http, site, "user99", "guess", AWAY))[0] == 429


async def test_many_guesses_at_once_get_no_more_through(site: Gateway, http: aiohttp.ClientSession) -> None:
    answers = await asyncio.gather(*(attempt(http, site, "ann", f"guess{number}") for number in range(40)))
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) == {400, 429}
    assert FREE <= statuses[400] <= FREE + 4  # two are checked at a time; a slow machine outlives a wait of 1 s


async def test_a_flood_is_told_to_come_back(site: Gateway, http: aiohttp.ClientSession) -> None:
    auth = site.app[keys.AUTH]
    async with auth._turn, auth._turn:  # whoever comes must wait
        crowd = [asyncio.create_task(auth.check_password("ann", "right", HOME)) for _ in range(200)]

        async def waiting() -> bool:
            return auth._waiting == len(crowd)

        await until(waiting)
        status, answer, wait_s = await attempt(http, site, "ann", "right")
        assert (status, wait_s) == (429, 5)
        assert "few seconds" in answer["detail"]
        for one in crowd:
            one.cancel()
        await asyncio.wait(crowd)
    assert (await attempt(http, site, "ann", "right"))[0] == 200


async def test_forwarded_addresses_of_strangers_do_not_count(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path) as site, aiohttp.ClientSession() as http:
        await fail(site, "ann", "127.0.0.1", FREE + 6)
        assert (await attempt(http, site, "ann", "guess", AWAY))[0] == 429


async def test_the_store_keeps_hashes_and_forgets_them(site: Gateway, http: aiohttp.ClientSession) -> None:
    await attempt(http, site, "x" * 100_000, "wrong")
    attempts = site.store.collection("attempts")
    docs = await attempts.find({}).to_list(None)
    assert [len(doc["_id"]) for doc in docs] == [64] * 3
    assert all(timedelta(minutes=50) < doc["expire"] - now() <= timedelta(hours=1) for doc in docs)
    indexes = await attempts.index_information()
    assert [index["key"] for index in indexes.values() if index.get("expireAfterSeconds") == 0] == [[("expire", 1)]]
