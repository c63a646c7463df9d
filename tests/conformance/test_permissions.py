"""Who may do what: every call on a task, by every kind of user, in one table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import create
from tests.support.conformance import Site, check_error, check_ok

VIEW = frozenset({"owner", "staff", "member", "viewer", "editor"})
EDIT = frozenset({"owner", "staff", "member", "editor"})
OWN = frozenset({"owner", "staff"})
ROLES = ("owner", "staff", "member", "viewer", "editor", "stranger")


@dataclass(frozen=True)
class Call:
    """One call.

    Parameters
    ----------
    allowed
        Who may make it.
    status
        What they get; with nothing to run, cancel or change that is a 400.
    """

    method: str
    path: str
    allowed: frozenset[str]
    status: int = 200
    json: Any = None
    upload: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path or 'task'}{' sharing' if self.json and 'groups' in self.json else ''}"


CALLS = (
    Call("GET", "", VIEW),
    Call("HEAD", "", VIEW),
    Call("OPTIONS", "", frozenset(ROLES)),  # tells methods, which are the same for all
    Call("GET", "state/", VIEW),
    Call("GET", "files/", VIEW),
    Call("GET", "files/image.fits", VIEW),
    Call("GET", "files/deep/", VIEW),
    Call("GET", "preview/image.fits", VIEW),
    Call("GET", "cutout/image.fits", VIEW, 400),  # not a cutout
    Call("HEAD", "events/", VIEW),
    Call("GET", "runs/", VIEW),
    Call("GET", "results/", VIEW),
    Call("POST", "duplicate/", VIEW, 201),
    Call("PATCH", "", EDIT, json={"title": "changed"}),
    Call("POST", "", EDIT, json={"config": {"sn": 5}}),
    Call("POST", "files/new.txt", EDIT, 201, upload=True),
    Call("DELETE", "files/new.txt", EDIT, 204),
    Call("POST", "process/", EDIT, 400, json={"steps": []}),
    Call("POST", "cancel/", EDIT, 400),
    Call("POST", "fix/", EDIT),
    Call("POST", "crop/", EDIT, json={"x1": 0}),
    Call("POST", "destripe/", EDIT),
    Call("PATCH", "", OWN, json={"groups": []}),
    Call("DELETE", "", OWN, 204),
)


@pytest.fixture(scope="module")
def people(request: pytest.FixtureRequest) -> dict[str, httpx.Client]:
    return {role: request.getfixturevalue(role) for role in ROLES}


@pytest.fixture
def shared(site: Site, owner: httpx.Client, scene_fits: bytes) -> Iterator[int]:
    """A task of the owner that is shared with the group."""
    task_id = create(owner, scene_fits, groups=site.group)["id"]
    check_ok(owner.post(f"/tasks/{task_id}/files/deep/a.txt", files={"file": ("a", b"a")}), 201)
    yield task_id
    owner.delete(f"/tasks/{task_id}/")


def send(api: httpx.Client, task_id: int, call: Call) -> httpx.Response:
    body: dict[str, Any] = {"files": {"file": ("new.txt", b"new")}} if call.upload else {"json": call.json}
    return api.request(call.method, f"/tasks/{task_id}/{call.path}", **body)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_view_edit_and_delete_by_role(
    people: dict[str, httpx.Client], shared: int, owner: httpx.Client, site: Site, call: Call
) -> None:
    # those who may not come first: the task is still there then
    for role in sorted(ROLES, key=lambda role: role in call.allowed):
        if call.method == "DELETE" and call.path:
            check_ok(owner.post(f"/tasks/{shared}/files/new.txt", files={"file": ("n", b"n")}), 201)
        answer = send(people[role], shared, call)
        if role not in call.allowed:
            assert answer.status_code == 403, f"{role}: {answer.status_code} {answer.text}"
            if call.method != "HEAD":
                check_error(answer, 403)
            continue
        assert answer.status_code == call.status, f"{role}: {answer.status_code} {answer.text}"
        if call.path == "duplicate/":
            copy = answer.json()
            assert people[role].delete(f"/tasks/{copy['id']}/").status_code == 204
        if call == CALLS[-1]:
            return
        if call.json == {"groups": []}:
            check_ok(owner.patch(f"/tasks/{shared}/", json={"groups": [site.group]}))


@pytest.mark.parametrize("call", [call for call in CALLS if call.method != "OPTIONS"], ids=str)
def test_a_missing_task_is_404_for_everybody(people: dict[str, httpx.Client], call: Call) -> None:
    for role in ("owner", "staff", "stranger"):
        answer = send(people[role], 999_999_999, call)
        assert answer.status_code == 404, f"{role}: {answer.text}"
        if call.method != "HEAD":
            check_error(answer, 404)


def test_without_sharing_a_member_of_the_owners_group_sees_nothing(member: httpx.Client, make_task: Any) -> None:
    check_error(member.get(f"/tasks/{make_task()['id']}/"), 403)


def test_sharing_is_with_own_groups_only(owner: httpx.Client, make_task: Any) -> None:
    task_id = make_task()["id"]
    check_error(owner.patch(f"/tasks/{task_id}/", json={"groups": ["no group of mine"]}), 400, "groups")
    check_error(owner.post("/tasks/", json={"original_name": "x", "groups": ["no group of mine"]}), 400, "groups")
    assert check_ok(owner.get(f"/tasks/{task_id}/"))["groups"] == []


def test_sharing_a_task_shows_it_to_the_group_and_ending_it_hides_it(
    site: Site, owner: httpx.Client, member: httpx.Client, make_task: Any
) -> None:
    task_id = make_task()["id"]
    shared = check_ok(owner.patch(f"/tasks/{task_id}/", json={"groups": [site.group]}))
    assert shared["groups"] == [site.group]
    check_ok(member.get(f"/tasks/{task_id}/"))
    check_ok(owner.patch(f"/tasks/{task_id}/", json={"groups": []}))
    check_error(member.get(f"/tasks/{task_id}/"), 403)


def test_a_member_may_not_share_it_further(site: Site, owner: httpx.Client, member: httpx.Client, shared: int) -> None:
    check_error(member.patch(f"/tasks/{shared}/", json={"groups": []}), 403)
    assert check_ok(owner.get(f"/tasks/{shared}/"))["groups"] == [site.group]


def test_a_duplicate_belongs_to_the_caller(member: httpx.Client, site: Site, shared: int) -> None:
    copy = check_ok(member.post(f"/tasks/{shared}/duplicate/"), 201)
    assert copy["user"] == site.credentials("member")[0]
    assert member.delete(f"/tasks/{copy['id']}/").status_code == 204


def test_a_403_says_nothing_of_the_task(stranger: httpx.Client, kept: dict[str, Any], site: Site) -> None:
    answer = stranger.get(f"/tasks/{kept['id']}/")
    check_error(answer, 403)
    for secret in (kept["original_name"], kept["title"], site.credentials("owner")[0]):
        assert secret not in answer.text
