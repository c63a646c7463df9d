"""What the inspect service does: rows of the step table and the functions for them."""

from typing import Any

from shared.contracts.steps import STEPS
from shared.worker.step import StepContext, StepSpec


def _cleanup(_: StepContext) -> dict[str, Any]:
    """Do nothing: the commit of `cleanup`, of the lowest rank of all steps, hides whatever steps have made."""
    return {}


def _inspect(ctx: StepContext) -> dict[str, Any]:
    # imported in the child: the process that moves messages stays free of the scientific stack
    from .run import inspect

    return inspect(ctx)


def _warm() -> None:
    from shared.science.start import prepare

    from .run import warm

    prepare()
    warm()


SPECS = (StepSpec(STEPS["cleanup"], _cleanup, _warm), StepSpec(STEPS["inspect"], _inspect, _warm))
