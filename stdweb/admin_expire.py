"""`stdweb admin expire`: delete what nobody needs any more."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .site import with_site

console = Console(highlight=False, soft_wrap=True, markup=False)


def expire(
    scratch_hours: Annotated[
        float, typer.Option(min=1, help="Age of what was set aside or left behind, and of unfinished uploads")
    ] = 24,
    cache_days: Annotated[float, typer.Option(min=0, help="Age of pictures and answers of archives in the cache")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted")] = False,
) -> None:
    """Delete old scratch, leftovers of old runs, and what the cache holds for too long; tells how many bytes."""
    from services.gateway.upkeep.expire import Ages
    from services.gateway.upkeep.expire import expire as work

    ages = Ages(scratch_hours * 3600, cache_days * 86400)
    found = with_site(lambda site: work(site, ages, dry_run=dry_run))
    table = Table("what", "number", "bytes")
    for one in found:
        table.add_row(one.kind, str(one.number), f"{one.size_bytes:,}")
    console.print(table)
    number, size = sum(one.number for one in found), sum(one.size_bytes for one in found)
    console.print(f"{'Would delete' if dry_run else 'Deleted'} {number} files and folders, {size:,} bytes")
