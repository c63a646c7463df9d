"""Changing the image of a task: repair its header, cut a part out, remove stripes."""

from typing import Literal

from aiohttp import web

from shared.contracts.edits import CropOptions, DestripeOptions, EditOptions, FixOptions

from ..keys import EDITS, QUOTA, REQUEST_ID, TASKS, USER
from .operation import Operation, check
from .replies import read_fields, reply, task_id_of
from .schemas import Answer


class Fixed(Answer):
    """An image whose header was repaired."""

    id: int
    status: Literal["fixed"]


class Cropped(Answer):
    """An image that was cut."""

    id: int
    status: Literal["cropped"]


class Destriped(Answer):
    """An image without its stripes."""

    id: int
    status: Literal["destriped"]


async def _edit(request: web.Request, model: type[EditOptions], status: str) -> web.Response:
    task = await request.app[TASKS].for_edit(task_id_of(request), request[USER])
    options = check(model, await read_fields(request))
    await request.app[QUOTA].check(task.user)
    await request.app[EDITS].edit(task, options, request[REQUEST_ID])
    return reply({"id": task.id, "status": status})


async def fix(request: web.Request) -> web.Response:
    """Repair common faults of the header of the image."""
    return await _edit(request, FixOptions, "fixed")


async def crop(request: web.Request) -> web.Response:
    """Cut a part out of the image."""
    return await _edit(request, CropOptions, "cropped")


async def destripe(request: web.Request) -> web.Response:
    """Remove stripes along rows or columns from the image."""
    return await _edit(request, DestripeOptions, "destriped")


ROUTES = (
    Operation("POST", "/api/tasks/{id}/fix", fix, reply=Fixed, body=FixOptions, errors=(400, 409)),
    Operation("POST", "/api/tasks/{id}/crop", crop, reply=Cropped, body=CropOptions, errors=(409,)),
    Operation("POST", "/api/tasks/{id}/destripe", destripe, reply=Destriped, body=DestripeOptions, errors=(409,)),
)
