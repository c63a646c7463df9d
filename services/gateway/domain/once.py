"""Tasks that are made once, however often the request for them is sent."""

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from ..model import Task, now
from ..storage import Claim, Claims, StoreAway, Tasks
from .errors import Conflict

_DEAD: Final = timedelta(minutes=10)  # files of a large task are copied in less; who has not ended by then has died


class Once:
    """Makes tasks by idempotency keys.

    A task carries the key of its request from the instant in which it exists, so that a gateway that dies before it
    notes what it made leaves no second one behind.
    """

    def __init__(self, claims: Claims, tasks: Tasks) -> None:
        self._claims = claims
        self._tasks = tasks

    async def make(self, key: str | None, user: str, asked: object, make: Callable[[], Awaitable[Task]]) -> Task:
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
            When the key was used for something else, or the same request is being worked on.
        """
        if key is None:
            return await make()
        what = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
        claim = Claim(key, what, uuid.uuid4().hex, now())
        if not await self._claims.add(claim):
            made = await self._made_before(claim, user)
            if made is not None:
                return made
        try:
            task = await make()
        except StoreAway:
            raise  # it may have been made all the same; the next one looks
        except BaseException:
            await self._claims.drop(claim)
            raise
        await self._claims.swap(claim, replace(claim, task_id=task.id))
        return task

    async def _made_before(self, claim: Claim, user: str) -> Task | None:
        """Find what an earlier request of that key has made; None when it is ours to make."""
        seen = await self._claims.get(claim.key)
        if seen is None:
            raise Conflict("A request with this Idempotency-Key has just been refused; send it again.")
        if seen.what != claim.what:
            raise Conflict("This Idempotency-Key was used for another request; use a new one.")
        task_id = seen.task_id or await self._tasks.id_of_key(user, claim.key)
        if task_id is not None:
            task = await self._tasks.get(task_id)
            if task is None:
                raise Conflict(f"The task {task_id} that this Idempotency-Key has made was deleted; use a new one.")
            return task
        if now() - seen.at < _DEAD or not await self._claims.swap(seen, claim):
            raise Conflict("A request with this Idempotency-Key is being worked on; ask again in a moment.")
        return None
