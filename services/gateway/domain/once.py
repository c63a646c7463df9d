"""Tasks that are made once, however often the request for them is sent."""

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..model import Task, now
from ..storage import Claim, Claims, Tasks
from .errors import Conflict, Refused


@dataclass(frozen=True)
class Reserved:
    """What a request with an idempotency key makes: the task of this id, and no other.

    Parameters
    ----------
    key
        Digest of user and key.
    """

    key: str
    task_id: int


class Once:
    """Makes tasks by idempotency keys.

    A key is bound to the id of its task before anything is made, so that whoever works on the same request, at whatever
    gateway, together or after a death, makes the same task: nobody has to wait for another, or to know that it died.
    """

    def __init__(self, claims: Claims, tasks: Tasks, new_id: Callable[[], Awaitable[int]]) -> None:
        self._claims = claims
        self._tasks = tasks
        self._new_id = new_id

    async def make(self, key: str | None, asked: object, make: Callable[[Reserved | None], Awaitable[Task]]) -> Task:
        """Make a task, or give the one that the same request has made before.

        Parameters
        ----------
        key
            Digest of user and key; None to make one in any case.
        asked
            What JSON has of the request, to tell another one under the same key.

        Raises
        ------
        Conflict
            When the key was used for something else, or its task was deleted.
        """
        if key is None:
            return await make(None)
        what = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
        claim = await self._claimed(key, what)
        task = await self._tasks.get(claim.task_id)
        if task is None and claim.made:
            raise Conflict(f"The task {claim.task_id} that this Idempotency-Key has made was deleted; use a new one.")
        if task is None:
            try:
                task = await make(Reserved(key, claim.task_id))
            except Refused:
                await self._claims.drop(claim)  # a better request may have the key
                raise
        if not claim.made:
            await self._claims.note_made(claim)
        return task

    async def _claimed(self, key: str, what: str) -> Claim:
        """Give the claim of a key, new or as it was made before."""
        seen = await self._claims.get(key)
        if seen is None:
            claim = Claim(key, what, uuid.uuid4().hex, now(), await self._new_id())
            if await self._claims.add(claim):
                return claim
            seen = await self._claims.get(key)
        if seen is None:
            raise Conflict("A request with this Idempotency-Key has just been refused; ask again in a moment.")
        if seen.what != what:
            raise Conflict("This Idempotency-Key was used for another request; use a new one.")
        return seen
