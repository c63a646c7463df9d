"""Objects of other tasks."""

from astropy.table import Table

from shared.errors import UsageError
from shared.science.solution import TABLE_FAULTS, read_columns
from shared.worker.step import StepContext


def positions_of(ctx: StepContext, task_id: int) -> Table:
    """Read where another task has objects.

    Raises
    ------
    UsageError
        When it has no photometry.
    """
    file = ctx.open_input_of(task_id, "objects.parquet")
    if file is None:
        text = f"simple_others: task {task_id} has no photometry; run it there first, or leave the task out."
        raise UsageError("no_photometry", text, task=task_id)
    with file:
        try:
            return read_columns(file, ("ra", "dec"))[["ra", "dec"]]
        except TABLE_FAULTS as error:
            text = f"simple_others: objects.parquet of task {task_id} cannot be read; run photometry there again."
            raise UsageError("bad_photometry", text, reason=str(error)) from error
