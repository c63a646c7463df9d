"""`stdweb admin dead-letters …`: messages that no worker could take."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from .site import with_site

if TYPE_CHECKING:
    from services.gateway.upkeep.letters import Handled

app = typer.Typer(help="Messages of steps that no worker could take.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True, markup=False)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids, or their beginnings, as `list` shows them")]
All = Annotated[bool, typer.Option("--all", help="All of them")]

_SHOWN = 12  # characters of an id
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@app.command("list")
def list_letters() -> None:
    """List the dead letters; they stay."""
    from services.gateway.upkeep.letters import listed

    letters = with_site(listed, broker=True)
    if not letters:
        console.print("There are no dead letters.")
        return
    table = Table("id", "task", "step", "died", "because", "may run again")
    for letter in letters:
        again = ", ".join(letter.steps) if letter.steps else f"no: {letter.obstacle}"
        message = letter.message
        task, step = (str(message.task_id), _plain(message.step)) if message is not None else ("", "")
        table.add_row(_plain(letter.id[:_SHOWN]), task, step, _ago(letter.age_s), _plain(letter.reason), again)
    console.print(table)


@app.command()
def show(letter_id: Annotated[str, typer.Argument(metavar="ID", help="Id, or its beginning")]) -> None:
    """Show what a dead letter says, with escapes for what does not print; it stays."""
    from services.gateway.upkeep.letters import found

    letter = with_site(lambda site: found(site, letter_id), broker=True)
    console.print(f"{_plain(letter.id)}, died {_ago(letter.age_s)}: {_plain(letter.reason)}, {len(letter.body)} bytes")
    console.print(_plain(letter.body.decode("utf-8", "backslashreplace")))


@app.command()
def requeue(ids: Ids = None, everything: All = False) -> None:
    """Run the rest of their chains again, as new runs, where nothing has come between; exit code 1 if some cannot."""
    from services.gateway.upkeep import letters

    chosen = _chosen(ids, everything)
    handled = with_site(lambda site: letters.requeue(site, chosen), broker=True)
    _tell(handled, "runs again")
    if any(one.problem for one in handled):
        raise typer.Exit(1)


@app.command()
def drop(ids: Ids = None, everything: All = False) -> None:
    """Delete dead letters."""
    from services.gateway.upkeep import letters

    chosen = _chosen(ids, everything)
    _tell(with_site(lambda site: letters.drop(site, chosen), broker=True), "deleted")


def _chosen(ids: list[str] | None, everything: bool) -> list[str]:
    if bool(ids) == everything:
        raise typer.BadParameter("either ids, or --all")
    return ids or []


def _tell(handled: "list[Handled]", done: str) -> None:
    for one in handled:
        message = one.letter.message
        what = "unreadable" if message is None else f"task {message.task_id}"
        console.print(f"{_plain(one.letter.id[:_SHOWN])} {what}: {one.problem or done}")
    if not handled:
        console.print("There are no dead letters.")


def _plain(text: str) -> str:
    """Escape what does not print: letters come from whoever could reach the queue, and terminals obey."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _ago(age_s: float | None) -> str:
    if age_s is None:
        return "?"
    seconds, unit = next((unit for unit in _UNITS if age_s >= unit[0]), _UNITS[-1])
    return f"{age_s / seconds:.0f} {unit} ago"
