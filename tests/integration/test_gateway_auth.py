"""The REST API: who gets in."""

import json
import time

import aiohttp
import pytest

from services.gateway import keys
from services.gateway.domain.errors import Unauthenticated
from tests.support.gateway import Gateway


async def test_login_gives_a_token_that_works(site: Gateway) -> None:
    await site.admin.add_user("ann", "right")
    async with aiohttp.ClientSession() as session:
        for body in (
            {"data": {"username": "ann", "password": "right"}},
            {"json": {"username": "ann", "password": "right"}},
        ):
            async with session.post(f"{site.url}/auth/token/", **body) as response:
                assert response.status == 200
                token = (await response.json())["token"]
            async with session.get(f"{site.url}/tasks/", headers={"Authorization": f"Token {token}"}) as response:
                assert (response.status, await response.json()) == (200, [])


async def test_unknown_user_and_wrong_password_look_the_same(site: Gateway) -> None:
    await site.admin.add_user("ann", "right")
    answers: list[tuple[int, str]] = []
    seconds: dict[str, list[float]] = {"ann": [], "nobody": []}
    async with aiohttp.ClientSession() as session:
        for _ in range(8):
            for name, took in seconds.items():
                began = time.perf_counter()
                async with session.post(
                    f"{site.url}/auth/token/", data={"username": name, "password": "wrong"}
                ) as response:
                    answers.append((response.status, (await response.json())["detail"]))
                took.append(time.perf_counter() - began)
    assert len(set(answers)) == 1
    assert answers[0][0] == 400
    # without hashing, one would be faster by a factor of ten and more
    fastest = [min(took) for took in seconds.values()]
    assert max(fastest) < 4 * min(fastest)


@pytest.mark.parametrize("body", [{}, {"username": "ann"}, {"username": ["ann"], "password": 3}])
async def test_login_without_name_or_password(site: Gateway, body: dict) -> None:
    async with aiohttp.ClientSession() as session, session.post(f"{site.url}/auth/token/", json=body) as response:
        assert response.status == 400
        assert "password" in (await response.json())["errors"]


@pytest.mark.parametrize("header", [None, "Token", "Token nonsense", "Bearer abc", "Token \u00e9"])
async def test_without_a_known_token_nobody_gets_in(site: Gateway, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        for path in ("/tasks/", "/tasks/1/state/", "/queue/", "/nothing/"):
            async with session.get(site.url + path) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Token"
                assert (await response.json())["detail"]
        async with session.get(f"{site.url}/reference/") as response:
            assert list(await response.json()) == ["filters", "catalogs", "templates"]


async def test_tokens_are_kept_as_hashes_and_can_be_revoked(site: Gateway) -> None:
    await site.admin.add_user("ann")
    token = await site.admin.create_token("ann")
    stored = await site.store.collection("tokens").find({}).to_list(None)
    assert token not in json.dumps(stored, default=str)
    auth = site.app[keys.AUTH]
    assert (await auth.user(f"Token {token}")).name == "ann"
    assert await site.admin.revoke_tokens("ann") == 1
    auth._cache.clear()
    with pytest.raises(Unauthenticated, match="Invalid token"):
        await auth.user(f"Token {token}")
