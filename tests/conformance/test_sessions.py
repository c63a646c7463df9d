"""Sessions of browsers: login, logout, and X-CSRFToken with unsafe methods."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.conformance import Site, check_error, check_ok

UNSAFE = ("POST", "PATCH", "PUT", "DELETE")


@pytest.fixture
def browser(site: Site) -> Iterator[httpx.Client]:
    """Logged in, with its cookies."""
    name, password = site.credentials("owner")
    with site.client() as client:
        check_ok(client.post("/auth/login/", json={"username": name, "password": password}))
        yield client


def proof(browser: httpx.Client) -> dict[str, str]:
    return {"X-CSRFToken": browser.cookies["csrftoken"]}


@pytest.mark.parametrize("kind", ["json", "data"])
def test_login_by_json_or_form_sets_cookies(site: Site, anonymous: httpx.Client, kind: str) -> None:
    name, password = site.credentials("staff")
    body: dict[str, Any] = {kind: {"username": name, "password": password}}
    answer = anonymous.post("/auth/login/", **body)
    said = check_ok(answer)
    assert (said["user"], said["is_staff"]) == (name, True)
    cookies = {line.partition("=")[0]: line.lower() for line in answer.headers.get_list("set-cookie")}
    assert set(cookies) == {"sessionid", "csrftoken"}
    assert "httponly" in cookies["sessionid"]
    assert all("samesite=" in line for line in cookies.values())
    assert said["csrftoken"] == anonymous.cookies["csrftoken"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_wrong_login_is_400_with_the_same_message_for_unknown_users(
    site: Site, outsider: httpx.Client, slash: str
) -> None:
    said = {
        check_error(outsider.post(f"/auth/login{slash}", json={"username": name, "password": "wrong"}), 400)["detail"]
        for name in (site.credentials("stranger")[0], "nobody of this name")
    }
    assert len(said) == 1
    assert "sessionid" not in outsider.cookies


def test_missing_fields_are_400_that_names_them(anonymous: httpx.Client) -> None:
    check_error(anonymous.post("/auth/login/", json={}), 400, "username", "password")


def test_the_session_cookie_is_accepted(site: Site, browser: httpx.Client) -> None:
    rows = check_ok(browser.get("/tasks/"))
    assert {row["user"] for row in rows} <= {site.credentials("owner")[0]}
    assert browser.head("/tasks/").status_code == 200


def test_unsafe_methods_need_x_csrftoken(browser: httpx.Client) -> None:
    check_error(browser.post("/tasks/", json={"original_name": "x"}), 403)
    for method in UNSAFE[1:]:
        check_error(browser.request(method, "/tasks/999999999/", json={}), 403)
    check_error(browser.request("POST", "/auth/logout/"), 403)
    check_ok(browser.get("/tasks/"))  # still logged in


def test_with_x_csrftoken_unsafe_methods_work(browser: httpx.Client) -> None:
    task = check_ok(browser.post("/tasks/", json={"original_name": "x"}, headers=proof(browser)), 201)
    check_ok(browser.patch(f"/tasks/{task['id']}/", json={"title": "t"}, headers=proof(browser)))
    assert browser.delete(f"/tasks/{task['id']}/", headers=proof(browser)).status_code == 204


@pytest.mark.parametrize("value", ["", "wrong", "0" * 64, "é".encode()])
def test_a_wrong_x_csrftoken_is_403(browser: httpx.Client, value: Any) -> None:
    check_error(browser.post("/tasks/", json={"original_name": "x"}, headers={"X-CSRFToken": value}), 403)


def test_the_csrftoken_of_another_session_is_403(site: Site, browser: httpx.Client) -> None:
    name, password = site.credentials("stranger")
    with site.client() as other:
        check_ok(other.post("/auth/login/", json={"username": name, "password": password}))
        check_error(browser.post("/tasks/", json={"original_name": "x"}, headers=proof(other)), 403)


def test_a_page_of_another_site_is_403(site: Site, browser: httpx.Client, anonymous: httpx.Client) -> None:
    headers = {"Origin": "https://evil.example"}
    check_error(browser.post("/tasks/", json={"original_name": "x"}, headers=proof(browser) | headers), 403)
    name, password = site.credentials("owner")
    login = {"username": name, "password": password}
    check_error(anonymous.post("/auth/login/", json=login, headers=headers), 403)


def test_a_token_beside_the_cookie_needs_no_proof(browser: httpx.Client, owner: httpx.Client) -> None:
    headers = {"Authorization": owner.headers["Authorization"]}
    task = check_ok(browser.post("/tasks/", json={"original_name": "x"}, headers=headers), 201)
    assert owner.delete(f"/tasks/{task['id']}/").status_code == 204


def test_logout_ends_the_session(site: Site, browser: httpx.Client) -> None:
    session = browser.cookies["sessionid"]
    assert browser.post("/auth/logout/", headers=proof(browser)).status_code in {200, 204}
    assert "sessionid" not in browser.cookies
    with site.client(cookies={"sessionid": session}) as later:
        answer = later.get("/tasks/")
    check_error(answer, 401)
    assert answer.headers["www-authenticate"] == "Token"


@pytest.mark.parametrize("session", ["wrong", "a" * 43, ""])
def test_an_unknown_session_is_401(site: Site, session: str) -> None:
    with site.client(cookies={"sessionid": session}) as client:
        check_error(client.get("/tasks/"), 401)


def test_each_login_begins_a_session_of_its_own(site: Site, browser: httpx.Client) -> None:
    first = browser.cookies["sessionid"]
    name, password = site.credentials("owner")
    check_ok(browser.post("/auth/login/", json={"username": name, "password": password}, headers=proof(browser)))
    assert browser.cookies["sessionid"] != first


def test_logout_without_login_is_401(anonymous: httpx.Client) -> None:
    check_error(anonymous.post("/auth/logout/"), 401)
