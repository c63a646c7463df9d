"""Browsers: log in, be known by the cookie, prove where a request comes from, log out."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from services.gateway import keys
from services.gateway.model import now
from services.gateway.routes.auth import LoggedIn
from shared.settings import GatewaySettings
from tests.support.gateway import Gateway, gateway


@dataclass
class Answer:
    """What came back."""

    status: int
    content: Any
    headers: Any

    @property
    def cookies(self) -> dict[str, Morsel[str]]:
        found: SimpleCookie = SimpleCookie()
        for line in self.headers.getall("Set-Cookie", ()):
            found.load(line)
        return dict(found)


@dataclass
class Browser:
    """Sends its cookies, and what a test wants to send besides."""

    url: str
    http: aiohttp.ClientSession
    cookies: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> Answer:
        sent = dict(headers or {})
        if self.cookies:
            sent.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        async with self.http.request(method, self.url + path, headers=sent, **options) as response:
            text = await response.text()
            return Answer(response.status, json.loads(text) if text else None, response.headers)

    async def login(self, name: str = "ann", password: str = "right", **headers: str) -> Answer:
        answer = await self.call("POST", "/auth/login/", json={"username": name, "password": password}, headers=headers)
        self.cookies |= {name: morsel.value for name, morsel in answer.cookies.items()}
        return answer

    @property
    def proof(self) -> dict[str, str]:
        return {"X-CSRFToken": self.cookies["csrftoken"]}


@asynccontextmanager
async def browsing(url: str) -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield Browser(url, http)


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(mongo_url, tmp_path) as running:
        await running.admin.add_user("ann", "right", groups=["survey"])
        await running.admin.add_user("bob", "other")
        yield running


@pytest.fixture
async def browser(site: Gateway) -> AsyncIterator[Browser]:
    async with browsing(site.url) as one:
        yield one


def forget(site: Gateway) -> None:
    """What the gateway knows of sessions is at most 5 s old; here it asks at once."""
    site.app[keys.SESSIONS]._cache.clear()


async def test_log_in_work_log_out(site: Gateway, browser: Browser) -> None:
    answer = await browser.login()
    assert answer.status == 200
    assert LoggedIn.model_validate(answer.content).model_dump() == {
        "user": "ann",
        "is_staff": False,
        "groups": ["survey"],
        "csrftoken": browser.cookies["csrftoken"],
    }
    assert answer.headers["Cache-Control"] == "no-store"
    session, proof = answer.cookies["sessionid"], answer.cookies["csrftoken"]
    assert (session["httponly"], session["samesite"], session["path"], session["secure"]) == (True, "Lax", "/", "")
    assert (proof["httponly"], proof["samesite"], proof["secure"]) == ("", "Lax", "")
    assert (await browser.call("GET", "/tasks/")).content == []
    made = await browser.call("POST", "/tasks/", json={"original_name": "a"}, headers=browser.proof)
    assert (made.status, made.content["user"]) == (201, "ann")
    out = await browser.call("POST", "/auth/logout/", headers=browser.proof)
    assert (out.status, {name: cookie.value for name, cookie in out.cookies.items()}) == (
        204,
        {"sessionid": "", "csrftoken": ""},
    )
    after = await browser.call("GET", "/tasks/")
    assert (after.status, after.headers["WWW-Authenticate"]) == (401, "Token")
    assert "log in again" in after.content["detail"]
    assert await site.store.collection("sessions").find({}).to_list(None) == []


async def test_a_form_will_do_and_a_wrong_password_will_not(browser: Browser) -> None:
    answer = await browser.call("POST", "/auth/login/", data={"username": "ann", "password": "right"})
    assert answer.status == 200
    for name in ("ann", "nobody"):
        answer = await browser.login(name, "wrong")
        assert (answer.status, answer.cookies) == (400, {})
        assert answer.content["detail"] == "Unable to log in with provided credentials."
    for body in ({}, {"username": "ann"}, {"username": ["ann"], "password": 3}, {"username": "ann", "password": ""}):
        answer = await browser.call("POST", "/auth/login/", json=body)
        assert (answer.status, "password" in answer.content["errors"]) == (400, True)
    answer = await browser.call("POST", "/auth/login/", data=b"a=b", headers={"Content-Type": "text/plain"})
    assert answer.status == 415


async def test_the_store_has_hashes_only_and_every_login_its_own_id(site: Gateway, browser: Browser) -> None:
    await browser.login()
    first = dict(browser.cookies)
    await browser.login()
    assert browser.cookies["sessionid"] != first["sessionid"]
    assert browser.cookies["csrftoken"] != first["csrftoken"]
    kept = await site.store.collection("sessions").find({}).to_list(None)
    assert len(kept) == 1  # the login ended the one before
    assert browser.cookies["sessionid"] not in json.dumps(kept, default=str)
    assert browser.cookies["csrftoken"] not in json.dumps(kept, default=str)
    browser.cookies = first
    assert (await browser.call("GET", "/tasks/")).status == 401


async def test_an_id_that_somebody_planted_is_not_taken(browser: Browser) -> None:
    planted = "A" * 43
    browser.cookies = {"sessionid": planted}
    assert (await browser.login()).status == 200
    assert browser.cookies["sessionid"] != planted
    browser.cookies = {"sessionid": planted}
    assert (await browser.call("GET", "/tasks/")).status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/tasks/"), ("PATCH", "/tasks/1/"), ("DELETE", "/tasks/1/"), ("POST", "/auth/logout/")],
)
async def test_unsafe_methods_need_the_proof(browser: Browser, method: str, path: str) -> None:
    await browser.login()
    async with browsing(browser.url) as other:
        await other.login("bob", "other")
        foreign = other.cookies["csrftoken"]
    own = browser.cookies["csrftoken"]
    for proof in ("", "x", own[:-1], own.upper(), foreign, "é" * 64):
        answer = await browser.call(method, path, json={"original_name": "a"}, headers={"X-CSRFToken": proof})
        assert answer.status == 403, proof
        assert "csrftoken" in answer.content["detail"]
    # a cookie that another host of the domain has planted proves nothing
    browser.cookies["csrftoken"] = foreign
    assert (await browser.call(method, path, headers={"X-CSRFToken": foreign})).status == 403
    answer = await browser.call(method, path, json={}, headers={"X-CSRFToken": own})
    assert answer.status in {204, 400, 404}  # through to the route


async def test_safe_methods_need_none(browser: Browser) -> None:
    await browser.login()
    for method in ("GET", "HEAD", "OPTIONS"):
        assert (await browser.call(method, "/tasks/")).status == 200


async def test_pages_of_other_sites_are_refused(site: Gateway, browser: Browser) -> None:
    await browser.login()
    where = urlsplit(site.url)
    own, foreign = f"http://{where.netloc}", "https://evil.example"
    for origin, status in ((own, 201), (foreign, 403), ("null", 403)):
        answer = await browser.call(
            "POST", "/tasks/", json={"original_name": "a"}, headers={**browser.proof, "Origin": origin}
        )
        assert answer.status == status, origin
    refused = await browser.login(Origin=foreign)  # would log the browser in as somebody else
    assert (refused.status, refused.cookies) == (403, {})
    assert "another site" in refused.content["detail"]
    assert (await browser.login(Origin=own)).status == 200


async def test_a_header_decides_and_needs_no_proof(site: Gateway, browser: Browser) -> None:
    token = await site.admin.create_token("bob")
    await browser.login()
    header = {"Authorization": f"Token {token}"}
    made = await browser.call("POST", "/tasks/", json={"original_name": "a"}, headers=header)
    assert (made.status, made.content["user"]) == (201, "bob")
    for bad in ("Token nonsense", "Bearer x", "Basic YTpi"):
        answer = await browser.call("GET", "/tasks/", headers={"Authorization": bad})
        assert answer.status == 401, bad
    answer = await browser.call("POST", "/auth/logout/", headers=header)
    assert (answer.status, "no session" in answer.content["detail"]) == (400, True)
    assert (await browser.call("GET", "/tasks/")).status == 200


async def test_a_site_with_tls(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path, site_url="https://site.example") as site, browsing(site.url) as browser:
        await site.admin.add_user("ann", "right")
        answer = await browser.login(Origin="https://site.example")
        assert all(cookie["secure"] for cookie in answer.cookies.values())
        host = urlsplit(site.url).netloc
        answer = await browser.call("POST", "/tasks/", headers={**browser.proof, "Origin": f"http://{host}"})
        assert answer.status == 403


@pytest.mark.parametrize("url", ["site.example", "https://site.example/", "ftp://site.example", "https://a@b"])
def test_an_address_that_no_browser_sends_stops_the_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="site_url"):
        GatewaySettings(amqp_url="amqp://x", mongo_url="mongodb://x", data_dir=tmp_path, site_url=url)


async def test_unused_and_old_sessions_end(site: Gateway, browser: Browser) -> None:
    settings, sessions = site.app[keys.SETTINGS], site.store.collection("sessions")
    idle, longest = timedelta(seconds=settings.session_idle_s), timedelta(seconds=settings.session_longest_s)
    await browser.login()
    begun = await sessions.find_one({})
    assert abs(begun["expire"] - begun["created"] - idle) < timedelta(seconds=1)
    for _ in range(5):
        forget(site)
        assert (await browser.call("GET", "/tasks/")).status == 200
    assert await sessions.find_one({}) == begun  # no write a request

    await sessions.update_one({}, {"$set": {"expire": now() + idle * 0.9}})
    forget(site)
    assert (await browser.call("GET", "/tasks/")).status == 200
    assert abs((await sessions.find_one({}))["expire"] - now() - idle) < timedelta(seconds=5)

    created = now() - longest + timedelta(hours=1)
    await sessions.update_one({}, {"$set": {"created": created, "expire": now() + timedelta(minutes=1)}})
    forget(site)
    assert (await browser.call("GET", "/tasks/")).status == 200
    await sessions.update_one({}, {"$set": {"expire": now() - timedelta(seconds=1)}})
    forget(site)
    assert (await browser.call("GET", "/tasks/")).status == 401


async def test_the_store_forgets_sessions_by_itself(site: Gateway) -> None:
    indexes = await site.store.collection("sessions").index_information()
    assert [index["key"] for index in indexes.values() if index.get("expireAfterSeconds") == 0] == [[("expire", 1)]]


async def test_a_session_ends_soon_after_it_is_over_by_the_cache_too(mongo_url: str, tmp_path: Path) -> None:
    async with gateway(mongo_url, tmp_path, session_idle_s=30, session_longest_s=0.2) as site:
        await site.admin.add_user("ann", "right")
        async with browsing(site.url) as browser, asyncio.timeout(3):  # less than the cache keeps
            await browser.login()
            while (await browser.call("GET", "/tasks/")).status == 200:
                await asyncio.sleep(0.02)


async def test_a_new_password_ends_sessions_and_changed_users_are_noticed(site: Gateway, browser: Browser) -> None:
    await browser.login()
    async with browsing(site.url) as other:
        await other.login("bob", "other")
        await site.admin.set_user("bob", is_staff=True)
        await site.admin.set_password("ann", "new")
        forget(site)
        assert (await browser.call("GET", "/tasks/")).status == 401
        await browser.call("POST", "/auth/login/", json={"username": "ann", "password": "new"})
        async with site.client("carol") as carol:
            await carol.ok("POST", "/tasks/", json={"original_name": "hers"})
        assert [task["user"] for task in (await other.call("GET", "/tasks/")).content] == ["carol"]


@pytest.mark.parametrize(
    "cookie",
    [
        b"sessionid",
        b"sessionid=",
        b"sessionid=\xff\xfe",
        b'sessionid="a;b"; =; ;;; $Version=1',
        b'sessionid="',
        b"sessionid=" + b"A" * 7000,
        b"; ".join(b"c%d=1" % number for number in range(900)),
        b"sessionid=a\tb",
        b"sessionid={'$ne': null}",
        b"sessionid[$ne]=x",
        b"__proto__=x; sessionid=../../etc",
    ],
)
async def test_odd_cookies_are_nobodys(site: Gateway, cookie: bytes) -> None:
    status, body = await raw(site.url, b"GET /api/tasks/ HTTP/1.1", b"Cookie: " + cookie)
    assert status == 401
    assert "detail" in json.loads(body)


@pytest.mark.parametrize(
    "line",
    [
        b"Cookie: a=b\x00c",
        b"Authorization: Token a\x00b",
        b"X-Request-ID: a\rSet-Cookie: sessionid=x",
        b"X-CSRFToken: a\x01",
        b"Authorization : Token x",
        b" folded: x",
    ],
)
async def test_damaged_headers_are_a_bad_request(site: Gateway, line: bytes) -> None:
    status, body = await raw(site.url, b"GET /api/tasks/ HTTP/1.1", line)
    assert status in {400, 401}
    assert "detail" in json.loads(body)


async def test_nothing_that_is_sent_comes_back_as_a_header(browser: Browser) -> None:
    for name in ("x\r\nSet-Cookie: sessionid=planted", "\0", "\ud800", "😀" * 300, "$where", "a" * 100_000):
        body = json.dumps({"username": name, "password": name})
        headers = {"Content-Type": "application/json", "X-Request-ID": "x%0d%0aSet-Cookie:a=b"}
        answer = await browser.call("POST", "/auth/login/", data=body, headers=headers)
        assert (answer.status, answer.cookies) == (400, {})
        assert "%" not in answer.headers["X-Request-ID"]


async def raw(url: str, *head: bytes) -> tuple[int, bytes]:
    """Send a request as it is; returns status and body."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(b"\r\n".join([*head, b"Host: x", b"Connection: close", b"", b""]))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    start, _, body = answer.partition(b"\r\n\r\n")
    assert b"planted" not in start
    return int(start.split()[1]), body
