"""Names of runs.

A name tells whose task's run it is, so that finding it needs no index, which would make each write dearer by a third.
But it tells that only to who has the key of this site: the queue shows the names of everybody's runs to everybody.
"""

import hmac
import re
import uuid
from typing import Final

from ..storage import Tasks

_NAME: Final = re.compile(r"([0-9a-f]{32})([0-9a-f]{16})")
_MAX_TASK: Final = 2**53


class RunIds:
    """Makes and reads names of runs.

    Parameters
    ----------
    tasks
        Where the key is kept.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._key = b""

    async def new(self, task_id: int) -> str:
        """Name a new run of a task."""
        nonce = uuid.uuid4().hex
        return f"{nonce}{task_id ^ await self._pad(nonce):016x}"

    async def task_of(self, run_id: str) -> int | None:
        """Read from the name of a run whose it would be; None when no run has such a name."""
        match = _NAME.fullmatch(run_id)
        if match is None:
            return None
        task_id = int(match[2], 16) ^ await self._pad(match[1])
        return task_id if 0 < task_id < _MAX_TASK else None

    async def _pad(self, nonce: str) -> int:
        if not self._key:
            self._key = await self._tasks.run_key()
        return int.from_bytes(hmac.digest(self._key, nonce.encode(), "sha256")[:8])
