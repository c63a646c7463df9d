"""Which `Range` of a request counts (RFC 9110, sections 13.1.5 and 14.2)."""

import re
from typing import Final

from aiohttp import hdrs, web
from aiohttp.web_request import BaseRequest

_ONE_RANGE: Final = re.compile(r"bytes=(\d+-\d*|-0*[1-9]\d*)", re.IGNORECASE | re.ASCII)
_TAG: Final = re.compile(r'(W/)?"')


def without_ignored(request: BaseRequest, etag: str) -> BaseRequest:
    """Take out of a request a range that has to be ignored, so that the whole file is the answer.

    Ignored are all of HEAD, units that are not bytes, what is no range, and several at once, which a server need not
    give. So is a range of a file that has changed since: aiohttp knows the dates of `If-Range`, and not the tags.

    Parameters
    ----------
    etag
        Of the file, without quotes.
    """
    asked = request.headers.get(hdrs.RANGE)
    if asked is None:
        return request
    since = request.headers.get(hdrs.IF_RANGE, "").strip()
    counts = (
        request.method == hdrs.METH_GET
        and _ONE_RANGE.fullmatch(asked.strip()) is not None
        and (_TAG.match(since) is None or since == f'"{etag}"')
    )
    if counts or not isinstance(request, web.Request):
        return request
    ignored = {hdrs.RANGE, hdrs.IF_RANGE}
    return request.clone(headers=[(name, value) for name, value in request.headers.items() if name not in ignored])
