"""POST /api/tasks/."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import MakeTask
from tests.support.conformance import (
    COLUMNS,
    ROWS,
    TIMESTAMP,
    Site,
    check_error,
    check_ok,
    config_of,
    names_of,
    needs,
    pixels_of,
)

FIELDS = {
    "id", "original_name", "title", "state", "user", "groups", "created", "modified", "completed", "config",
    "celery_id", "path",
}  # fmt: skip


def number_of_tasks(api: httpx.Client) -> int:
    return int(check_ok(api.get("/tasks/", params={"limit": 1}))["count"])


def test_multipart_upload_gives_201_with_the_full_task(make_task: MakeTask, scene_fits: bytes, site: Site) -> None:
    task = make_task(scene_fits, name="m31.fits", title="Andromeda", config='{"filter": "R"}')
    assert set(task) >= FIELDS
    assert task["original_name"] == "m31.fits"
    assert task["title"] == "Andromeda"
    assert task["state"] == "uploaded"
    assert task["user"] == site.credentials("owner")[0]
    assert task["groups"] == []
    assert task["config"] == {"filter": "R"}
    assert task["celery_id"] is None
    assert task["completed"] is None
    assert TIMESTAMP.fullmatch(task["created"])
    assert TIMESTAMP.fullmatch(task["modified"])
    assert isinstance(task["id"], int)
    assert task["path"].endswith(f"/{task['id']}")


def test_the_upload_is_stored_as_image_fits(owner: httpx.Client, make_task: MakeTask, scene_fits: bytes) -> None:
    task = make_task(scene_fits, name="other.fits")
    assert names_of(owner, task["id"]) == ["image.fits"]
    assert owner.get(f"/tasks/{task['id']}/files/image.fits").content == scene_fits


def test_json_without_a_file_is_initial(owner: httpx.Client, make_task: MakeTask) -> None:
    task = make_task(None, name="later.fits", title="Without", config={"filter": "V"})
    assert (task["state"], task["original_name"], task["config"]) == ("initial", "later.fits", {"filter": "V"})
    assert names_of(owner, task["id"]) == []


def test_a_form_without_a_file_is_initial(owner: httpx.Client) -> None:
    task = check_ok(owner.post("/tasks/", data={"original_name": "later.fits", "title": "form"}), 201)
    assert (task["state"], task["title"]) == ("initial", "form")
    assert owner.delete(f"/tasks/{task['id']}/").status_code == 204


def test_neither_file_nor_name_is_400_that_names_original_name(owner: httpx.Client) -> None:
    before = number_of_tasks(owner)
    for body in ({"json": {}}, {"data": {"title": "x"}}, {"files": {"title": (None, "x")}}):
        check_error(owner.post("/tasks/", **body), 400, "original_name")
    assert number_of_tasks(owner) == before


def test_original_name_may_differ_from_the_upload(make_task: MakeTask, scene_fits: bytes) -> None:
    assert make_task(scene_fits, name="a.fits", original_name="b.fits")["original_name"] == "b.fits"


@pytest.mark.parametrize("given", ["/etc/passwd", "C:\\images\\passwd", "../../passwd", "passwd"])
def test_original_name_defaults_to_the_uploads_base_name(make_task: MakeTask, scene_fits: bytes, given: str) -> None:
    assert make_task(scene_fits, name=given)["original_name"] == "passwd"


def test_unicode_names_and_titles_are_kept(owner: httpx.Client, make_task: MakeTask, scene_fits: bytes) -> None:
    task = make_task(scene_fits, name="Überriese α.fits", title="M 31 — “Ночь” 🔭")
    read = check_ok(owner.get(f"/tasks/{task['id']}/"))
    assert (read["original_name"], read["title"]) == ("Überriese α.fits", "M 31 — “Ночь” 🔭")


def test_ids_increase_and_are_never_reused(owner: httpx.Client, make_task: MakeTask) -> None:
    first = make_task()["id"]
    second = make_task()["id"]
    assert owner.delete(f"/tasks/{second}/").status_code == 204
    assert first < second < make_task()["id"]


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ('{"filter": "R", "sn": 3.5}', {"filter": "R", "sn": 3.5}),
        ("{'filter': 'R'}", {"filter": "R"}),
        ("{'filter': 'R', 'use_color': False, 'bg_order': None}", {"filter": "R", "use_color": False}),
        ("{'stack_filenames': ['a.fits', 'b.fits']}", {"stack_filenames": ["a.fits", "b.fits"]}),
        ("", {}),
        ("{}", {}),
    ],
)
def test_config_as_json_or_python_literal_in_a_string(
    make_task: MakeTask, scene_fits: bytes, sent: str, read: dict[str, Any]
) -> None:
    assert make_task(scene_fits, config=sent)["config"] == read
    assert make_task(None, config=sent)["config"] == read


def test_config_as_an_object(make_task: MakeTask) -> None:
    config = {"filter": "R", "my_own_key": {"nested": [1, None, "x"]}, "sn": "4.5"}
    read = make_task(None, config=config)["config"]
    assert read["my_own_key"] == {"nested": [1, None, "x"]}  # unknown keys are kept
    assert float(read["sn"]) == 4.5  # a number as a string is accepted


BAD_CONFIGS = {
    "a list": "[1, 2]",
    "a call": "__import__('os').system('true')",
    "broken": "{'filter': ",
    "no object": "17",
    "a set": "{'a', 'b'}",
    "bytes": "{'a': b'x'}",
    "NaN": '{"own": NaN}',
    "deep": "[" * 5000,
    "deep inside": '{"a":' * 2000 + "1" + "}" * 2000,
    "a key with a dot": '{"a.b": 1}',
    "a key with a leading $": '{"$where": 1}',
    "a key with NUL": '{"a\\u0000b": 1}',
    "a long key": json.dumps({"k" * 65: 1}),
    "a number as key": "{1: 2}",
    "too large": json.dumps({"own": "x" * 263_000}),
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_a_bad_config_is_400_and_leaves_no_task(owner: httpx.Client, scene_fits: bytes, what: str) -> None:
    before = number_of_tasks(owner)
    form = {"file": ("x.fits", scene_fits)}
    check_error(owner.post("/tasks/", files=form, data={"config": BAD_CONFIGS[what]}), 400, "config")
    assert number_of_tasks(owner) == before


BAD_VALUES = {
    "sn": ["many", -1, True, [], {}],
    "use_color": ["perhaps", 7],
    "minarea": [1.5, "x", 0],
    "filter": [7, {}],
    "cat_name": ["no such catalogue"],
    "cat_limit": ["faint"],
    "spatial_order": [-1, 1000],
    "rel_aper": [0, -1, "wide"],
    "gain": [-1, "x"],
    "cutout_size": [0, 10_000_000],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD_VALUES.items() for value in values])
def test_a_bad_config_value_is_400_that_names_the_key(owner: httpx.Client, key: str, value: Any) -> None:
    check_error(owner.post("/tasks/", json={"original_name": "x", "config": {key: value}}), 400, key)


def test_keys_of_64_characters_and_256_kib_are_allowed(make_task: MakeTask) -> None:
    config = {"k" * 64: "x" * 250_000}
    assert make_task(None, config=config)["config"] == config


@pytest.mark.parametrize("groups", [7, [7], {"a": 1}])
def test_groups_that_are_no_names_are_400(owner: httpx.Client, groups: Any) -> None:
    check_error(owner.post("/tasks/", json={"original_name": "x", "groups": groups}), 400, "groups")


def test_groups_share_the_task(make_task: MakeTask, site: Site, member: httpx.Client, scene_fits: bytes) -> None:
    for task in (make_task(None, groups=[site.group]), make_task(scene_fits, groups=site.group)):
        assert task["groups"] == [site.group]
        check_ok(member.get(f"/tasks/{task['id']}/"))


@pytest.mark.parametrize("name", ["title", "original_name"])
@pytest.mark.parametrize("value", [7, ["x"], "a\0b", "x" * 100_000])
def test_bad_texts_are_400_that_names_the_field(owner: httpx.Client, name: str, value: Any) -> None:
    check_error(owner.post("/tasks/", json={"original_name": "x", name: value}), 400, name)


def test_fields_that_clients_may_not_set_are_ignored(make_task: MakeTask, site: Site) -> None:
    task = make_task(None, state="photometry_done", user="root", id=1, celery_id="x", path="/etc", completed="now")
    assert task["state"] == "initial"
    assert task["user"] == site.credentials("owner")[0]
    assert task["id"] > 1 or task["original_name"] == "scene.fits"
    assert task["celery_id"] is None
    assert "/etc" not in task["path"]


def test_two_files_are_400(owner: httpx.Client, scene_fits: bytes) -> None:
    files = [("file", ("a.fits", scene_fits)), ("file", ("b.fits", scene_fits))]
    check_error(owner.post("/tasks/", files=files), 400, "file")


def test_a_cut_off_upload_leaves_no_task(site: Site, owner: httpx.Client) -> None:
    before = number_of_tasks(owner)
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.fits"\r\n\r\nSIMPLE'
    head = b"POST BASE/tasks/ HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n"
    head += b"Authorization: " + owner.headers["Authorization"].encode() + b"\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n" % len(part)
    answer, _ = site.raw(head + part)
    assert answer.status == 400
    assert number_of_tasks(owner) == before


def test_the_fields_may_follow_the_file(owner: httpx.Client, scene_fits: bytes) -> None:
    files = [("file", ("a.fits", scene_fits)), ("title", (None, "after")), ("config", (None, "{'sn': 4}"))]
    task = check_ok(owner.post("/tasks/", files=files), 201)
    assert (task["title"], task["config"]) == ("after", {"sn": 4})
    assert owner.delete(f"/tasks/{task['id']}/").status_code == 204


def test_local_file_is_copied_from_the_shared_data_directory(
    owner: httpx.Client, make_task: MakeTask, site: Site
) -> None:
    path = site.data_file or needs("DATA_FILE")
    task = make_task(None, name=None, local_file=path)
    assert task["state"] == "uploaded"
    assert task["original_name"] == path.rsplit("/", 1)[-1]
    assert owner.get(f"/tasks/{task['id']}/files/image.fits").content == owner.get(f"/files/{path}").content


def test_local_file_in_a_form(owner: httpx.Client, site: Site) -> None:
    path = site.data_file or needs("DATA_FILE")
    task = check_ok(owner.post("/tasks/", data={"local_file": path, "original_name": "mine.fits"}), 201)
    assert (task["state"], task["original_name"]) == ("uploaded", "mine.fits")
    assert owner.delete(f"/tasks/{task['id']}/").status_code == 204


@pytest.mark.parametrize(
    "path", ["nothing.fits", "../../etc/passwd", "/etc/passwd", "nights", "a\0b", "..", "%2e%2e/x", "x" * 5000, 7, [1]]
)
def test_a_local_file_that_is_none_is_400_that_names_it(owner: httpx.Client, path: Any) -> None:
    check_error(owner.post("/tasks/", json={"local_file": path}), 400, "local_file")


def test_ext_picks_one_extension(owner: httpx.Client, make_task: MakeTask, site: Site) -> None:
    from tests.support.conformance import ended

    task = make_task(None, name=None, local_file=site.data_file or needs("DATA_FILE"), ext=1)
    assert task["state"] == "uploaded"
    check_ok(owner.post(f"/tasks/{task['id']}/process/", json={"steps": ["inspect"]}))
    ended(owner, task["id"])
    pixels, _ = pixels_of(owner.get(f"/tasks/{task['id']}/files/image.fits").content)
    assert pixels.shape == (ROWS // 2, COLUMNS)


@pytest.mark.parametrize("ext", [-2, "x", 1.5, 10**9, [0]])
def test_a_bad_ext_is_400_that_names_it(owner: httpx.Client, site: Site, ext: Any) -> None:
    path = site.data_file or needs("DATA_FILE")
    check_error(owner.post("/tasks/", json={"local_file": path, "ext": ext}), 400, "ext")


def preset_of(site: Site, api: httpx.Client) -> int:
    name = site.preset or needs("PRESET")
    return next(int(row["id"]) for row in check_ok(api.get("/presets/")) if row["name"] == name)


def test_config_of_a_preset_is_the_base_and_explicit_keys_win(
    owner: httpx.Client, make_task: MakeTask, site: Site, scene_fits: bytes
) -> None:
    preset = preset_of(site, owner)
    assert config_of(owner, make_task(None, preset=preset)["id"]) == {"filter": "V", "sn": 4}
    task = make_task(scene_fits, preset=preset, config='{"sn": 7, "own": 1}')
    assert task["config"] == {"filter": "V", "sn": 7, "own": 1}


def test_files_of_a_preset_are_copied(owner: httpx.Client, make_task: MakeTask, site: Site, scene_fits: bytes) -> None:
    task_id = make_task(scene_fits, preset=preset_of(site, owner))["id"]
    assert names_of(owner, task_id) == ["custom_mask.fits", "image.fits"]
    assert pixels_of(owner.get(f"/tasks/{task_id}/files/custom_mask.fits").content)[0].shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("preset", [0, -1, 10**12, "x", [1], {"id": 1}, 1.5])
def test_an_unknown_preset_is_400_that_names_it(owner: httpx.Client, preset: Any) -> None:
    check_error(owner.post("/tasks/", json={"original_name": "x", "preset": preset}), 400, "preset")


def test_what_is_not_fits_is_stored_all_the_same(owner: httpx.Client, make_task: MakeTask) -> None:
    task = make_task(b"this is not FITS", name="text.fits")
    assert task["state"] == "uploaded"
    assert owner.get(f"/tasks/{task['id']}/files/image.fits").content == b"this is not FITS"


def test_timestamps_are_utc_ending_in_z(make_task: MakeTask) -> None:
    task = make_task()
    assert re.search(r"Z$", task["created"])
    assert task["created"] <= task["modified"]
