"""What the transients service does: a row of the step table and the function for it."""

from typing import Any

from shared.contracts.steps import STEPS
from shared.worker.step import StepContext, StepSpec


def _simple_transients(ctx: StepContext) -> dict[str, Any]:
    # imported in the child: the process that moves messages stays free of the scientific stack
    from .run import run

    return run(ctx)


def _warm() -> None:
    from shared.science.start import prepare

    from . import run  # noqa: F401  imports what the step needs

    prepare()


SPECS = (StepSpec(STEPS["simple_transients"], _simple_transients, _warm),)
