"""What the subtraction service does: rows of the step table and the functions for them."""

from typing import Any

from shared.contracts.steps import STEPS
from shared.worker.step import StepContext, StepSpec


def _stack(ctx: StepContext) -> dict[str, Any]:
    # imported in the child: the process that moves messages stays free of the scientific stack
    from .stack import stack

    return stack(ctx)


def _subtraction(ctx: StepContext) -> dict[str, Any]:
    from .subtraction import subtraction

    return subtraction(ctx)


def _warm_stack() -> None:
    from shared.science.start import prepare

    from .stack import warm

    prepare()
    warm()


def _warm_subtraction() -> None:
    from shared.science.start import prepare

    from .subtraction import warm

    prepare()
    warm()


SPECS = (
    StepSpec(STEPS["stack"], _stack, _warm_stack),
    StepSpec(STEPS["subtraction"], _subtraction, _warm_subtraction),
)
