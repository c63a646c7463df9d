"""`python -m stdweb.stack up|down|status|monitor`; `run` is the supervisor itself."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.table import Table

from ..admin import ensure_demo_user
from ..settings import DEMO_USER, STATE_FOLDER, StackError, StackSettings, StackState
from . import commands, monitoring
from .components import components
from .supervisor import Supervisor

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(highlight=False, soft_wrap=True)

Folder = Annotated[Path, typer.Option("--state", help="Folder of the stack's state")]


@app.command()
def up(state: Folder = STATE_FOLDER) -> None:
    """Start everything in the background and wait until it can be used."""
    with console.status("Starting broker, store, gateway and services"):
        stack = commands.up(state)
        asyncio.run(ensure_demo_user(stack))
    console.print(f"STDWeb runs at [bold]{stack.base_url}[/], its calls are described at {stack.base_url}/docs/")
    console.print(f"Demo user: [bold]{DEMO_USER}[/], password: [bold]{stack.demo_password}[/]")
    console.print(f"Logs: {state / 'logs'}   What runs: make status   End: make down")


@app.command()
def down(state: Folder = STATE_FOLDER) -> None:
    """End what `up` started."""
    with console.status("Stopping"):
        ended = commands.down(state)
    console.print("Stopped." if ended else "Nothing was running.")


@app.command()
def status(state: Folder = STATE_FOLDER) -> None:
    """Say what runs; the exit code is 0 when all of it can be used."""
    found = commands.report(state)
    if found is None:
        console.print("Nothing runs. Start it: make up")
        raise typer.Exit(3)
    stack, report = found
    table = Table("process", "state", "pid", "restarts")
    for name, health in report.components.items():
        table.add_row(name, health.state, str(health.pid or ""), str(health.deaths))
    console.print(table)
    console.print(stack.base_url)
    raise typer.Exit(0 if report.ready else 1)


@app.command()
def monitor(
    state: Folder = STATE_FOLDER, port: Annotated[int, typer.Option(help="Port on 127.0.0.1 of its pages")] = 9090
) -> None:
    """Run Prometheus beside the stack, in the foreground, with the rules of deploy/monitoring."""
    stack = StackState.started(state)
    console.print(f"Prometheus: http://localhost:{port}/alerts   End: Ctrl-C")
    monitoring.become(stack, port)


@app.command(hidden=True)
def run(state: Folder = STATE_FOLDER) -> None:
    """Be the supervisor, in the foreground."""
    stack = StackState.started(state)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(_supervise(stack))


async def _supervise(stack: StackState) -> None:
    supervisor = Supervisor(components(stack, StackSettings.read()), stack.folder)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    await supervisor.run()


def main() -> None:
    """Run the command; a known failure is one message and exit code 1."""
    try:
        app()
    except StackError as error:
        console.print(str(error), style="red", markup=False)
        sys.exit(1)


main()
