"""An old STDWeb installation, as Django kept it."""

import json
import sqlite3
from pathlib import Path
from typing import Any

# of Django's own tests: the password is lètmein
PASSWORD = "lètmein"
HASH = "pbkdf2_sha256$260000$seasalt$YlZ2Vggtqdc61YjArZuoApoBh9JNGYoDRBUGu6tcJQo="
TOKEN = "9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b"

_SCHEMA = """
CREATE TABLE auth_user (id integer PRIMARY KEY, password varchar(128), last_login datetime, is_superuser bool,
  username varchar(150), last_name varchar(150), email varchar(254), is_staff bool, is_active bool,
  date_joined datetime, first_name varchar(150));
CREATE TABLE auth_group (id integer PRIMARY KEY, name varchar(150));
CREATE TABLE auth_user_groups (id integer PRIMARY KEY, user_id integer, group_id integer);
CREATE TABLE auth_permission (id integer PRIMARY KEY, content_type_id integer, codename varchar(100),
  name varchar(255));
CREATE TABLE auth_user_user_permissions (id integer PRIMARY KEY, user_id integer, permission_id integer);
CREATE TABLE auth_group_permissions (id integer PRIMARY KEY, group_id integer, permission_id integer);
CREATE TABLE authtoken_token (key varchar(40) PRIMARY KEY, created datetime, user_id integer);
CREATE TABLE stdweb_task (id integer PRIMARY KEY, original_name varchar(250), title varchar(250), state varchar(50),
  created datetime, modified datetime, config text, user_id integer, celery_id varchar(50), completed datetime,
  celery_chain_ids text, celery_pid integer, ra real, dec real, radius real, moc text);
CREATE TABLE stdweb_task_groups (id integer PRIMARY KEY, task_id bigint, group_id integer);
CREATE TABLE stdweb_preset (id integer PRIMARY KEY, name varchar(250), config text, files text);
"""

CONFIG: dict[str, Any] = {
    "filter": "R",
    "gain": 2.5,
    "sn": "4",
    "target": "M 31",
    "fwhm": 3.2,
    "zp": 25.1,
    "targets": [{"name": "M 31", "ra": 10.68, "dec": 41.27}],
    "blind_match_ps_lo": None,
    "minarea": "many",
    "my.key": 1,
    "own": {"x": [1, 2]},
}

USERS = [
    # id, name, password, staff, superuser, active
    (1, "admin", "argon2$argon2id$v=19$m=8,t=1,p=1$c2Vhc2FsdHNlYXNhbHQ$x", True, True, True),
    (2, "ann", HASH, False, False, True),
    (3, "bob", "bcrypt_sha256$$2b$12$xyz", False, False, True),
    (4, "old", HASH, False, False, False),
]
GROUPS = [(1, "nova"), (2, "survey")]
MEMBERS = [(2, 1), (3, 1), (3, 2)]
PERMISSIONS = [(31, "view_all_tasks"), (32, "edit_all_tasks"), (33, "skyportal_upload")]
USER_PERMISSIONS = [(2, 31), (2, 33)]
GROUP_PERMISSIONS = [(2, 32)]
TASKS = [
    # id, name, title, state, config, user, completed, groups
    (7, "m31.fits", "Andromeda", "photometry_done", CONFIG, 2, "2025-06-30 13:45:00.123456", (1,)),
    (9, "raw.fits", "", "uploaded", {}, 2, None, ()),
    (12, "stuck.fits", "stuck", "running", {}, 3, None, ()),
    (13, "lost.fits", "", "inspect_failed", {}, 3, None, (1, 2)),
]
PRESETS = [(2, "wide", {"sn": 3}, "masks/custom_mask.fits\n\nmasks/none.fits"), (5, "plain", {"filter": "r"}, "")]
CREATED = "2025-06-30 12:00:00.654321"


def make_files(folder: Path) -> None:
    """Make the folders of tasks and data."""
    for name, content in {
        "tasks/7/image.fits": "image",
        "tasks/7/mask.fits": "mask",
        "tasks/7/inspect.log": "inspected",
        "tasks/7/objects.vot": "objects",
        "tasks/7/photometry.log": "measured",
        "tasks/7/targets/target_0000.cutout": "cutout",
        "tasks/7/custom_template.fits": "template",
        "tasks/7/photometry.pickle": "pickle",
        "tasks/7/.tmp/junk": "junk",
        "tasks/9/image.fits": "raw",
        "tasks/12/image.fits": "image",
        "tasks/12/inspect.log": "half",
        "data/masks/custom_mask.fits": "mask of all",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "tasks/7/link.fits").symlink_to("/etc/passwd")


def make_sqlite(path: Path) -> None:  # noqa: C901 - one loop a table
    """Write the SQLite file of the site."""
    with sqlite3.connect(path) as base:
        base.executescript(_SCHEMA)

        def put(table: str, **row: Any) -> None:
            marks = ", ".join("?" * len(row))
            base.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))

        for number, name, password, staff, superuser, active in USERS:
            put(
                "auth_user",
                id=number,
                username=name,
                password=password,
                is_staff=staff,
                is_superuser=superuser,
                is_active=active,
            )
        for number, name in GROUPS:
            put("auth_group", id=number, name=name)
        for user, group in MEMBERS:
            put("auth_user_groups", user_id=user, group_id=group)
        for number, name in PERMISSIONS:
            put("auth_permission", id=number, codename=name)
        for user, permission in USER_PERMISSIONS:
            put("auth_user_user_permissions", user_id=user, permission_id=permission)
        for group, permission in GROUP_PERMISSIONS:
            put("auth_group_permissions", group_id=group, permission_id=permission)
        put("authtoken_token", key=TOKEN, user_id=2, created=CREATED)
        for number, name, title, state, config, user, completed, groups in TASKS:
            put(
                "stdweb_task",
                id=number,
                original_name=name,
                title=title,
                state=state,
                config=json.dumps(config),
                user_id=user,
                completed=completed,
                created=CREATED,
                modified=CREATED,
                celery_chain_ids="[]",
            )
            for group in groups:
                put("stdweb_task_groups", task_id=number, group_id=group)
        for number, name, config, files in PRESETS:
            put("stdweb_preset", id=number, name=name, config=json.dumps(config), files=files)
    base.close()


def make_dump(path: Path) -> None:
    """Write what `manage.py dumpdata` writes of the same site."""
    records: list[tuple[str, Any, dict[str, Any]]] = [("contenttypes.contenttype", 1, {"app_label": "stdweb"})]
    records += [("auth.permission", number, {"codename": name}) for number, name in PERMISSIONS]
    records += [
        ("auth.group", number, {"name": name, "permissions": [p for g, p in GROUP_PERMISSIONS if g == number]})
        for number, name in GROUPS
    ]
    for number, name, password, staff, superuser, active in USERS:
        fields = {
            "username": name,
            "password": password,
            "is_staff": staff,
            "is_superuser": superuser,
            "is_active": active,
        }
        fields["groups"] = [group for user, group in MEMBERS if user == number]
        # as --natural-foreign writes them
        fields["user_permissions"] = [
            [dict(PERMISSIONS)[p], "stdweb", "task"] for user, p in USER_PERMISSIONS if user == number
        ]
        records.append(("auth.user", number, fields))
    records.append(("authtoken.token", TOKEN, {"user": 2, "created": "2025-06-30T12:00:00Z"}))
    at = "2025-06-30T12:00:00.654Z"
    for number, name, title, state, config, user, completed, groups in TASKS:
        fields = {"original_name": name, "title": title, "state": state, "config": config, "user": user, "created": at}
        fields |= {"modified": at, "completed": completed and "2025-06-30T13:45:00.123Z", "groups": list(groups)}
        records.append(("stdweb.task", number, fields))
    for number, name, config, files in PRESETS:
        records.append(("stdweb.preset", number, {"name": name, "config": config, "files": files}))
    path.write_text(json.dumps([{"model": model, "pk": pk, "fields": fields} for model, pk, fields in records]))
