"""What a user, or a stranger, may send to harm others: it stays data, and secrets stay secret."""

import gzip
import json
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
import structlog
from aiohttp.multipart import content_disposition_filename, parse_content_disposition
from yarl import URL

from tests.support.gateway import Client, Gateway, gateway, until
from tests.support.receiver import receiver

SITE = {"callback_allow": "127.0.0.0/8", "max_upload_bytes": 1 << 22}
FORMATS = "{0.__class__} {} %s%n ${HOME} `id` $(id) {{7*7}} ; rm -rf"
OPERATORS = {"$ne": "", "$where": "sleep(9999)", "a.b": {"$gt": 0}, "__proto__": 1}


async def test_operators_and_formats_in_values_are_data(site: Gateway, ann: Client) -> None:
    config = {"x": OPERATORS, "list": [OPERATORS], "__class__": FORMATS}
    task = await ann.new_task(config=json.dumps(config), title=FORMATS)
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"], "config": {"y": OPERATORS}})
    seen = await ann.ended(task)
    assert (seen["title"], seen["config"]) == (FORMATS, config | {"y": OPERATORS})
    assert site.worker.seen[-1].config["x"] == OPERATORS


@pytest.mark.parametrize("key", ["$where", "$set", "a.b", "a\0b", "", "k" * 65])
async def test_keys_that_a_store_could_take_for_operators_are_refused(ann: Client, key: str) -> None:
    task = await ann.new_task()
    for method, path, body in (
        ("PATCH", f"/tasks/{task}/", {"config": {key: 1}}),
        ("POST", f"/tasks/{task}/process/", {"steps": ["inspect"], "config": {key: 1}}),
        ("POST", "/tasks/", {"original_name": "a", "config": {key: 1}}),
    ):
        status, answer = await ann.call(method, path, json=body)
        assert (status, list(answer["errors"])) == (400, ["config"]), path
    assert (await ann.ok("GET", f"/tasks/{task}/"))["config"] == {}


async def test_questions_hold_no_operators(site: Gateway, ann: Client) -> None:
    await ann.new_task()
    async with site.client("eve") as eve:
        for query in (
            "user[$ne]=eve",
            "user[$regex]=.*",
            'user={"$ne":""}',
            "user=.*",
            "query=.*&user=ann",
            "user=$ne",
        ):
            assert await eve.ok("GET", f"/tasks/?{query}") == [], query
    for body in ({"username": {"$ne": ""}, "password": {"$ne": ""}}, {"username": ["ann"], "password": {"$gt": ""}}):
        for path in ("token", "login"):
            assert (await ann.call("POST", f"/auth/{path}/", json=body))[0] == 400


@pytest.mark.parametrize(
    "options",
    [
        {"hotpants_extra": {"outim": "/etc/passwd"}},
        {"hotpants_extra": {"ko": "1 -outim /etc/passwd"}},
        {"hotpants_extra": {"ng": "3 6 0.7 -outim x"}},
        {"hotpants_extra": {"c": "t;id"}},
        {"template": "../../1/image.fits"},
        {"template": "http://127.0.0.1:1/x.fits"},
        {"cat_name": "../gaia; id"},
    ],
)
async def test_options_of_programs_are_a_closed_list(ann: Client, options: dict) -> None:
    task = await ann.new_task()
    body = {"steps": ["inspect", "photometry", "subtraction"], "config": options}
    status, answer = await ann.call("POST", f"/tasks/{task}/process/", json=body)
    assert (status, list(answer["errors"])) == (400, list(options))


@pytest.mark.parametrize(
    "path",
    ["../tasks/1/image.fits", "../tasks/1/.inputs/image.fits", "/etc/passwd", ".hidden", "a/../../x", "a\\..\\x"],
)
async def test_paths_of_images_to_stack_stay_inside(site: Gateway, ann: Client, path: str) -> None:
    task = await ann.new_task()
    body = {"steps": ["stack"], "config": {"stack_filenames": ["a.fits", path]}}
    status, answer = await ann.call("POST", f"/tasks/{task}/process/", json=body)
    assert (status, list(answer["errors"])) == (400, ["stack_filenames"])
    assert not site.worker.seen


@pytest.mark.parametrize(
    "name", ['a"; filename="b.html', "a;b=c.txt", "äöü €.txt", "%0d%0aX: y.txt", "a'b.txt", "<b>.html"]
)
async def test_names_of_files_stay_names_in_headers(ann: Client, name: str) -> None:
    task = await ann.new_task()
    form = aiohttp.FormData()
    form.add_field("file", b"x", filename="x")
    url = URL(f"{ann.url}/tasks/{task}/files/{quote(name)}", encoded=True)
    async with ann.session.post(url, data=form) as response:
        assert response.status == 201, await response.text()
    async with ann.session.get(url) as response:
        kind, told = parse_content_disposition(response.headers["Content-Disposition"])
        assert (kind, set(told)) == ("attachment", {"filename", "filename*"})
        assert content_disposition_filename({"filename*": told["filename*"]}) == name
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "X" not in response.headers


@pytest.mark.parametrize("name", ["a\nX-Evil: 1.txt", "a\r\n\r\nx", "a\x00", "\x7f", "\u2028"])
async def test_names_with_control_characters_are_refused(ann: Client, name: str) -> None:
    task = await ann.new_task()
    url = URL(f"{ann.url}/tasks/{task}/files/{quote(name)}", encoded=True)
    for method in ("GET", "POST", "DELETE"):
        async with ann.session.request(method, url, data={"file": b"x"} if method == "POST" else None) as response:
            assert response.status in {400, 404}, await response.text()


async def test_packed_bodies_do_not_unpack_without_end(ann: Client) -> None:
    task = await ann.new_task()
    bomb = gzip.compress(b'{"title": "' + bytes(1 << 28), 9)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    status, answer = await ann.call("PATCH", f"/tasks/{task}/", data=bomb, headers=headers)
    assert status in {400, 413}, answer
    boundary = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    form = gzip.compress(boundary + bytes(1 << 28) + b"\r\n--b--\r\n", 9)
    headers["Content-Type"] = "multipart/form-data; boundary=b"
    status, answer = await ann.call("POST", "/tasks/", data=form, headers=headers)
    assert status in {400, 413, 415}, answer
    assert [row["id"] for row in await ann.ok("GET", "/tasks/")] == [task]


async def test_headers_of_forms_are_neither_printed_nor_remembered(mongo_url: str, tmp_path: Path) -> None:
    """By Python, as warnings that are new each time: any stranger could fill memory and logs through the login."""
    form = b'--b\r\nContent-Disposition: form-data; name="file"; x%d=1"\r\n\r\nx\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with gateway(mongo_url, tmp_path) as site, site.client("ann") as ann:
        before = len(getattr(aiohttp.multipart, "__warningregistry__", {}))
        for number in range(5):
            for path in ("/auth/token/", "/auth/login/", "/tasks/"):
                status, _ = await ann.call("POST", path, data=form % number, headers=headers)
                assert status == 400
        assert len(getattr(aiohttp.multipart, "__warningregistry__", {})) <= before + 1  # its version


async def test_logs_hold_no_secrets(site: Gateway, ann: Client) -> None:
    """Every line that the gateway would write at any level, while somebody logs in, works and is called back."""
    password, wrong = "correct horse battery", "wrong-horse-battery"
    await site.admin.set_password("ann", password)
    login = {"username": "ann", "password": password}
    async with receiver() as there:
        with structlog.testing.capture_logs() as lines:
            token = (await ann.ok("POST", "/auth/token/", json=login))["token"]
            await ann.call("POST", "/auth/token/", json={"username": "ann", "password": wrong})
            await ann.call("GET", "/tasks/", headers={"Authorization": f"Token {token}x"})
            async with aiohttp.ClientSession() as browser:
                async with browser.post(f"{ann.url}/auth/login/", json=login) as response:
                    session = response.cookies["sessionid"].value
                async with browser.post(f"{ann.url}/tasks/", json={"original_name": "a"}) as response:
                    assert response.status in {401, 403}  # no proof against other pages
            secret = (await ann.ok("POST", "/callbacks/secret/"))["secret"]
            task = await ann.new_task()
            body = {"steps": ["inspect"], "callback_url": f"{there.url}?key=hidden-key"}
            await ann.ok("POST", f"/tasks/{task}/process/", json=body)
            await ann.ended(task)
            await ann.call("POST", f"/tasks/{task}/process/", json={"steps": "x", "password": wrong})

            async def called_back() -> bool:
                return "called back" in {line["event"] for line in lines}

            await until(called_back)
    told = repr(lines)
    for hidden in (password, wrong, token, session, secret, "hidden-key", ann.session.headers["Authorization"][6:]):
        assert hidden not in told
