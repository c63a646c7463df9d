"""`python -m stdweb.demo transients`: search for new sources by catalogues and by a template, through the API."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.table import Table
from rich.console import Console
from rich.table import Column
from rich.table import Table as Grid

from .client import ApiError, Client
from .demo_score import Score, draw, score, some, summary
from .settings import DEMO_USER, StackState
from .sky import simulate, simulate_template
from .sky.template import TEMPLATE_GAIN
from .submit import follow

STEPS: Final = ("inspect", "photometry", "simple_transients", "subtraction")
CONFIG: Final = {"filter": "r", "cat_name": "ps1", "template": "custom", "custom_template_gain": TEMPLATE_GAIN}
TRANSIENTS: Final = 60
SEARCHES: Final = {"simple_transients": "candidates_simple.vot", "subtraction": "candidates.vot"}
IMAGES: Final = {"image": "sub_image.fits", "template": "sub_template.fits", "difference": "sub_diff.fits"}
PICTURE: Final = "candidates.png"
_PICTURED: Final = 6

console = Console(highlight=False, soft_wrap=True)


def run(state: StackState, size_pix: int = 2048) -> None:
    """Simulate, process, compare, draw, and say where to look.

    Raises
    ------
    ApiError
        The service refused something or the processing failed.
    """
    folder = state.folder / "demo-transients"
    template = folder / "template.fits"
    with console.status("Simulating an observation with transients, and a template"):
        observation = simulate(folder, size=size_pix, mirror_dir=state.mirror_dir, transients=TRANSIENTS)
        simulate_template(template, observation)
    new = observation.truth[observation.truth["kind"] == "transient"]
    hosted = int((new["host"] >= 0).sum())
    console.print(f"Simulated {shown(observation.image)} with {len(new)} transients, {hosted} of them on galaxies,")
    console.print(f"and {shown(template)}: deeper, sharper, turned, with other pixels")
    with Client(state.base_url) as client:
        client.login(DEMO_USER, state.demo_password)
        task_id = client.create_task(observation.image, CONFIG, "Demonstration: transients")["id"]
        client.upload(task_id, "custom_template.fits", template)
        console.print(f"Uploaded as task {task_id}; running {', '.join(STEPS)}")
        client.process(task_id, STEPS)
        (task,) = follow(client, [task_id])
        if task["state"] != "subtraction_done":
            raise ApiError(
                f"Task {task_id} ended as {task['state']}: {task.get('error')}. Logs: {shown(state.folder / 'logs')}"
            )
        for name in (*SEARCHES.values(), *IMAGES.values()):
            client.download(task_id, name, folder / name)
    scores = {name: score(new, Table.read(folder / file)) for name, file in SEARCHES.items()}
    console.print(_results(new, scores))
    console.print(f"Limit of the image, S/N 5: {task['config']['mag_limit']:.2f} mag")
    picture = _picture(folder, new, scores)
    console.print(f"Picture of them: {shown(picture)}")
    console.print(f"  API      {state.base_url}/tasks/{task_id}/files/candidates/")
    console.print(f"  log in   user {DEMO_USER}, password {state.demo_password}")
    console.print("  end      make down")


def shown(path: Path) -> str:
    """Give a path as a user here would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _results(new: Table, scores: dict[str, Score]) -> Grid:
    # titles of several lines, so that it all fits 80 columns
    grid = Grid(Column("simulated,\nmag", no_wrap=True), "there\nare")
    for name in scores:
        grid.add_column("found by\n" + name.replace("_", "_\n"), justify="right")
        grid.add_column("error,\nmag", justify="right")
    for line in summary(new, list(scores.values())):
        grid.add_row(*line)
    grid.add_section()
    totals = [cell for one in scores.values() for cell in (f"{int(one.found.sum())}", "")]
    grid.add_row("all", f"{len(new)}", *totals)
    grid.add_row("false", "", *(cell for one in scores.values() for cell in (f"{one.false}", "")))
    return grid


def _picture(folder: Path, new: Table, scores: dict[str, Score]) -> Path:
    one = scores["subtraction"]
    chosen = some(new, one, _PICTURED)
    if not chosen:
        raise ApiError("The subtraction found none of the transients; see subtraction.log of the task.")
    images: dict[str, Any] = {name: np.asarray(fits.getdata(folder / file), float) for name, file in IMAGES.items()}
    rows = Grid("some that the subtraction found", "true", "simple_transients", "subtraction")
    simple = scores["simple_transients"]
    titles = []
    for number in chosen:
        place = "on a galaxy" if new["host"][number] >= 0 else "in the field"
        by_catalogue = (
            f"{simple.mag[number]:.3f} ± {simple.mag_err[number]:.3f}" if simple.found[number] else "not found"
        )
        by_template = f"{one.mag[number]:.3f} ± {one.mag_err[number]:.3f}"
        rows.add_row(
            f"x {new['x'][number]:.1f} y {new['y'][number]:.1f}, {place}",
            f"{new['m_nat'][number]:.3f}",
            by_catalogue,
            by_template,
        )
        titles.append(f"{place}\ntrue {new['m_nat'][number]:.2f}, found {one.mag[number]:.2f}")
    console.print(rows)
    path = folder / PICTURE
    draw(path, images, [(float(new["x"][number]), float(new["y"][number])) for number in chosen], titles)
    return path
