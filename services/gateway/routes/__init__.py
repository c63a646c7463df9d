"""Routes: parse, call the domain, reply."""

from collections import defaultdict
from typing import Final

from aiohttp import web

from . import (
    auth,
    callbacks,
    data,
    description,
    edits,
    events,
    files,
    health,
    history,
    presets,
    previews,
    process,
    queue,
    reference,
    tasks,
)

OPERATIONS: Final = tuple(
    operation
    for module in (
        auth,
        tasks,
        process,
        history,
        events,
        callbacks,
        edits,
        files,
        previews,
        data,
        presets,
        queue,
        reference,
        health,
        description,
    )
    for operation in module.ROUTES
)


def add_routes(app: web.Application) -> None:
    """Register every route, with and without its trailing slash."""
    for operation in OPERATIONS:
        method, path, handler = operation.method, operation.path, operation.handler
        takes_the_rest = ":" in path  # slashes included
        for each in [path] if takes_the_rest else [path, path + "/"]:
            if method == "GET":
                app.router.add_get(each, handler, allow_head=True)
            else:
                app.router.add_route(method, each, handler)
    _add_options(app)


def _add_options(app: web.Application) -> None:
    resources = list(app.router.resources())
    known: defaultdict[str, set[str]] = defaultdict(lambda: {"OPTIONS"})
    for resource in resources:  # several may have one path
        known[resource.canonical].update(route.method for route in resource)
    for resource in resources:
        if not any(route.method == "GET" for route in resource):
            continue
        methods = sorted(known[resource.canonical])

        async def options(_: web.Request, allow: str = ", ".join(methods)) -> web.Response:
            return web.json_response({"methods": allow.split(", ")}, headers={"Allow": allow})

        if isinstance(resource, web.Resource):
            resource.add_route("OPTIONS", options)
