"""What an old STDWeb installation, a Django site, kept: from its SQLite file, or from what `dumpdata` wrote.

The tables: `auth_user`, `auth_group`, `auth_permission` and what joins them; `authtoken_token`; `stdweb_task` with
`stdweb_task_groups`; `stdweb_preset`. Columns came one by one over the years, and any of the later ones may be missing.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..domain.errors import Invalid
from ..model import GRANTS, now

_SQLITE: Final = b"SQLite format 3\0"
_TABLES: Final = {
    "auth.user": "auth_user",
    "auth.group": "auth_group",
    "auth.permission": "auth_permission",
    "authtoken.token": "authtoken_token",
    "stdweb.task": "stdweb_task",
    "stdweb.preset": "stdweb_preset",
}
_JOINS: Final = {
    ("auth.user", "groups"): ("auth_user_groups", "user_id", "group_id"),
    ("auth.user", "user_permissions"): ("auth_user_user_permissions", "user_id", "permission_id"),
    ("auth.group", "permissions"): ("auth_group_permissions", "group_id", "permission_id"),
    ("stdweb.task", "groups"): ("stdweb_task_groups", "task_id", "group_id"),
}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class OldUser:
    """A user; `token` is their key for the API."""

    name: str
    password: str
    is_staff: bool
    is_active: bool
    groups: tuple[str, ...]
    grants: tuple[str, ...]
    token: str | None


@dataclass(frozen=True)
class OldTask:
    """A task."""

    id: int
    original_name: str
    title: str
    state: str
    user: str
    groups: tuple[str, ...]
    created: datetime
    modified: datetime
    completed: datetime | None
    config: dict[str, Any]


@dataclass(frozen=True)
class OldPreset:
    """A preset; `files` are paths, one a line in the old system."""

    id: int
    name: str
    config: dict[str, Any]
    files: tuple[str, ...]


@dataclass(frozen=True)
class OldSite:
    """All of it."""

    users: list[OldUser] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    tasks: list[OldTask] = field(default_factory=list)
    presets: list[OldPreset] = field(default_factory=list)


def read(source: Path) -> OldSite:
    """Read a SQLite file, or the JSON of `manage.py dumpdata`.

    Raises
    ------
    Invalid
        When it is neither, or holds no such site.
    """
    try:
        with source.open("rb") as file:
            is_sqlite = file.read(len(_SQLITE)) == _SQLITE
        tables = _from_sqlite(source) if is_sqlite else _from_dump(source)
        if not tables["auth.user"] and not tables["stdweb.task"]:
            raise Invalid(f"{source} holds neither users nor tasks of an STDWeb site.")
        return _site(tables)
    except OSError as error:
        raise Invalid(f"{source} cannot be read: {error.strerror}") from None
    except (sqlite3.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(
            f"{source} is neither the SQLite file of an STDWeb site nor JSON of `manage.py dumpdata`: {error!r}"
        ) from None


def _from_sqlite(source: Path) -> dict[str, list[Row]]:
    connection = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.row_factory = sqlite3.Row
        there = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

        def rows(table: str) -> list[dict[str, Any]]:
            question = f"SELECT * FROM {table}"  # noqa: S608  only names from the tables above
            return [dict(row) for row in connection.execute(question)] if table in there else []

        tables = {model: rows(table) for model, table in _TABLES.items()}
        for (model, name), (join, own, other) in _JOINS.items():
            joined: defaultdict[int, list[int]] = defaultdict(list)
            for pair in rows(join):
                joined[pair[own]].append(pair[other])
            for row in tables[model]:
                row[name] = joined[row["id"]]
    finally:
        connection.close()
    renamed = {"user_id": "user"}
    return {
        model: [{renamed.get(key, key): value for key, value in row.items()} for row in rows_]
        for model, rows_ in tables.items()
    }


def _from_dump(source: Path) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {model: [] for model in _TABLES}
    for record in json.loads(source.read_text()):
        model = {"authtoken.tokenproxy": "authtoken.token"}.get(record["model"], record["model"])
        if model in tables:
            key = "key" if model == "authtoken.token" else "id"
            tables[model].append({key: record.get("pk"), **record["fields"]})
    return tables


def _site(tables: Mapping[str, list[Row]]) -> OldSite:
    permissions = {row["id"]: row["codename"] for row in tables["auth.permission"]}
    groups = {row["id"]: row["name"] for row in tables["auth.group"]}
    of_group = {row["name"]: _names(row.get("permissions"), permissions) for row in tables["auth.group"]}
    users = {row["id"]: row["username"] for row in tables["auth.user"]}
    tokens = {_name(row["user"], users): row["key"] for row in tables["authtoken.token"]}
    site = OldSite(groups=list(groups.values()))
    for row in tables["auth.user"]:
        member = _names(row.get("groups"), groups)
        allowed = {
            *_names(row.get("user_permissions"), permissions),
            *(name for group in member for name in of_group.get(group, ())),
        }
        site.users.append(
            OldUser(
                row["username"],
                row["password"],
                bool(row.get("is_staff")) or bool(row.get("is_superuser")),
                bool(row.get("is_active", True)),
                member,
                tuple(name for name in GRANTS if name in allowed),
                tokens.get(row["username"]),
            )
        )
    for row in tables["stdweb.task"]:
        created = _time(row.get("created")) or now()
        site.tasks.append(
            OldTask(
                int(row["id"]),
                row["original_name"],
                row.get("title") or "",
                row.get("state") or "",
                _name(row["user"], users),
                _names(row.get("groups"), groups),
                created,
                _time(row.get("modified")) or created,
                _time(row.get("completed")),
                _config(row.get("config")),
            )
        )
    for row in tables["stdweb.preset"]:
        lines = [line.strip() for line in (row.get("files") or "").splitlines()]
        site.presets.append(
            OldPreset(int(row["id"]), row["name"], _config(row.get("config")), tuple(filter(None, lines)))
        )
    return site


def _name(key: Any, names: Mapping[int, str]) -> str:
    """Resolve a key: a number, or with `--natural-foreign` a list that begins with the name."""
    return str(key[0]) if isinstance(key, list) else names[key]


def _names(keys: Iterable[Any] | None, names: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(
        str(key[0]) if isinstance(key, list) else names[key]
        for key in keys or ()
        if isinstance(key, list) or key in names
    )


def _time(value: Any) -> datetime | None:
    if not value:
        return None
    at = datetime.fromisoformat(str(value))
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _config(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else {}
    return value if isinstance(value, dict) else {}
