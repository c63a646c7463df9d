"""The server under test, its users, and tasks to try things on."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from stdweb.sky import simulate
from tests.support import fits as field_files
from tests.support.conformance import (
    ROLES,
    ROWS,
    Site,
    check_ok,
    ended,
    fits_bytes,
    from_environment,
    needs,
    scene,
    token_of,
)
from tests.support.stack import Stack

GROUP = "conformance"
MakeTask = Callable[..., dict[str, Any]]


def _prepared(stack: Stack) -> Site:
    """Make users, a preset and a data file as an administrator would."""
    grants = {
        "owner": ("--group", GROUP),
        "member": ("--group", GROUP),
        "stranger": (),
        "staff": ("--staff",),
        "viewer": ("--grant", "view_all_tasks"),
        "editor": ("--grant", "edit_all_tasks"),
    }
    users = {}
    for role in ROLES:
        users[role] = (f"{role}-{os.getpid()}", f"pass of the {role}")
        name, password = users[role]
        added = stack.run("stdweb", "user", "add", name, "--password-stdin", *grants[role], stdin=f"{password}\n")
        assert added.returncode == 0, added.stderr
    mask = stack.root / "custom_mask.fits"
    mask.write_bytes(fits_bytes((scene() > 300).astype("u1")))
    config = ("--config", "filter=V", "--config", "sn=4")
    added = stack.run("stdweb", "preset", "add", "conformance", str(mask), *config)
    assert added.returncode == 0, added.stderr
    folder = stack.state.volume / "data" / "nights" / "first"
    folder.mkdir(parents=True)
    (folder / "field.fits").write_bytes(fits_bytes(scene(), scene()[: ROWS // 2]))
    (folder / "notes.txt").write_text("clear sky\n")
    (folder.parent / "a list").write_text("1 2 3\n")
    (folder.parent / "preview").mkdir()
    (folder.parent / "preview" / "kept.txt").write_text("kept\n")
    sky = simulate(
        stack.root / "conformance",
        size=512,
        seed=5,
        ra_deg=40.0,
        dec_deg=25.0,
        filter="R",
        stars_per_deg2=15_000,
        mirror_dir=stack.state.mirror_dir,
    )
    return Site(
        stack.state.base_url,
        users,
        group=GROUP,
        data_file="nights/first/field.fits",
        preset="conformance",
        observation=sky.image,
        config={"filter": "R"},
        callback_host="127.0.0.1",
    )


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Site:
    """The server that the environment names, else a stack of our own."""
    return from_environment() or _prepared(request.getfixturevalue("stack"))


def _client(site: Site, role: str) -> Iterator[httpx.Client]:
    with site.client(headers={"Authorization": f"Token {token_of(site, role)}"}) as client:
        yield client


@pytest.fixture(scope="session")
def owner(site: Site) -> Iterator[httpx.Client]:
    yield from _client(site, "owner")


@pytest.fixture(scope="session")
def member(site: Site) -> Iterator[httpx.Client]:
    yield from _client(site, "member")


@pytest.fixture(scope="session")
def stranger(site: Site) -> Iterator[httpx.Client]:
    yield from _client(site, "stranger")


@pytest.fixture(scope="session")
def staff(site: Site) -> Iterator[httpx.Client]:
    yield from _client(site, "staff")


@pytest.fixture(scope="session")
def viewer(site: Site) -> Iterator[httpx.Client]:
    yield from _client(site, "viewer")


@pytest.fixture(scope="session")
def editor(site: Site) -> Iterator[httpx.Client]:
    yield from _client(site, "editor")


@pytest.fixture
def anonymous(site: Site) -> Iterator[httpx.Client]:
    with site.client() as client:
        yield client


@pytest.fixture
def outsider(site: Site) -> Iterator[httpx.Client]:
    """Not logged in, for logins that fail; from an address of its own if the server is here."""
    address = ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])
    transport = httpx.HTTPTransport(local_address=address) if site.is_local else None
    with httpx.Client(base_url=site.url, transport=transport, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def scene_fits() -> bytes:
    """A tiny image, enough for everything but inspection."""
    return fits_bytes(scene())


@pytest.fixture(scope="session")
def field_fits(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small field of stars with a usable header."""
    path = tmp_path_factory.mktemp("field") / "field.fits"
    return field_files.write(path, field_files.field(), field_files.observation()).read_bytes()


@pytest.fixture(scope="session")
def large_fits() -> bytes:
    """An image whose inspection takes longer than a moment."""
    image = np.random.default_rng(6).normal(800, 20, (1500, 1500)).astype(np.float32)
    return fits_bytes(image, header=field_files.observation(1500))


def create(api: httpx.Client, content: bytes | None = None, name: str = "scene.fits", **fields: Any) -> dict[str, Any]:
    """Make a task, with an image or without."""
    if content is None:
        return dict(check_ok(api.post("/tasks/", json={"original_name": name, **fields}), 201))
    return dict(check_ok(api.post("/tasks/", files={"file": (name, content)}, data=fields), 201))


@pytest.fixture
def make_task(owner: httpx.Client) -> Iterator[MakeTask]:
    """Make tasks of the owner that are deleted after the test."""
    made: list[int] = []

    def make(content: bytes | None = None, name: str = "scene.fits", **fields: Any) -> dict[str, Any]:
        task = create(owner, content, name, **fields)
        made.append(task["id"])
        return task

    yield make
    for task_id in made:
        assert owner.delete(f"/tasks/{task_id}/").status_code in {204, 404}


@pytest.fixture(scope="session")
def kept(owner: httpx.Client, scene_fits: bytes) -> Iterator[dict[str, Any]]:
    """A task with an image that no test changes."""
    task = create(owner, scene_fits, title="Kept as it is")
    for name in ("notes.txt", "deep/er/notes.txt"):
        check_ok(owner.post(f"/tasks/{task['id']}/files/{name}", files={"file": ("x", b"0123456789")}), 201)
    yield check_ok(owner.get(f"/tasks/{task['id']}/"))
    owner.delete(f"/tasks/{task['id']}/")


@pytest.fixture(scope="session")
def processed(site: Site, owner: httpx.Client) -> Iterator[dict[str, Any]]:
    """A task that went through inspect and photometry whole, with a target; no test changes it."""
    image: Path = site.observation or needs("OBSERVATION")
    config = {**site.config, "target": "x=200 y=210", "sn": 6}
    created = owner.post("/tasks/", json={"original_name": "none", "config": config})
    task_id = check_ok(created, 201)["id"]
    with image.open("rb") as file:
        check_ok(owner.post(f"/tasks/{task_id}/files/image.fits", files={"file": (image.name, file)}), 201)
    check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": ["inspect", "photometry"]}))
    task = ended(owner, task_id)
    assert task["state"] == "photometry_done", task["error"]
    yield task
    owner.delete(f"/tasks/{task_id}/")
