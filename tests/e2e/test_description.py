"""The description of the API: true to what the gateway does, and readable in a browser without any other server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate

from services.gateway.routes import OPERATIONS
from stdweb.settings import DEMO_USER
from tests.support.fits import field, observation, write
from tests.support.stack import Stack, running_stack

CASES = 5000

RULES = """
# What no schema can say: a task that runs already, a wrong password, two options that must differ, too many attempts.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 405, 409, 412, 413, 415, 416, 429]

# A stream does not end by itself; it has tests of its own.
[[operations]]
include-name = "GET /api/tasks/{id}/events/"
enabled = false

# Whatever is sent as a file is one: the fuzzer's null arrives as four good bytes.
[[operations]]
include-name = "POST /api/tasks/{id}/files/{path}"
checks.negative_data_rejection.expected-statuses = [201, 400, 401, 403, 404, 409, 413, 415, 429]
"""

ONE_TASK = """
[[operations]]
include-tag = "tasks"
parameters = {{ "path.id" = {task} }}

[[operations]]
include-name = "DELETE /api/tasks/{{id}}/"
enabled = false
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own: failed logins by the thousand slow this address down."""
    with running_stack(tmp_path_factory.mktemp("described")) as running:
        yield running


@pytest.fixture(scope="module")
def document(site: Stack) -> dict:
    return httpx.get(f"{site.state.base_url}/schema/").raise_for_status().json()


def test_the_document_is_valid_and_whole(document: dict) -> None:
    validate(document)
    described = {
        (method.upper(), path.rstrip("/")) for path, methods in document["paths"].items() for method in methods
    }
    routes = {(operation.method, re.sub(r":[^{}]*}", "}", operation.path).rstrip("/")) for operation in OPERATIONS}
    assert described == {route for route in routes if route[1].startswith("/api/")}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            good = {status: said for status, said in operation["responses"].items() if status < "400"}
            assert good or (method, path) == ("delete", "/api/tasks/{id}/files/")
            for status, said in good.items():
                assert "content" in said or status in {"204", "304"}, (method, path, status)


def test_what_changes_something_needs_a_proof_with_a_session(document: dict) -> None:
    assert document["components"]["securitySchemes"]["csrf"]["name"] == "X-CSRFToken"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            asked = operation.get("security", document["security"])
            if asked and method != "get":
                assert ({"session": [], "csrf": []} in asked, "403" in operation["responses"]) == (True, True), path
            else:
                assert not any("csrf" in one for one in asked), path


def test_the_page_shows_every_operation_in_a_browser(site: Stack, document: dict, tmp_path: Path) -> None:
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"{site.state.base_url}/docs/",
    ]
    environment = {**os.environ, "HOME": str(tmp_path)}
    page = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout
    shown = re.findall(r'class="opblock opblock-(\w+)', page)
    assert len(shown) == sum(len(methods) for methods in document["paths"].values())
    assert "Start a run" in page


@pytest.mark.timeout(1200)
def test_the_gateway_does_what_its_description_says(site: Stack, tmp_path: Path) -> None:
    image = write(tmp_path / "tiny.fits", field(), observation())
    with httpx.Client(base_url=site.state.base_url, timeout=60) as http:
        login = {"username": DEMO_USER, "password": site.state.demo_password}
        header = {"Authorization": f"Token {http.post('/auth/token/', json=login).raise_for_status().json()['token']}"}
        with image.open("rb") as file:
            task = http.post("/tasks/", files={"file": file}, headers=header).raise_for_status().json()["id"]
    # one task that stays, for what needs one; then any number, and the loss of tasks
    cases = fuzz(site, header, tmp_path, RULES + ONE_TASK.format(task=task), examples=90)
    cases += fuzz(site, header, tmp_path, RULES, examples=20)
    assert cases >= CASES
    assert site.ready()


def fuzz(site: Stack, header: dict[str, str], folder: Path, rules: str, examples: int) -> int:
    """Send what the description allows, and what it does not; returns how many requests were judged."""
    (folder / "schemathesis.toml").write_text(rules)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={folder / 'schemathesis.toml'}",
        "run",
        f"{site.state.base_url}/schema/",
        *(f"--header={name}: {value}" for name, value in header.items()),
        "--checks=all",
        f"--max-examples={examples}",
        "--phases=examples,coverage,fuzzing",
        "--suppress-health-check=all",
        "--request-timeout=60",
        "--continue-on-failure",
        "--warnings=off",
        "--no-color",
    ]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr
    found = re.search(r"(\d+) generated", ended.stdout)
    assert found is not None, ended.stdout
    return int(found[1])
