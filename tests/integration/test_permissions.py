"""Who may do what: every operation of the API, with everybody who may call it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from services.gateway.routes import OPERATIONS
from shared.contracts.rpc import RPCS, Refusal
from tests.support.gateway import Client, Gateway, gateway

VIEW: Final = frozenset({"owner", "member", "viewer", "editor", "staff"})
EDIT: Final = frozenset({"owner", "member", "editor", "staff"})
DELETE: Final = frozenset({"owner", "staff"})
USERS: Final = frozenset({"owner", "member", "other", "viewer", "editor", "staff"})
ALL: Final = USERS | {"anonymous"}


@dataclass(frozen=True)
class Row:
    """An operation, who may do it, and what they are answered then.

    Parameters
    ----------
    status
        For those who may; 503 where a service is needed that does not run here.
    state
        Of the task: `new`, `running` or `done`.
    body
        JSON.
    form
        Whether a file is sent.
    where
        Other path than the operation's, with values.
    """

    method: str
    path: str
    who: frozenset[str]
    status: int = 200
    state: str = "new"
    body: Any = None
    form: bool = False
    where: dict[str, str] = field(default_factory=dict)


LOGIN: Final = {"username": "owner", "password": "right password"}
IMAGE: Final = {"path": "image.fits"}
TABLE: Final = (
    Row("POST", "/api/auth/token", ALL, body=LOGIN),
    Row("POST", "/api/auth/login", ALL, body=LOGIN),
    Row("POST", "/api/auth/logout", USERS, 400),  # a token has no session
    Row("POST", "/api/callbacks/secret", USERS),
    Row("GET", "/api/tasks", USERS),
    Row("POST", "/api/tasks", USERS, 201, body={"original_name": "a"}),
    Row("GET", "/api/tasks/{id}", VIEW),
    Row("POST", "/api/tasks/{id}", EDIT, body={"title": "b"}),
    Row("PATCH", "/api/tasks/{id}", EDIT, body={"config": {"sn": 4}}),
    Row("PATCH", "/api/tasks/{id}", DELETE, body={"groups": []}),
    Row("DELETE", "/api/tasks/{id}", DELETE, 204),
    Row("GET", "/api/tasks/{id}/state", VIEW),
    Row("POST", "/api/tasks/{id}/duplicate", VIEW, 201),
    Row("POST", "/api/tasks/{id}/process", EDIT, body={"steps": ["photometry"]}),
    Row("POST", "/api/tasks/{id}/cancel", EDIT, state="running"),
    Row("GET", "/api/tasks/{id}/runs", VIEW),
    Row("GET", "/api/tasks/{id}/results", VIEW),
    Row("GET", "/api/tasks/{id}/events", VIEW),
    Row("POST", "/api/tasks/{id}/fix", EDIT, 503),
    Row("POST", "/api/tasks/{id}/crop", EDIT, 503, body={"x1": 1}),
    Row("POST", "/api/tasks/{id}/destripe", EDIT, 503),
    Row("GET", "/api/tasks/{id}/files", VIEW),
    Row("DELETE", "/api/tasks/{id}/files", EDIT, 405),
    Row("GET", "/api/tasks/{id}/files/{path:.+}", VIEW, where=IMAGE),
    Row("POST", "/api/tasks/{id}/files/{path:.+}", EDIT, 201, form=True, where={"path": "notes.txt"}),
    Row("DELETE", "/api/tasks/{id}/files/{path:.+}", EDIT, 204, where=IMAGE),
    Row("GET", "/api/tasks/{id}/preview/{path:.+}", VIEW, 503, where=IMAGE),
    Row("GET", "/api/tasks/{id}/cutout/{path:.+}", VIEW, 503, where=IMAGE),
    Row("GET", "/api/queue", USERS),
    Row("GET", "/api/queue/{id}", USERS, state="running"),
    Row("POST", "/api/queue/{id}/terminate", EDIT, state="running"),
    Row("GET", "/api/files", USERS),
    Row("GET", "/api/files/{path:.+}", USERS, where={"path": "a.fits"}),
    Row("GET", "/api/files/{path:.+}/preview/", USERS, 503, where={"path": "a.fits"}),
    Row("GET", "/api/presets", USERS),
    Row("GET", "/api/presets/{id}", USERS),
    Row("GET", "/api/reference", ALL),
    Row("GET", "/api/reference/{table}", ALL, where={"table": "filters"}),
    Row("GET", "/api/version", USERS),
    Row("GET", "/api/schema", ALL),
    Row("GET", "/api/docs", ALL),
    Row("GET", "/api/docs/{asset}", ALL, where={"asset": "start.js"}),
)


@dataclass
class World:
    """A site, and everybody's client."""

    site: Gateway
    clients: dict[str, Client]
    preset: int

    async def task(self, state: str) -> tuple[int, str]:
        """Make a task of the owner, shared with the group; its id, and that of its chain."""
        owner = self.clients["owner"]
        task = await owner.new_task(groups="survey")
        if state != "running":
            return task, ""
        self.site.worker.hold.add("photometry")
        started = await owner.ok("POST", f"/tasks/{task}/process/", json={"steps": ["photometry"]})
        return task, started["celery_id"]

    async def call(self, row: Row, who: str) -> tuple[int, str]:
        """Do what a row says; status and content, as far as it is needed."""
        needs_task = "{id}" in row.path and "preset" not in row.path
        task, chain = await self.task(row.state) if needs_task else (0, "")
        given = self.preset if "preset" in row.path else chain if "queue" in row.path else task
        path = row.path.replace(":.+", "").format(id=given, **row.where).removeprefix("/api")
        client = self.clients[who]
        body: dict[str, Any] = {"data": {"file": b"x"}} if row.form else {} if row.body is None else {"json": row.body}
        async with client.session.request(row.method, client.url + path, **body) as response:
            is_stream = response.content_type == "text/event-stream"
            return response.status, "" if is_stream else await response.text()


async def _later(_: bytes) -> Refusal:
    return Refusal(code="test", error="Not now.", status="later")


@asynccontextmanager
async def world(mongo_url: str, data_dir: Path) -> AsyncIterator[World]:
    (data_dir / "data").mkdir(parents=True)
    (data_dir / "data" / "a.fits").write_bytes(b"SIMPLE")
    async with gateway(mongo_url, data_dir) as site, AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(site.client(name, **rights))
            for name, rights in (
                ("owner", {"groups": ["survey"]}),
                ("member", {"groups": ["survey", "others"]}),
                ("other", {"groups": ["others"]}),
                ("viewer", {"grants": ["view_all_tasks"]}),
                ("editor", {"grants": ["edit_all_tasks"]}),
                ("staff", {"is_staff": True}),
            )
        }
        await site.admin.set_password("owner", LOGIN["password"])
        anonymous = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        clients["anonymous"] = Client(site.url, anonymous)
        preset = await site.admin.add_preset("deep", {"sn": 3})
        for rpc in RPCS.values():
            await site.broker.serve(rpc, _later, prefetch=8)
        yield World(site, clients, preset.id)


def test_every_operation_has_its_row() -> None:
    described = {(one.method, one.path) for one in OPERATIONS if one.path.startswith("/api/")}
    assert {(row.method, row.path) for row in TABLE} == described
    assert {(one.method, one.path) for one in OPERATIONS if one.public and one.path.startswith("/api/")} == {
        (row.method, row.path) for row in TABLE if row.who == ALL
    }


async def test_the_matrix(mongo_url: str, tmp_path: Path) -> None:
    wrong = []
    async with world(mongo_url, tmp_path) as site:
        for row in TABLE:
            for who in sorted(ALL):
                expected = row.status if who in row.who else 401 if who == "anonymous" else 403
                status, text = await site.call(row, who)
                if status != expected:
                    wrong.append(f"{row.method} {row.path} by {who}: {status}, not {expected}: {text[:200]}")
                elif status in {401, 403} and ("detail" not in text or "observation.fits" in text):
                    wrong.append(f"{row.method} {row.path} by {who}: {text[:200]}")
    assert wrong == []


@pytest.mark.parametrize("who", sorted(USERS))
async def test_what_does_not_exist_is_missing_for_everybody(mongo_url: str, tmp_path: Path, who: str) -> None:
    async with world(mongo_url, tmp_path) as site:
        client = site.clients[who]
        for row in TABLE:
            if row.path.startswith("/api/tasks/{id}") and row.status != 405:
                path = row.path.replace(":.+", "").format(id=999_999, **row.where).removeprefix("/api")
                body: dict[str, Any] = {"data": {"file": b"x"}} if row.form else {"json": row.body or {}}
                assert (await client.call(row.method, path, **({} if row.method == "GET" else body)))[0] == 404, path


async def test_listings_show_no_more_than_one_may_see(mongo_url: str, tmp_path: Path) -> None:
    async with world(mongo_url, tmp_path) as site:
        shared, chain = await site.task("running")
        own = await site.clients["owner"].new_task()
        seen = {who: [row["id"] for row in await site.clients[who].ok("GET", "/tasks/?user=owner")] for who in USERS}
        both = [own, shared]
        assert seen == {"owner": both, "member": [shared], "other": [], "viewer": both, "editor": both, "staff": both}
        for who in USERS:
            listed = [row["id"] for row in await site.clients[who].ok("GET", "/tasks/")]
            assert listed == (both if who in {"owner", "staff"} else []), who
            row = next(row for row in await site.clients[who].ok("GET", "/queue/") if row["chain_id"] == chain)
            detail = await site.clients[who].ok("GET", f"/queue/{chain}/")
            hidden = (None, None)
            expected = hidden if who == "other" else (shared, "observation.fits")
            assert (row["task_id"], row["task_name"]) == (detail["task_id"], detail["task_name"]) == expected, who


async def test_groups_are_shared_only_by_who_is_in_them(mongo_url: str, tmp_path: Path) -> None:
    async with world(mongo_url, tmp_path) as site:
        task, _ = await site.task("new")

        async def share(who: str, groups: list[str]) -> int:
            return (await site.clients[who].call("PATCH", f"/tasks/{task}/", json={"groups": groups}))[0]

        assert await share("owner", ["survey", "others"]) == 400
        assert await share("member", ["survey", "others"]) == 403
        assert await share("editor", []) == 403
        assert await share("staff", ["others"]) == 200
        assert (await site.clients["other"].call("GET", f"/tasks/{task}/"))[0] == 200
        assert await share("staff", ["nobody has it"]) == 400
        assert await share("owner", []) == 200
        assert (await site.clients["member"].call("GET", f"/tasks/{task}/"))[0] == 403
