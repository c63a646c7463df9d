"""Pictures of files: asks the preview service for what is not in the cache yet."""

import asyncio
import contextlib
import errno
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic import ValidationError

from shared.broker import Broker, BrokerUnavailable, NoAnswer
from shared.contracts.preview import (
    CACHE_FOLDER,
    MASK,
    PICTURE_REPLY,
    CutoutOptions,
    CutoutRequest,
    PictureMade,
    PictureOptions,
    PreviewOptions,
    PreviewRequest,
    picture_key,
    picture_name,
    shows_mask,
)
from shared.contracts.rpc import PREVIEW_RENDER, Refusal
from shared.taskdir import NotFound, TasksRoot

from ..model import Task, User, now
from .errors import Invalid, Missing, Refused, TooMany, Unavailable

_APPEARS_S: Final = 5.0  # what another host has written may take so long to be seen
_LOOK_S: Final = 0.1
_AGAIN_S: Final = 5
_AWAY: Final = "The preview service is away; try again later."
_GONE: Final = "There is no such file."


class PreviewFault(Exception):
    """The preview service failed for a reason of its own."""


@dataclass(frozen=True)
class Source:
    """A file that is to be shown.

    Parameters
    ----------
    task_id
        Whose; None for the shared data directory.
    path
        Its name.
    image, mask
        Status of the file, and of the mask that goes with it.
    """

    task_id: int | None
    path: str
    image: os.stat_result
    mask: os.stat_result | None = None


class Previews:
    """Gives pictures; the caller has checked that the user may see the file.

    Parameters
    ----------
    root
        Folders of the tasks.
    data_dir
        The shared volume.
    broker
        To the preview service.
    """

    def __init__(self, root: TasksRoot, data_dir: Path, broker: Broker) -> None:
        self._root = root
        self._cache = data_dir / CACHE_FOLDER
        self._broker = broker

    async def source(self, task: Task, path: str) -> Source:
        """Look at a file of a task.

        Raises
        ------
        Missing
            When there is none.
        """
        name = path.removesuffix("/")
        mask = MASK if shows_mask(task.id, name) else None
        try:
            image = await asyncio.to_thread(self._status, task.id, name)
        except NotFound:
            raise Missing(_GONE) from None
        found = None
        if mask is not None:
            with contextlib.suppress(NotFound):
                found = await asyncio.to_thread(self._status, task.id, mask)
        return Source(task.id, name, image, found)

    def _status(self, task_id: int, name: str) -> os.stat_result:
        fd, status = self._root.task(task_id).open(name)
        os.close(fd)
        return status

    async def picture(
        self, source: Source, options: PictureOptions, user: User, request_id: str
    ) -> tuple[str, BinaryIO]:
        """Open the picture of a file.

        Parameters
        ----------
        source
            The file.
        options
            `PreviewOptions` for an image, `CutoutOptions` for a cutout.
        user
            Who asks; the service draws only some of a user's pictures at once.
        request_id
            For the logs of the service.

        Returns
        -------
        key, picture
            Its name, which changes whenever the picture does; the JPEG or PNG, which the caller closes.

        Raises
        ------
        Invalid
            When the file or an option cannot be used.
        TooMany
            When the user's other pictures keep the service busy.
        Unavailable
            When the service gave no answer.
        """
        key = key_of(source, options)
        picture = await asyncio.to_thread(self._open, picture_name(key, options))
        if picture is None:
            key = (await self._made(source, options, user, request_id)).key
            picture = await self._appearing(picture_name(key, options))
        return key, picture

    def _open(self, name: str) -> BinaryIO | None:
        """Open a picture of the cache; None without one.

        No link is followed: every service may write there, and what a gateway can read is not for all of them.
        """
        try:
            fd = os.open(self._cache / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:
                return None
            raise
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return os.fdopen(fd, "rb")
        os.close(fd)
        return None

    async def _appearing(self, name: str) -> BinaryIO:
        end = time.monotonic() + _APPEARS_S
        while (picture := await asyncio.to_thread(self._open, name)) is None:
            if time.monotonic() > end:
                raise Unavailable("The picture cannot be read; try again later.")
            await asyncio.sleep(_LOOK_S)
        return picture

    async def _made(self, source: Source, options: PictureOptions, user: User, request_id: str) -> PictureMade:
        place: dict[str, Any] = {
            "task_id": source.task_id,
            "path": source.path,
            "user": user.name,
            "request_id": request_id,
            "at": now(),
        }
        request = (
            PreviewRequest(options=options, **place)
            if isinstance(options, PreviewOptions)
            else CutoutRequest(options=CutoutOptions.model_validate(options.model_dump()), **place)
        )
        try:
            reply = PICTURE_REPLY.validate_json(await self._broker.call(PREVIEW_RENDER, request))
        except (BrokerUnavailable, NoAnswer) as error:
            raise Unavailable(_AWAY) from error
        except ValidationError as error:
            raise PreviewFault("a reply that is not understood") from error
        if isinstance(reply, Refusal):
            raise _refused(reply)
        return reply


def key_of(source: Source, options: PictureOptions) -> str:
    """Name the picture of a file as it is now."""
    return picture_key(options, source.image, source.mask if isinstance(options, PreviewOptions) else None)


def _refused(reply: Refusal) -> Refused | PreviewFault:
    match reply.status:
        case "missing":
            return Missing(_GONE)
        case "busy":
            return TooMany(reply.error, _AGAIN_S)
        case "later":
            return Unavailable(reply.error)
        case "fault":
            return PreviewFault(reply.code)
    return Invalid(reply.error, {reply.parameter: [reply.error]} if reply.parameter else None)
