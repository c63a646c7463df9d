"""`stdweb submit|status|get`: a client of the API with progress bars."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Column, Table

from shared.contracts.steps import STEPS

from .client import RUNNING, ApiError, Client
from .settings import DEMO_USER, STATE_FOLDER, StackState

_POLL_S: Final = 0.5
_PATIENCE_S: Final = 60.0
_SHOWN_KEYS: Final = ("zp", "zp_err", "color_term", "fwhm", "mag_limit", "astrom_rms", "cat_name", "filter")

console = Console(highlight=False, soft_wrap=True, markup=False)

Url = Annotated[str | None, typer.Option("--url", help="Address of the API; by default the running local stack")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File holding the token; by default the demo user's of the local stack", exists=True, dir_okay=False
    ),
]


def connect(url: str | None, token_file: Path | None) -> Client:
    """Make a client for the API that was asked for, or for the local stack of this folder."""
    state = StackState.load(STATE_FOLDER)
    if url is None and (state is None or not state.base_url):
        raise ApiError("No stack was started in this folder. Start one with 'make up', or name an API with --url.")
    if token_file is not None:
        token = token_file.read_text(errors="replace").strip()
        return Client(url or (state.base_url if state else ""), token)
    if url is not None or state is None:
        raise ApiError("Name a file with your token: --token-file FILE (see 'stdweb token create').")
    client = Client(state.base_url)
    client.login(DEMO_USER, state.demo_password)
    return client


def parse_config(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` pairs; a value is JSON where it is valid JSON, else text.

    Raises
    ------
    typer.BadParameter
        A pair has no key or no equals sign.
    """
    config = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"'{pair}' is not of the form key=value, such as filter=R", param_hint="--config")
        try:
            config[key] = json.loads(text)
        except ValueError:
            config[key] = text
    return config


def submit(
    files: Annotated[list[Path], typer.Argument(help="FITS images", exists=True, dir_okay=False)],
    steps: Annotated[list[str] | None, typer.Option(help="Steps to run, in order; commas or repeated")] = None,
    config: Annotated[list[str] | None, typer.Option(help="Option of the task, key=value; may be repeated")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the tasks")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results and show them")] = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Upload images, each as a task, and run steps on them."""
    options = parse_config(config or [])
    chain = [step for part in steps or [] for step in part.split(",") if step]
    if unknown := [step for step in chain if step not in STEPS]:  # before anything is uploaded
        raise typer.BadParameter(f"unknown step '{unknown[0]}'; allowed: {', '.join(STEPS)}", param_hint="--steps")
    with connect(url, token_file) as client:
        tasks = [_upload(client, path, options, title) for path in files]
        for task_id in tasks:
            if chain:
                client.process(task_id, chain)
            console.print(f"Task {task_id}")
        if wait and chain:
            ended = follow(client, tasks)
            for task in ended:
                show_task(task)
            if any(not task["state"].endswith("_done") for task in ended):
                raise typer.Exit(1)


def status(
    task_id: Annotated[int | None, typer.Argument(help="Task; without it, your newest ones")] = None,
    limit: Annotated[int, typer.Option(help="How many tasks to list", min=1, max=1000)] = 20,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show a task, or list the newest ones."""
    with connect(url, token_file) as client:
        if task_id is not None:
            show_task(client.task(task_id))
            return
        table = Table(
            Column("task", no_wrap=True),
            Column("state", no_wrap=True),
            Column("image", overflow="fold"),
            Column("title", overflow="fold"),
            Column("created, UTC", no_wrap=True),
        )
        for task in client.tasks(limit):
            created = f"{datetime.fromisoformat(task['created']).astimezone(UTC):%Y-%m-%d %H:%M}"
            table.add_row(str(task["id"]), task["state"], task["original_name"] or "", task["title"] or "", created)
        console.print(table)


def get(
    task_id: Annotated[int, typer.Argument(help="Task")],
    names: Annotated[list[str] | None, typer.Argument(help="Files of the task; without them, all")] = None,
    to: Annotated[Path, typer.Option(help="Folder to save them in", file_okay=False)] = Path(),
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Download files of a task; those of its folders go into folders."""
    with connect(url, token_file) as client:
        sizes = {str(entry["path"]): int(entry["size"]) for entry in client.all_files(task_id)}
        wanted = choose(task_id, names or [], list(sizes))
        try:
            with _transfer() as progress:
                for path in wanted:
                    target = to / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    bar = progress.add_task(path, total=sizes[path])
                    client.download(task_id, path, target, lambda sent, bar=bar: progress.advance(bar, sent))  # type: ignore[misc]
        except OSError as error:
            raise ApiError(f"Cannot write {error.filename or to}: {error.strerror}") from error


def choose(task_id: int, names: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Choose files by name or by the folder that they are in; all when no name is given.

    Parameters
    ----------
    task_id
        The task, for messages.
    names
        What the user asks for.
    paths
        What the task has.

    Raises
    ------
    ApiError
        The task has nothing of that name, or the server gives a path that leads elsewhere.
    """
    if astray := [path for path in paths if path.startswith("/") or ".." in PurePosixPath(path).parts]:
        raise ApiError(f"The server gives a path that is none: {astray[0]}")
    wanted: list[str] = []
    for name in [one.strip("/") for one in names] or [""]:
        found = [path for path in paths if not name or path == name or path.startswith(f"{name}/")]
        if name and not found:
            raise ApiError(f"Task {task_id} has no file '{name}'. It has: {', '.join(paths) or 'none'}")
        wanted += found
    return list(dict.fromkeys(wanted))


def follow(client: Client, tasks: Sequence[int], patience_s: float = _PATIENCE_S) -> list[dict[str, Any]]:
    """Show how far tasks are until none of them runs any more; give them back.

    Parameters
    ----------
    client
        Of the service.
    tasks
        Their ids.
    patience_s
        How long the service may be away, seconds: runs go on after it was started again.

    Raises
    ------
    ApiError
        It refused to show a task, or was away for longer.
    """
    ended: dict[int, dict[str, Any]] = {}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[doing]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = {task_id: progress.add_task(f"task {task_id}", total=1.0, doing="") for task_id in tasks}
        answered = time.monotonic()
        while True:
            for task_id, bar in bars.items():
                if task_id in ended:
                    continue
                try:
                    task = client.task(task_id)
                except ApiError as error:
                    if not error.is_passing or time.monotonic() - answered > patience_s:
                        raise
                    progress.update(bar, doing="no answer from the service, asking again")
                    break
                answered = time.monotonic()
                fraction, doing = _now(task)
                progress.update(bar, completed=fraction, doing=doing)
                if RUNNING not in task["state"]:
                    ended[task_id] = task
            if len(ended) == len(tasks):
                return [ended[task_id] for task_id in tasks]
            time.sleep(_POLL_S)


def _now(task: dict[str, Any]) -> tuple[float, str]:
    """Say how far the running step of a task is, 0 to 1, and what it does."""
    if RUNNING not in task["state"]:
        return 1.0, task["state"]
    progress = task.get("progress") or {}
    words = (task.get("step"), progress.get("phase"))
    return float(progress.get("fraction", 0.0)), ": ".join(word for word in words if word) or "waiting"


def _upload(client: Client, path: Path, config: dict[str, Any], title: str | None) -> int:
    with _transfer() as progress:
        bar = progress.add_task(path.name, total=path.stat().st_size)
        task = client.create_task(path, config, title, lambda sent: progress.update(bar, completed=sent))
    return int(task["id"])


def _transfer() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
    )


def show_task(task: dict[str, Any]) -> None:
    """Print a task's state and main results."""
    table = Table("", f"task {task['id']}")
    table.add_row("image", task["original_name"] or "")
    table.add_row("state", task["state"])
    if task.get("error"):
        table.add_row("error", str(task["error"]))
    for key in _SHOWN_KEYS:
        if key in task["config"]:
            table.add_row(key, str(task["config"][key]))
    console.print(table)
