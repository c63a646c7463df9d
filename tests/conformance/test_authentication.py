"""Authentication: tokens."""

import statistics
import time
import uuid

import httpx
import pytest

from tests.support.conformance import Site, check_error, check_ok

WRONG = "not the password"


def test_token_for_a_form(site: Site, anonymous: httpx.Client) -> None:
    name, password = site.credentials("owner")
    answer = check_ok(anonymous.post("/auth/token/", data={"username": name, "password": password}))
    assert set(answer) == {"token"}
    check_ok(anonymous.get("/tasks/", headers={"Authorization": f"Token {answer['token']}"}))


def test_token_for_json(site: Site, anonymous: httpx.Client) -> None:
    name, password = site.credentials("owner")
    assert check_ok(anonymous.post("/auth/token/", json={"username": name, "password": password}))["token"]


def test_token_for_a_multipart_form(site: Site, anonymous: httpx.Client) -> None:
    name, password = site.credentials("owner")
    form = {"username": (None, name), "password": (None, password)}
    assert check_ok(anonymous.post("/auth/token", files=form))["token"]


def test_each_call_issues_a_new_token_and_earlier_ones_stay_valid(site: Site, anonymous: httpx.Client) -> None:
    name, password = site.credentials("owner")
    form = {"username": name, "password": password}
    first, second = (check_ok(anonymous.post("/auth/token/", data=form))["token"] for _ in range(2))
    assert first != second
    for token in (first, second):
        check_ok(anonymous.get("/tasks/", headers={"Authorization": f"Token {token}"}))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, ("username", "password")),
        ({"username": "nobody"}, ("password",)),
        ({"password": "x"}, ("username",)),
        ({"username": "", "password": "x"}, ("username",)),
    ],
)
def test_missing_name_or_password_is_400_that_names_it(
    anonymous: httpx.Client, fields: dict[str, str], named: tuple[str, ...]
) -> None:
    check_error(anonymous.post("/auth/token/", json=fields), 400, *named)


@pytest.mark.parametrize("value", [1, None, ["x"], {"$ne": ""}])
def test_password_that_is_no_text_is_400(site: Site, anonymous: httpx.Client, value: object) -> None:
    name, _ = site.credentials("owner")
    check_error(anonymous.post("/auth/token/", json={"username": name, "password": value}), 400)


def test_same_message_and_same_time_for_unknown_user_and_wrong_password(site: Site, outsider: httpx.Client) -> None:
    known, _ = site.credentials("owner")
    seconds: dict[str, list[float]] = {known: [], f"nobody-{uuid.uuid4().hex}": []}
    details = set()
    for _ in range(4):
        for name, taken in seconds.items():
            began = time.perf_counter()
            answer = outsider.post("/auth/token/", json={"username": name, "password": WRONG})
            taken.append(time.perf_counter() - began)
            details.add(check_error(answer, 400)["detail"])
    assert len(details) == 1
    short, long = sorted(min(taken) for taken in seconds.values())
    assert long < 2 * short + 0.02, statistics.quantiles([*seconds[known]], n=4)


HEADERS = {
    "none": {},
    "empty": {"Authorization": ""},
    "no token": {"Authorization": "Token"},
    "another scheme": {"Authorization": "Bearer 0123456789abcdef"},
    "basic": {"Authorization": "Basic dXNlcjpwYXNz"},
    "unknown": {"Authorization": "Token 0123456789abcdef0123456789abcdef01234567"},
    "with a space": {"Authorization": "Token a b"},
    "not ASCII": {"Authorization": "Token tök".encode()},
    "long": {"Authorization": "Token " + "a" * 4000},
    "in the query only": {},
}


@pytest.mark.parametrize("what", HEADERS)
def test_none_malformed_or_unknown_token_is_401_with_www_authenticate(anonymous: httpx.Client, what: str) -> None:
    answer = anonymous.get("/tasks/", headers=HEADERS[what], params={"token": "x"} if "query" in what else {})
    check_error(answer, 401)
    assert answer.headers["www-authenticate"] == "Token"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tasks/"),
        ("POST", "/tasks/"),
        ("GET", "/tasks/1/"),
        ("DELETE", "/tasks/1/"),
        ("POST", "/tasks/1/process/"),
        ("GET", "/tasks/1/files/image.fits"),
        ("GET", "/tasks/1/preview/image.fits"),
        ("GET", "/tasks/1/events/"),
        ("GET", "/queue/"),
        ("GET", "/files/"),
        ("GET", "/presets/"),
    ],
)
def test_every_other_call_needs_a_token(anonymous: httpx.Client, method: str, path: str) -> None:
    answer = anonymous.request(method, path)
    check_error(answer, 401)
    assert answer.headers["www-authenticate"] == "Token"


@pytest.mark.parametrize("path", ["/reference/", "/reference/filters/", "/schema/", "/docs/"])
def test_reference_and_description_need_no_login(anonymous: httpx.Client, path: str) -> None:
    assert anonymous.get(path).status_code == 200
    # a token that is no longer valid does not close them either
    assert anonymous.get(path, headers={"Authorization": "Token gone"}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_login(site: Site, anonymous: httpx.Client, path: str) -> None:
    if not site.is_local:
        pytest.skip("health is not shown to the world by every server")
    assert check_ok(anonymous.get(str(httpx.URL(site.url).join(path))))["status"] == "ok"


def test_repeated_failures_are_slowed_with_429(outsider: httpx.Client) -> None:
    credentials = {"username": f"nobody-{uuid.uuid4().hex}", "password": WRONG}
    for _ in range(40):
        answer = outsider.post("/auth/token/", json=credentials)
        if answer.status_code != 400:
            break
    check_error(answer, 429)
    assert 1 <= int(answer.headers["retry-after"]) <= 3600
    check_error(outsider.post("/auth/login/", json=credentials), 429)


def test_failures_of_one_account_do_not_slow_another(site: Site, anonymous: httpx.Client) -> None:
    name, password = site.credentials("owner")
    assert anonymous.post("/auth/token/", json={"username": name, "password": password}).status_code == 200
