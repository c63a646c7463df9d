"""Requests that come through a proxy."""

from ipaddress import ip_address

from aiohttp import web
from yarl import URL

from ..domain.errors import Invalid
from ..keys import SETTINGS


def public_url(request: web.Request) -> URL:
    """Give the address of a request as its client wrote it; what proxies say is believed if they are trusted.

    Raises
    ------
    Invalid
        When a header with the host cannot be read.
    """
    try:
        url = request.url
        if not _through_trusted(request):
            return url
        scheme, host = (_last(request, name) for name in ("X-Forwarded-Proto", "X-Forwarded-Host"))
        place = URL(f"http://{host}") if host else url
        if place.host:
            url = url.with_host(place.host).with_port(place.explicit_port)
    except ValueError:
        raise Invalid("The Host header of the request, or X-Forwarded-Host, cannot be read.") from None
    return url.with_scheme(scheme) if scheme in {"http", "https"} else url


def _through_trusted(request: web.Request) -> bool:
    try:
        peer = ip_address(request.remote or "")
    except ValueError:
        return False
    return any(peer in network for network in request.app[SETTINGS].trusted_proxies)


def _last(request: web.Request, name: str) -> str:
    return ",".join(request.headers.getall(name, ())).rsplit(",", 1)[-1].strip()
