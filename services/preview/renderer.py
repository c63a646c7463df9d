"""The process that draws: one request a line on standard input, one reply a line on standard output.

A file may be made to take all memory or time there is. So drawing has a process of its own, with a limit of memory and
an alarm that ends it, whatever it is doing; the service starts another one. When the service is gone so is the input.
"""

import errno
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

import structlog

from shared.contracts.preview import (
    PICTURE_REQUEST,
    CutoutRequest,
    PictureMade,
    PreviewOptions,
    PreviewRequest,
    picture_key,
    picture_name,
)
from shared.contracts.rpc import Refusal
from shared.errors import InternalError, StepError
from shared.taskdir import NotFound

from .core import Plane, render_cutout, render_image, walk
from .files import Volume

READY: Final = b"ready\n"
MAX_REQUESTS: Final = 1000
"""After so many a fresh process is started: what a library leaks does not add up."""

_DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT}

log = structlog.get_logger(__name__)


def answer(volume: Volume, request: PreviewRequest | CutoutRequest) -> PictureMade | Refusal:
    """Draw what is asked, unless it is in the cache.

    Parameters
    ----------
    volume
        Where the files are, and the cache.
    request
        What to draw.
    """
    try:
        return _made(volume, request)
    except NotFound:
        return Refusal(code="missing", error="There is no such file.", status="missing")
    except StepError as error:
        status = "later" if error.retry else "fault" if isinstance(error, InternalError) else "bad"
        log.info("picture refused", request=request.request_id, code=error.code, **error.details)
        return Refusal(
            code=error.code, error=error.user_message, parameter=error.details.get("parameter"), status=status
        )
    except MemoryError:
        text = "The image needs more memory than a preview may use. Crop the image, or ask for a smaller width."
        return Refusal(code="too_large", error=text, parameter="path")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return Refusal(code="disk_full", error="There is no space left for previews.", status="later")
        log.exception("picture failed", request=request.request_id)
        return Refusal(code="internal", error="The preview failed because of a fault in this service.", status="fault")


def _made(volume: Volume, request: PreviewRequest | CutoutRequest) -> PictureMade:
    with volume.open(request.task_id, request.path) as (image, mask):
        shown = mask.status if mask is not None and isinstance(request, PreviewRequest) else None
        key = picture_key(request.options, image.status, shown)
        name = picture_name(key, request.options)
        size = volume.cache.size(name)
        if size is None:
            if isinstance(request, PreviewRequest):
                plane = volume.masked(volume.plane(image, request.options.ext), mask)
                picture = render_image(plane, request.options)
            else:
                content, fd = volume.read(image)
                if fd != image.fd:
                    os.close(fd)
                picture = render_cutout(content, walk(content), request.options)
            volume.cache.path(name, lambda file: file.write(picture))
            size = len(picture)
    return PictureMade(key=key, size=size)


def warm() -> None:
    """Draw something, so that everything is imported before the first request."""
    import numpy as np
    from astropy.io import fits  # noqa: F401
    from scipy.ndimage import gaussian_filter  # noqa: F401

    from shared.science import images  # noqa: F401

    from .core import rice  # noqa: F401

    render_image(Plane(np.zeros((16, 16), np.float32)), PreviewOptions(width=16))


def main(data_dir: str, memory_bytes: str, time_limit_s: str) -> None:
    """Answer requests until there are no more."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no reply
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the service
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    volume = Volume(Path(data_dir))
    warm()
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_bytes), int(memory_bytes)))
    replies.write(READY)
    for _ in range(MAX_REQUESTS):
        line = sys.stdin.buffer.readline()
        if not line:
            break
        signal.setitimer(signal.ITIMER_REAL, float(time_limit_s))
        reply = answer(volume, PICTURE_REQUEST.validate_json(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(reply.model_dump_json().encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
