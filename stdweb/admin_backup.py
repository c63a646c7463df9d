"""`stdweb admin backup` and `restore`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .site import with_site

if TYPE_CHECKING:
    from services.gateway.upkeep.backup import Summary

console = Console(highlight=False, soft_wrap=True, markup=False)


def backup(target: Annotated[Path, typer.Argument(help="New folder for the backup", file_okay=False)]) -> None:
    """Back store and files up, while everything goes on; keep it safe, it holds all that users have."""
    from services.gateway.upkeep.backup import back_up

    _tell("Backed up", with_site(lambda site: back_up(site, target)), target)


def restore(source: Annotated[Path, typer.Argument(help="Folder of a backup", file_okay=False)]) -> None:
    """Restore a backup into an empty installation, after a look at every file of it."""
    from services.gateway.upkeep.restore import restore as work

    _tell("Restored", with_site(lambda site: work(site, source)), source)


def _tell(done: str, summary: "Summary", folder: Path) -> None:
    counts = summary.counts
    console.print(
        f"{done} {counts['tasks']} tasks, {counts['users']} users, {counts['presets']} presets, {summary.files} files, "
        f"{summary.size_bytes:,} bytes of {summary.made:%Y-%m-%d %H:%M:%S} UTC: {folder}"
    )
