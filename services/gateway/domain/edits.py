"""Edits of images: asks the inspect service, and commits what it has made."""

import asyncio
import os
from typing import Any, Final

from pydantic import ValidationError

from shared.broker import Broker, BrokerUnavailable, NoAnswer
from shared.contracts.edits import (
    EDIT_REPLY,
    IMAGE,
    CropOptions,
    CropRequest,
    DestripeOptions,
    DestripeRequest,
    EditOptions,
    EditRequest,
    FixRequest,
)
from shared.contracts.params import InspectParams
from shared.contracts.rpc import IMAGE_EDIT, Prepared, Refusal, Rpc
from shared.taskdir import NotFound, TasksRoot

from ..model import Task, now
from .errors import Conflict, Invalid, Missing, Refused, Unavailable
from .images import Images

_AWAY: Final = "The inspect service is away; nothing has changed. Try again later."
_NO_IMAGE: Final = "The task has no image; upload one as image.fits."


class EditFault(Exception):
    """The inspect service failed for a reason of its own."""


class Edits:
    """Changes images; the caller has checked that the user may.

    Parameters
    ----------
    root
        Folders of the tasks.
    images
        Commits what was made.
    broker
        To the inspect service.
    rpc
        How it is asked.
    """

    def __init__(self, root: TasksRoot, images: Images, broker: Broker, rpc: Rpc = IMAGE_EDIT) -> None:
        self._root = root
        self._images = images
        self._broker = broker
        self._rpc = rpc

    async def edit(self, task: Task, options: EditOptions, request_id: str) -> None:
        """Edit the image of a task; after an error nothing has changed.

        Parameters
        ----------
        task
            As it was just read.
        options
            What to do: their class is the kind of edit.
        request_id
            For the logs of the service.

        Raises
        ------
        Conflict
            While a run is active, or beside another change of the image.
        Missing
            Without an image.
        Invalid
            When the image cannot be edited so.
        Unavailable
            When the service gave no answer in time.
        """
        if task.running:
            raise Conflict("The task is running; its image cannot be changed now. Wait for its end, or cancel it.")
        try:
            fd, _ = await asyncio.to_thread(self._root.task(task.id).open, IMAGE)
        except NotFound:
            raise Missing(_NO_IMAGE) from None
        os.close(fd)
        if not self._broker.connected:
            raise Unavailable(_AWAY)

        async def prepare(source: str) -> Prepared:
            ext = InspectParams.model_validate({"ext": task.config().get("ext")}).ext
            return await self._prepare(
                _request(options, task_id=task.id, source=source, request_id=request_id, ext=ext)
            )

        await self._images.edit(task.id, prepare)

    async def _prepare(self, request: EditRequest) -> Prepared:
        try:
            reply = EDIT_REPLY.validate_json(await self._broker.call(self._rpc, request))
        except (BrokerUnavailable, NoAnswer) as error:
            raise Unavailable(_AWAY) from error
        except ValidationError as error:
            msg = "a reply that is not understood"
            raise EditFault(msg) from error
        if isinstance(reply, Refusal):
            raise _refused(reply)
        if all(file.name != IMAGE for file in reply.files):
            msg = "no image was made"
            raise EditFault(msg)
        return reply


def _request(options: EditOptions, **common: Any) -> EditRequest:
    common["at"] = now()
    if isinstance(options, CropOptions):
        return CropRequest(options=options, **common)
    if isinstance(options, DestripeOptions):
        return DestripeRequest(options=options, **common)
    return FixRequest(**common)


def _refused(reply: Refusal) -> Refused | EditFault:
    match reply.status:
        case "missing":
            return Missing(_NO_IMAGE)
        case "later" | "busy":
            return Unavailable(reply.error)
        case "fault":
            return EditFault(reply.code)
    return Invalid(reply.error, {reply.parameter: [reply.error]} if reply.parameter else None)
