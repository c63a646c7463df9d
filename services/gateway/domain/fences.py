"""What the folder of a task says of commits, and closing it to them."""

import asyncio

from shared.contracts.steps import STEPS
from shared.taskdir import AttemptKey, Commit, Manifest, NotFound, TaskDir, TasksRoot, fence

from ..model import RunStep


class Fences:
    """The folders of tasks, as the coordinator sees them."""

    def __init__(self, root: TasksRoot) -> None:
        self._root = root

    def _folder(self, task_id: int) -> TaskDir:
        return self._root.task(task_id)

    async def committed(self, task_id: int, step: RunStep) -> Manifest | None:
        """Look for what a step has committed, whichever attempt."""
        commit = Commit(step.seq, STEPS[step.name].rank, step.name)
        return await asyncio.to_thread(self._folder(task_id).manifest, commit)

    async def close(self, task_id: int, run_id: str, step: RunStep) -> Manifest | None:
        """Let nothing of a run take effect any more; gives what its current step has committed before."""
        try:
            await asyncio.to_thread(self._folder(task_id).close, run_id)
        except NotFound:
            return None
        return await self.committed(task_id, step)

    async def closed(self, task_id: int, run_id: str) -> bool:
        """Tell whether a run has been closed."""
        return await asyncio.to_thread(self._folder(task_id).closed, run_id)

    async def give_up(self, task_id: int, run_id: str, step: RunStep) -> None:
        """Let nothing of an attempt take effect any more."""
        await asyncio.to_thread(fence, self._folder(task_id), AttemptKey(run_id, step.name, step.attempt))

    async def clear(self, task_id: int, run_id: str) -> None:
        """Remove the marks of a run that has ended."""
        await asyncio.to_thread(self._folder(task_id).clear, run_id)
