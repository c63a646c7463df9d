"""Presets."""

from typing import Any

from aiohttp import web
from pydantic import Field

from ..keys import PRESETS
from ..model import Preset
from .operation import Operation
from .replies import reply
from .schemas import Answer


class PresetRow(Answer):
    """A named config that tasks may start from."""

    id: int
    name: str
    config: dict[str, Any] = Field(examples=[{"filter": "R", "sn": 3}])


def _row(preset: Preset) -> dict[str, Any]:
    return {"id": preset.id, "name": preset.name, "config": preset.config}


async def index(request: web.Request) -> web.Response:
    """List the presets."""
    return reply([_row(preset) for preset in await request.app[PRESETS].all()])


async def detail(request: web.Request) -> web.Response:
    """Show a preset."""
    return reply(_row(await request.app[PRESETS].get(request.match_info["id"])))


ROUTES = (
    Operation("GET", "/api/presets", index, reply=list[PresetRow]),
    Operation("GET", "/api/presets/{id}", detail, reply=PresetRow),
)
