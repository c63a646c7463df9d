"""GET /api/tasks/: the caller's tasks, newest first, filters and pages."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import create
from tests.support.conformance import TIMESTAMP, Site, check_error, check_ok

FIELDS = {"id", "original_name", "title", "state", "user", "created", "modified"}
WORD = f"w{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="module")
def five(owner: httpx.Client, site: Site, scene_fits: bytes) -> Iterator[list[int]]:
    """Five tasks of the owner, oldest first; the third is shared, the last has an image."""
    titles = (f"{WORD} one", f"{WORD} Two", f"{WORD} three.*", f"{WORD} 100% four_x", f"{WORD} Grüße")
    made = [
        create(owner, name="night1.fits", title=titles[0])["id"],
        create(owner, name="Night2.fits", title=titles[1])["id"],
        create(owner, name="night3.fits", title=titles[2], groups=[site.group] if site.group else [])["id"],
        create(owner, name="night4.fits", title=titles[3])["id"],
        create(owner, scene_fits, name="night5.fits", title=titles[4])["id"],
    ]
    yield made
    for task_id in made:
        owner.delete(f"/tasks/{task_id}/")


def found(api: httpx.Client, **query: Any) -> list[int]:
    return [row["id"] for row in check_ok(api.get("/tasks/", params=query))]


def test_plain_array_newest_first_of_the_callers_tasks(owner: httpx.Client, five: list[int], site: Site) -> None:
    rows = check_ok(owner.get("/tasks/"))
    assert isinstance(rows, list)
    ids = [row["id"] for row in rows]
    assert ids == sorted(ids, reverse=True)
    assert set(five) <= set(ids)
    assert {row["user"] for row in rows} == {site.credentials("owner")[0]}


def test_rows_have_the_published_fields_and_no_config(owner: httpx.Client, five: list[int]) -> None:
    for row in check_ok(owner.get("/tasks/")):
        assert set(row) == FIELDS
        assert TIMESTAMP.fullmatch(row["created"])
        assert TIMESTAMP.fullmatch(row["modified"])


def test_other_peoples_tasks_are_not_listed(stranger: httpx.Client, five: list[int]) -> None:
    assert not set(five) & set(found(stranger))


def test_staff_is_given_all(staff: httpx.Client, five: list[int]) -> None:
    assert set(five) <= set(found(staff))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("WORD one", [0]),
        ("one WORD", [0]),  # every word, in any order
        ("WORD ONE", [0]),
        ("WORD two", [1]),
        ("WORD night2", [1]),  # one in the title, one in the name
        ("WORD NIGHT", [4, 3, 2, 1, 0]),
        ("WORD one two", []),
        ("WORD .*", [2]),  # plain text and not a pattern
        ("WORD 100%", [3]),
        ("WORD r_x", [3]),
        ("WORD n.ght1", []),
        ("WORD (", []),
        ("WORD [a-z]", []),
        ("WORD grüße", [4]),
        ("WORD GRÜ", [4]),
        ("WORD\\", []),
        ("WORD $where", []),
    ],
)
def test_query_is_words_of_name_title_owner_or_group_as_plain_text(
    owner: httpx.Client, five: list[int], query: str, expected: list[int]
) -> None:
    assert found(owner, query=query.replace("WORD", WORD)) == [five[index] for index in expected]


def test_query_matches_the_owner(owner: httpx.Client, five: list[int], site: Site) -> None:
    assert found(owner, query=f"{WORD} {site.credentials('owner')[0].upper()}") == five[::-1]


def test_query_matches_a_group(owner: httpx.Client, five: list[int], site: Site) -> None:
    if site.group is None:
        pytest.skip("needs STDWEB_CONFORMANCE_GROUP, see docs/conformance.md")
    assert found(owner, query=f"{WORD} {site.group}") == [five[2]]


def test_empty_query_matches_all(owner: httpx.Client, five: list[int]) -> None:
    assert set(five) <= set(found(owner, query=""))


def test_state_filters(owner: httpx.Client, five: list[int]) -> None:
    assert found(owner, query=WORD, state="uploaded") == [five[4]]
    assert found(owner, query=WORD, state="initial") == five[3::-1]
    assert found(owner, query=WORD, state="no such state") == []


def test_user_filters(owner: httpx.Client, staff: httpx.Client, five: list[int], site: Site) -> None:
    name = site.credentials("owner")[0]
    assert found(owner, query=WORD, user=name) == five[::-1]
    assert found(staff, query=WORD, user=name) == five[::-1]
    assert found(staff, query=WORD, user="nobody of this name") == []


def test_user_shows_of_others_only_what_the_caller_may_see(
    member: httpx.Client, stranger: httpx.Client, viewer: httpx.Client, five: list[int], site: Site
) -> None:
    name = site.credentials("owner")[0]
    assert found(member, query=WORD, user=name) == [five[2]]
    assert found(stranger, query=WORD, user=name) == []
    assert found(viewer, query=WORD, user=name) == five[::-1]


def test_limit_and_offset_give_pages(owner: httpx.Client, five: list[int]) -> None:
    seen: list[int] = []
    url: str | None = f"/tasks/?limit=2&query={WORD}"
    pages = []
    while url:
        page = check_ok(owner.get(url))
        assert set(page) == {"count", "next", "previous", "results"}
        assert page["count"] == 5
        assert all(set(row) == FIELDS for row in page["results"])
        seen += [row["id"] for row in page["results"]]
        pages.append(page)
        url = page["next"]
    assert seen == five[::-1]
    assert [len(page["results"]) for page in pages] == [2, 2, 1]
    assert pages[0]["previous"] is None
    assert re.match("https?://", pages[0]["next"])
    back = check_ok(owner.get(pages[2]["previous"]))
    assert [row["id"] for row in back["results"]] == seen[2:4]


def test_offset_alone_and_beyond_the_end(owner: httpx.Client, five: list[int]) -> None:
    page = check_ok(owner.get("/tasks/", params={"offset": 3, "query": WORD}))
    assert [row["id"] for row in page["results"]] == five[1::-1]
    page = check_ok(owner.get("/tasks/", params={"offset": 50, "limit": 2, "query": WORD}))
    assert (page["results"], page["next"], page["count"]) == ([], None, 5)


def test_page_of_a_state(owner: httpx.Client, five: list[int]) -> None:
    page = check_ok(owner.get("/tasks/", params={"limit": 3, "state": "initial", "query": WORD}))
    assert page["count"] == 4
    assert [row["id"] for row in page["results"]] == five[3:0:-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "-1"),
        ("limit", "x"),
        ("limit", "1.5"),
        ("offset", "-1"),
        ("offset", "x"),
        ("limit", "9" * 30),
        ("offset", "9" * 30),
        ("query", "a" * 5000),
    ],
)
def test_bad_paging_is_400_that_names_it(owner: httpx.Client, name: str, value: str) -> None:
    check_error(owner.get("/tasks/", params={name: value}), 400, name)


def test_unknown_query_parameters_are_ignored(owner: httpx.Client, five: list[int]) -> None:
    assert set(five) <= set(found(owner, format="json", colour="red"))
