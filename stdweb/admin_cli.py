"""`stdweb admin …`: care of a whole installation."""

import logging
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from rich.console import Console
from rich.table import Table

from . import admin_letters
from .admin_backup import backup, restore
from .admin_expire import expire
from .admin_import import import_stdweb
from .site import with_site

if TYPE_CHECKING:
    from services.gateway.upkeep import Site
    from services.gateway.upkeep.check import Mended
    from services.gateway.upkeep.findings import Finding

app = typer.Typer(help="Care of an installation: see docs/administration.md.", no_args_is_help=True)
app.add_typer(admin_letters.app, name="dead-letters")
app.command()(expire)
app.command()(backup)
app.command()(restore)
app.command()(import_stdweb)

console = Console(highlight=False, soft_wrap=True, markup=False)

NoQueues = Annotated[
    bool, typer.Option("--no-queues", help="Leave active runs out, which need the broker, while it is away")
]


@app.callback()
def quiet() -> None:
    """Care of an installation: see docs/administration.md."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@app.command()
def check(
    no_queues: NoQueues = False,
    repair_too: Annotated[bool, typer.Option("--repair", help="Mend what is safe to mend")] = False,
) -> None:
    """Find what store, files and queues do not agree on; exit code 1 when there is something."""
    if repair_too:
        repair(no_queues)
        return
    found = _found(no_queues)
    table = Table("what", "about", "wrong", "to be done")
    for finding in found:
        table.add_row(
            finding.kind, finding.subject, finding.text, finding.remedy if finding.mend else f"by you: {finding.remedy}"
        )
    if not found:
        console.print("Nothing is wrong.")
        return
    console.print(table)
    mendable = sum(finding.mend is not None for finding in found)
    console.print(f"{len(found)} found; `stdweb admin repair` mends {mendable} of them")
    raise typer.Exit(1)


@app.command()
def repair(no_queues: NoQueues = False) -> None:
    """Mend what `check` finds, as far as that is safe; exit code 1 when something is left."""
    mended = _mended(no_queues)
    table = Table("what", "about", "wrong", "done")
    for one in mended:
        said = {
            True: one.finding.remedy,
            False: "not any more: it has changed meanwhile",
            None: "left to you: " + one.finding.remedy,
        }
        table.add_row(one.finding.kind, one.finding.subject, one.finding.text, said[one.done])
    if not mended:
        console.print("Nothing is wrong.")
        return
    console.print(table)
    left = sum(one.done is None for one in mended)
    console.print(f"{sum(one.done is True for one in mended)} mended, {left} left to you")
    if left:
        raise typer.Exit(1)


def _found(no_queues: bool) -> "list[Finding]":
    async def work(site: "Site") -> "list[Finding]":
        from services.gateway.upkeep.check import check

        return [finding async for finding in check(site, queues=not no_queues)]

    return with_site(work, broker=not no_queues)


def _mended(no_queues: bool) -> "list[Mended]":
    async def work(site: "Site") -> "list[Mended]":
        from services.gateway.upkeep.check import check, mend

        return [one async for one in mend(check(site, queues=not no_queues))]

    return with_site(work, broker=not no_queues)
