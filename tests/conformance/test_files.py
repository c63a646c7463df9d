"""Files of a task: list, get, put, delete."""

import threading
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import MakeTask
from tests.support.conformance import TIMESTAMP, a_run, check_error, check_ok, ended, names_of

SPECIAL = ("image.fits", "custom_mask.fits", "custom_template.fits", "custom_template_mask.fits")


def put(api: httpx.Client, task_id: int, path: str, content: bytes = b"content") -> Any:
    return check_ok(api.post(f"/tasks/{task_id}/files/{path}", files={"file": ("any", content)}), 201)


@pytest.mark.parametrize("slash", ["", "/"])
def test_list_is_by_name_with_the_published_fields(owner: httpx.Client, kept: dict[str, Any], slash: str) -> None:
    rows = check_ok(owner.get(f"/tasks/{kept['id']}/files{slash}"))
    assert [row["name"] for row in rows] == ["deep", "image.fits", "notes.txt"]
    for row in rows:
        assert set(row) == {"name", "path", "size", "modified", "is_dir"}
        assert row["path"] == row["name"]
        assert TIMESTAMP.fullmatch(row["modified"])
    assert [row["is_dir"] for row in rows] == [True, False, False]
    assert rows[2]["size"] == 10


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_directory_path_lists_that_directory(owner: httpx.Client, kept: dict[str, Any], slash: str) -> None:
    rows = check_ok(owner.get(f"/tasks/{kept['id']}/files/deep/er{slash}"))
    assert [(row["name"], row["path"], row["is_dir"]) for row in rows] == [("notes.txt", "deep/er/notes.txt", False)]


def test_an_empty_task_lists_nothing(owner: httpx.Client, make_task: MakeTask) -> None:
    assert check_ok(owner.get(f"/tasks/{make_task()['id']}/files/")) == []


def test_the_file_comes_as_an_attachment(owner: httpx.Client, kept: dict[str, Any]) -> None:
    answer = owner.get(f"/tasks/{kept['id']}/files/deep/er/notes.txt")
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "notes.txt" in answer.headers["content-disposition"]
    assert answer.headers["content-length"] == "10"
    assert answer.headers["etag"]


RANGES = {
    "bytes=0-3": (b"0123", "bytes 0-3/10"),
    "bytes=4-": (b"456789", "bytes 4-9/10"),
    "bytes=-3": (b"789", "bytes 7-9/10"),
    "bytes=8-100": (b"89", "bytes 8-9/10"),
}


@pytest.mark.parametrize("asked", RANGES)
def test_range_gives_206(owner: httpx.Client, kept: dict[str, Any], asked: str) -> None:
    answer = owner.get(f"/tasks/{kept['id']}/files/notes.txt", headers={"Range": asked})
    content, told = RANGES[asked]
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, content, told)


def test_a_range_beyond_the_end_is_416_with_the_size(owner: httpx.Client, kept: dict[str, Any]) -> None:
    answer = owner.get(f"/tasks/{kept['id']}/files/notes.txt", headers={"Range": "bytes=10-20"})
    check_error(answer, 416)
    assert answer.headers["content-range"] == "bytes */10"


def test_if_none_match_gives_304(owner: httpx.Client, kept: dict[str, Any]) -> None:
    path = f"/tasks/{kept['id']}/files/notes.txt"
    tag = owner.get(path).headers["etag"]
    for tags in (tag, f'"other", {tag}', "*", f"W/{tag}"):
        answer = owner.get(path, headers={"If-None-Match": tags})
        assert (answer.status_code, answer.content) == (304, b""), tags
        assert answer.headers["etag"] == tag
    assert owner.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_etag_changes_with_the_content(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    tags = set()
    for content in (b"one", b"two", b"six"):
        put(owner, task_id, "a.txt", content)
        tags.add(owner.get(f"/tasks/{task_id}/files/a.txt").headers["etag"])
    assert len(tags) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-3", "If-Range": "Mon, 01 Jan 2001 00:00:00 GMT"},
        {"Range": "bytes=0-3", "If-Range": '"other"'},
        {"Range": "lines=0-3"},
    ],
    ids=["of an older date", "of another version", "of another unit"],
)
def test_a_range_that_does_not_count_gives_the_whole_file(
    owner: httpx.Client, kept: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = owner.get(f"/tasks/{kept['id']}/files/notes.txt", headers=headers)
    assert (answer.status_code, answer.content) == (200, b"0123456789")


@pytest.mark.parametrize("header", [{"If-Match": '"other"'}, {"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}])
def test_another_version_than_the_one_asked_for_is_412(
    owner: httpx.Client, kept: dict[str, Any], header: dict[str, str]
) -> None:
    check_error(owner.get(f"/tasks/{kept['id']}/files/notes.txt", headers=header), 412)


def test_head_tells_the_size(owner: httpx.Client, kept: dict[str, Any]) -> None:
    answer = owner.head(f"/tasks/{kept['id']}/files/notes.txt")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "10", b"")


def test_upload_gives_201_with_path_and_size_and_makes_parents(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    assert put(owner, task_id, "a/b/c.txt", b"12345") == {"path": "a/b/c.txt", "size": 5}
    assert owner.get(f"/tasks/{task_id}/files/a/b/c.txt").content == b"12345"


def test_upload_replaces(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    for content in (b"a long first version", b"short"):
        put(owner, task_id, "a.txt", content)
        assert owner.get(f"/tasks/{task_id}/files/a.txt").content == content


def test_an_empty_file_can_be_stored(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    assert put(owner, task_id, "empty", b"") == {"path": "empty", "size": 0}
    assert owner.get(f"/tasks/{task_id}/files/empty").content == b""


@pytest.mark.parametrize("name", ["Ночь α.txt", "with space.txt", "100%25.txt", "semi;colon", "quote'.txt", "a+b.txt"])
def test_unusual_names(owner: httpx.Client, make_task: MakeTask, name: str) -> None:
    task_id = make_task()["id"]
    put(owner, task_id, name)
    (listed,) = names_of(owner, task_id)
    assert listed == name.replace("%25", "%")
    answer = owner.get(f"/tasks/{task_id}/files/{name}")
    assert answer.content == b"content"
    assert "\n" not in answer.headers["content-disposition"]


@pytest.mark.parametrize("body", [{}, {"data": {"file": "text"}}, {"json": {"file": "x"}}, {"files": {"other": b"x"}}])
def test_upload_without_a_file_is_400_that_names_it(owner: httpx.Client, kept: dict[str, Any], body: Any) -> None:
    check_error(owner.post(f"/tasks/{kept['id']}/files/x.txt", **body), 400, "file")


def test_upload_where_a_directory_is_is_refused(owner: httpx.Client, kept: dict[str, Any]) -> None:
    answer = owner.post(f"/tasks/{kept['id']}/files/deep", files={"file": ("x", b"x")})
    assert answer.status_code in {400, 404, 409}
    check_error(answer, answer.status_code)


def test_upload_below_a_file_is_refused(owner: httpx.Client, kept: dict[str, Any]) -> None:
    answer = owner.post(f"/tasks/{kept['id']}/files/notes.txt/x", files={"file": ("x", b"x")})
    assert answer.status_code in {400, 404, 409}
    check_error(answer, answer.status_code)


def test_delete_gives_204(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    put(owner, task_id, "a.txt")
    answer = owner.delete(f"/tasks/{task_id}/files/a.txt")
    assert (answer.status_code, answer.content) == (204, b"")
    check_error(owner.get(f"/tasks/{task_id}/files/a.txt"), 404)
    check_error(owner.delete(f"/tasks/{task_id}/files/a.txt"), 404)


@pytest.mark.parametrize("slash", ["", "/"])
def test_delete_of_a_directory_too(owner: httpx.Client, make_task: MakeTask, slash: str) -> None:
    task_id = make_task()["id"]
    put(owner, task_id, "a/b/c.txt")
    put(owner, task_id, "a/d.txt")
    assert owner.delete(f"/tasks/{task_id}/files/a{slash}").status_code == 204
    assert names_of(owner, task_id) == []


@pytest.mark.parametrize("path", ["", "/", "/.", "/./", "/%2e", "//", "/./."])
def test_delete_of_the_tasks_folder_is_405(
    owner: httpx.Client, make_task: MakeTask, scene_fits: bytes, path: str
) -> None:
    task_id = make_task(scene_fits)["id"]
    answer = owner.delete(f"/tasks/{task_id}/files{path}")
    check_error(answer, 405)
    assert "DELETE" not in answer.headers.get("allow", "")
    assert names_of(owner, task_id) == ["image.fits"]


def test_deleting_the_image_makes_the_task_initial_again(
    owner: httpx.Client, make_task: MakeTask, scene_fits: bytes
) -> None:
    task_id = make_task(scene_fits)["id"]
    assert owner.delete(f"/tasks/{task_id}/files/image.fits").status_code == 204
    task = check_ok(owner.get(f"/tasks/{task_id}/"))
    assert task["state"] in {"initial", "uploaded"}
    assert names_of(owner, task_id) == []


def test_an_uploaded_image_makes_the_task_uploaded(owner: httpx.Client, make_task: MakeTask, scene_fits: bytes) -> None:
    task_id = make_task()["id"]
    put(owner, task_id, "image.fits", scene_fits)
    assert check_ok(owner.get(f"/tasks/{task_id}/state/"))["state"] == "uploaded"


@pytest.mark.parametrize("name", [*SPECIAL, "mask.fits", "inspect.log", "objects.vot", "targets/x.cutout"])
def test_while_running_inputs_and_outputs_answer_409(
    owner: httpx.Client, make_task: MakeTask, field_fits: bytes, name: str
) -> None:
    task_id = make_task(field_fits)["id"]
    with a_run(owner, task_id):
        check_error(owner.post(f"/tasks/{task_id}/files/{name}", files={"file": ("x", b"x")}), 409)
        check_error(owner.delete(f"/tasks/{task_id}/files/{name}"), 409)
        assert owner.get(f"/tasks/{task_id}/files/image.fits").content == field_fits


def test_while_running_other_names_are_allowed(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    task_id = make_task(field_fits)["id"]
    with a_run(owner, task_id):
        put(owner, task_id, "my notes.txt")
        put(owner, task_id, "mine/too.txt")
        assert owner.delete(f"/tasks/{task_id}/files/my notes.txt").status_code == 204


def test_a_custom_mask_has_a_meaning_to_inspection(owner: httpx.Client, make_task: MakeTask, field_fits: bytes) -> None:
    import numpy as np

    from tests.support.conformance import fits_bytes, pixels_of

    task_id = make_task(field_fits)["id"]
    mask = np.zeros((256, 256), np.uint8)
    mask[100:150, 40:60] = 1
    put(owner, task_id, "custom_mask.fits", fits_bytes(mask))
    check_ok(owner.post(f"/tasks/{task_id}/process/", json={"steps": ["inspect"]}))
    assert ended(owner, task_id)["state"] == "inspect_done"
    masked, _ = pixels_of(owner.get(f"/tasks/{task_id}/files/mask.fits").content)
    assert masked[100:150, 40:60].all()
    assert masked.mean() < 0.2


def test_a_file_is_replaced_atomically(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task()["id"]
    versions = [bytes([65 + number]) * (200_000 + number * 50_000) for number in range(4)]
    put(owner, task_id, "a.bin", versions[0])
    over = threading.Event()

    def write() -> None:
        for _ in range(8):
            for version in versions:
                put(owner, task_id, "a.bin", version)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not over.is_set():
        content = owner.get(f"/tasks/{task_id}/files/a.bin").content
        assert content in versions
        seen.add(content[0])
    writer.join()
    assert len(seen) > 1
    assert names_of(owner, task_id) == ["a.bin"]
