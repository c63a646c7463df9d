"""What the inspect service does: rows of the step table and the functions for them."""

from typing import Any

from shared.contracts.edits import EDIT_LIMIT_S, EDIT_REQUEST, IMAGE, ORIGINAL
from shared.contracts.rpc import IMAGE_EDIT
from shared.contracts.steps import STEPS
from shared.worker.request import RequestContext, RequestSpec
from shared.worker.step import StepContext, StepSpec


def _cleanup(_: StepContext) -> dict[str, Any]:
    """Do nothing: the commit of `cleanup`, of the lowest rank of all steps, hides whatever steps have made."""
    return {}


def _inspect(ctx: StepContext) -> dict[str, Any]:
    # imported in the child: the process that moves messages stays free of the scientific stack
    from .run import inspect

    return inspect(ctx)


def _edit(ctx: RequestContext) -> None:
    from .edits import edit

    edit(ctx)


def _warm() -> None:
    from shared.science.start import prepare

    from . import edits  # noqa: F401
    from .run import warm

    prepare()
    warm()


SPECS = (StepSpec(STEPS["cleanup"], _cleanup, _warm), StepSpec(STEPS["inspect"], _inspect, _warm))

REQUESTS = (RequestSpec(IMAGE_EDIT, "edit", EDIT_REQUEST, (IMAGE, ORIGINAL), EDIT_LIMIT_S, _edit, _warm),)
