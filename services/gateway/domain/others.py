"""Other tasks whose results a run reads: only those that whoever starts it may see."""

from collections.abc import Mapping
from typing import Any

from shared.contracts.steps import STEPS

from ..model import User
from ..storage import Tasks
from .access import may_view
from .errors import Invalid
from .runs import Request


async def check_others(tasks: Tasks, request: Request, asked: Mapping[str, Any]) -> None:
    """Refuse a run that would read a task which its user may not see.

    Raises
    ------
    Invalid
        Naming the option; the same for a task that there is not, so that nobody learns which ones exist.
    """
    viewer = request.viewer or User(request.user)
    for name in dict.fromkeys(request.steps):
        params = STEPS[name].params
        for task_id in params.of(dict(asked)).other_tasks:
            found = await tasks.get_state(task_id)
            if found is None or not may_view(viewer, found[0]):
                raise Invalid.field(params.OTHERS_KEY, f"there is no task {task_id} that you may see")
