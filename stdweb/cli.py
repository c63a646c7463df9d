"""The command line `stdweb`: users, tokens, presets, catalogues, and a client of the API.

Run in the folder in which a stack was started it finds that stack's settings; else `STDWEB_MONGO_URL` says where the
store is.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from . import admin_cli, catalog_cli, limits
from .admin import with_admin
from .client import ApiError
from .settings import STATE_FOLDER, StackError, StackSettings, StackState
from .submit import get, parse_config, status, submit

if TYPE_CHECKING:
    from services.gateway.admin import Admin

T = TypeVar("T")

app = typer.Typer(help="Command line of STDWeb.", no_args_is_help=True, add_completion=False)
user_app = typer.Typer(help="Users of the service.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens for the API.", no_args_is_help=True)
preset_app = typer.Typer(help="Presets: configs to start tasks from.", no_args_is_help=True)
app.add_typer(user_app, name="user")
app.add_typer(token_app, name="token")
app.add_typer(preset_app, name="preset")
app.add_typer(catalog_cli.app, name="catalog")
app.add_typer(admin_cli.app, name="admin")
app.command()(submit)
app.command()(status)
app.command()(get)

console = Console(highlight=False, soft_wrap=True, markup=False)

Name = Annotated[str, typer.Argument(help="Name of the user")]
Groups = Annotated[list[str] | None, typer.Option("--group", help="Group, made when missing; may be repeated")]
Grants = Annotated[
    list[str] | None, typer.Option("--grant", help="view_all_tasks or edit_all_tasks; may be repeated", metavar="GRANT")
]
FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input")]


@user_app.command("add")
def user_add(
    name: Name,
    password_stdin: FromStdin = False,
    staff: Annotated[bool, typer.Option("--staff", help="Sees and edits every task")] = False,
    group: Groups = None,
    grant: Grants = None,
) -> None:
    """Add a user; without --password-stdin the password is asked for."""
    password = _password(password_stdin)
    _with_store(lambda admin: admin.add_user(name, password, is_staff=staff, groups=group or [], grants=grant or []))
    console.print(f"Added user {name}")


@user_app.command("set")
def user_set(
    name: Name,
    staff: Annotated[bool | None, typer.Option("--staff/--no-staff", help="Sees and edits every task")] = None,
    group: Groups = None,
    no_groups: Annotated[bool, typer.Option("--no-groups", help="Takes all groups away")] = False,
    grant: Grants = None,
    no_grants: Annotated[bool, typer.Option("--no-grants", help="Takes all grants away")] = False,
    quota: Annotated[
        str | None,
        typer.Option(help="Files of all tasks of the user: 500M, 2G, 1T; none; or site, for what the site allows"),
    ] = None,
    max_steps: Annotated[
        str | None,
        typer.Option(help="Steps of the user in a queue: a number, or site; never more than the site allows"),
    ] = None,
) -> None:
    """Change a user; groups and grants that are given replace those that were."""
    changes: dict[str, Any] = {
        "is_staff": staff,
        "groups": _all_or_none("group", group, no_groups),
        "grants": _all_or_none("grant", grant, no_grants),
        "quota_bytes": None if quota is None else limits.quota_of(quota),
        "max_steps": None if max_steps is None else limits.steps_of(max_steps),
    }
    if all(change is None for change in changes.values()):
        raise typer.BadParameter("nothing to change; see --help for what can be")
    _with_store(lambda admin: admin.set_user(name, **changes))
    console.print(f"Changed user {name}")


@user_app.command("passwd")
def user_passwd(name: Name, password_stdin: FromStdin = False) -> None:
    """Set a user's password."""
    password = _password(password_stdin)
    _with_store(lambda admin: admin.set_password(name, password))
    console.print(f"Changed the password of {name}")


@user_app.command("secret")
def user_secret(name: Name) -> None:
    """Make the secret that signs a user's callbacks and print it; it replaces the one before."""
    console.print(_with_store(lambda admin: admin.new_secret(name)))


@user_app.command("list")
def user_list() -> None:
    """List the users."""
    table = Table("name", "staff", "groups", "grants", "quota", "steps")
    for user in _with_store(lambda admin: admin.list_users()):
        table.add_row(
            user.name,
            "yes" if user.is_staff else "",
            ", ".join(sorted(user.groups)),
            ", ".join(sorted(user.grants)),
            limits.shown_quota(user.quota_bytes),
            "" if user.max_steps is None else str(user.max_steps),
        )
    console.print(table)


@token_app.command("create")
def token_create(name: Name) -> None:
    """Make a token for a user and print it; it is not shown again."""
    console.print(_with_store(lambda admin: admin.create_token(name)))


@token_app.command("revoke")
def token_revoke(name: Name) -> None:
    """Revoke all tokens of a user."""
    console.print(f"Revoked {_with_store(lambda admin: admin.revoke_tokens(name))} tokens of {name}")


@preset_app.command("add")
def preset_add(
    name: Annotated[str, typer.Argument(help="Name of the preset")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files for the tasks that start from it, such as custom_mask.fits", dir_okay=False),
    ] = None,
    config: Annotated[list[str] | None, typer.Option(help="Option, key=value; may be repeated")] = None,
) -> None:
    """Add a preset."""
    options = parse_config(config or [])
    data_dir = _data_dir()
    _with_store(lambda admin: admin.add_preset(name, options, files or (), data_dir))
    console.print(f"Added preset {name}")


@preset_app.command("list")
def preset_list() -> None:
    """List the presets."""
    table = Table("id", "name", "config", "files")
    for preset in _with_store(lambda admin: admin.list_presets()):
        table.add_row(str(preset.id), preset.name, json.dumps(preset.config), ", ".join(preset.files))
    console.print(table)


def _all_or_none(option: str, given: list[str] | None, none: bool) -> list[str] | None:
    """Give what was asked for; None leaves as it is."""
    if given and none:
        raise typer.BadParameter(f"either --{option} or --no-{option}s")
    return [] if none else given or None


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


def _data_dir() -> Path | None:
    """Find the shared volume of the running stack, or the one that the environment names; None when not known."""
    state = StackState.load(STATE_FOLDER)
    return StackSettings.read().data_dir or (state.volume if state else None)


def _with_store(work: Callable[["Admin"], Awaitable[T]]) -> T:
    """Do something with the store of the running stack, or with the one that the environment names."""
    asked = StackSettings.read().mongo_url
    state = StackState.load(STATE_FOLDER)
    url = asked.get_secret_value() if asked else state.mongo_url if state else ""
    if not url:
        raise StackError("No stack was started in this folder. Start one with 'make up', or set STDWEB_MONGO_URL.")

    return asyncio.run(with_admin(url, work))


def main() -> None:
    """Run a command; a known failure is one message on standard error and exit code 1."""
    try:
        state = StackState.load(STATE_FOLDER)
        if state is not None and state.mirror_dir is not None:
            os.environ.setdefault("STDWEB_MIRROR_DIR", str(state.mirror_dir))
        app()
    except (ApiError, StackError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), style="red", markup=False)
        sys.exit(1)
