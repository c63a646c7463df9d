"""`stdweb admin import-stdweb`: take an old installation over."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .site import with_site

console = Console(highlight=False, soft_wrap=True, markup=False)


def import_stdweb(
    database: Annotated[
        Path,
        typer.Argument(help="Its db.sqlite3, or JSON of `manage.py dumpdata auth authtoken stdweb`", dir_okay=False),
    ],
    tasks: Annotated[Path, typer.Option(help="Its folder of tasks (TASKS_PATH)", file_okay=False)],
    data: Annotated[
        Path | None, typer.Option(help="Its data folder (DATA_PATH), for the files of presets", file_okay=False)
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Share files on the same volume with it, instead of copying them")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken over")] = False,
) -> None:
    """Take users, presets and tasks over from an old STDWeb installation, with ids, passwords, tokens and files."""
    from services.gateway.upkeep.importing import Source, import_site

    source = Source(database, tasks, data, link)
    done = with_site(lambda site: import_site(site, source, dry_run=dry_run))
    for note in done.notes:
        console.print(note)
    console.print(
        f"{'Would take' if dry_run else 'Took'} over {done.users} users, {done.tokens} tokens, {done.presets} presets, "
        f"{done.tasks} tasks, {done.files} files, {done.size_bytes:,} bytes"
        + (f"; {done.there} tasks were here already" if done.there else "")
    )
