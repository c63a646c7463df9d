"""What the author of a step sees: `StepContext` in, a dictionary of computed config keys out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..contracts.params import StepParams
from ..contracts.steps import Step
from ..errors import InternalError


@dataclass(frozen=True)
class Resources:
    """What the site gives to a step.

    Parameters
    ----------
    cache_dir
        Folder on the shared volume for answers of archives.
    mirror_dir
        Folder of local catalogue mirrors, one HATS catalogue each, named by the catalogue's code; None without one.
    astrometry_indexes
        Folders with index files of Astrometry.net; empty means where the system installs them.
    threads
        Cores that the step may use.
    data_dir
        The shared volume, for `shared.taskdir.open_data` alone.
    """

    cache_dir: Path
    mirror_dir: Path | None = None
    astrometry_indexes: tuple[Path, ...] = ()
    threads: int = 1
    data_dir: Path | None = None


@dataclass(frozen=True)
class StepContext:
    """One attempt at one step, as the step sees it.

    Parameters
    ----------
    task_id
        The task.
    params
        Validated options, an instance of the step's model.
    config
        The whole config: what was asked over what earlier steps computed.
    work
        The attempt's own folder. What of `Step.files` is in it when `run` returns is committed, the rest is dropped.
    resources
        What the site gives.
    find
        Resolves the name of a file of the task to a path for reading, or None.
    open_of
        Opens a file of another task for reading; None when absent.
    say
        Takes a line of the step's log.
    show
        Takes how far the step is, 0 to 1, and what it does.
    """

    task_id: int
    params: StepParams
    config: Mapping[str, Any]
    work: Path
    resources: Resources
    find: Callable[[str], Path | None]
    say: Callable[[str], None] = field(repr=False)
    show: Callable[[float, str], None] = field(repr=False)
    open_of: Callable[[int, str], BinaryIO | None] = field(default=lambda _task_id, _name: None, repr=False)

    def input(self, name: str) -> Path | None:
        """Give the path of a file that the user uploaded or an earlier step made, for reading; None when absent."""
        return self.find(name)

    def open_input_of(self, task_id: int, name: str) -> BinaryIO | None:
        """Open a file of another task, which the gateway has allowed (`StepParams.other_tasks`); None when absent.

        Raises
        ------
        InternalError
            For a task that the options do not name.
        """
        if task_id not in self.params.other_tasks:
            code = "internal"
            raise InternalError(code, "The step asked for a task that its options do not name.", task=task_id)
        return self.open_of(task_id, name)

    def log(self, *parts: object) -> None:
        """Write a line of the step's log; fits stdpipe's `verbose=`."""
        text = " ".join(str(part) for part in parts)
        for line in text.splitlines() or [""]:
            self.say(line)

    def progress(self, fraction: float, phase: str) -> None:
        """Tell how far the step is, 0 to 1, and what it does now."""
        self.show(min(max(fraction, 0.0), 1.0), phase)


@dataclass(frozen=True)
class StepSpec:
    """Ties a row of the step table to the function that does the work.

    `run` returns the computed config keys, plain JSON values, and raises `StepError` for whatever it cannot do. `warm`
    is called once, in the single-threaded fork server, to import what the step needs: no threads, no connections.
    """

    step: Step
    run: Callable[[StepContext], dict[str, Any]]
    warm: Callable[[], None]
