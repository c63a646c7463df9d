"""Bands, catalogues and templates; no login needed."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from shared.contracts.bands import CATALOGS, FILTERS, TEMPLATES, Band, Catalog, Template

from ..domain.errors import Missing
from .operation import Operation
from .replies import reply
from .schemas import Answer


def _table(rows: Mapping[str, BaseModel]) -> dict[str, object]:
    return {code: row.model_dump(mode="json", exclude_none=True) for code, row in rows.items()}


_TABLES: Final = {"filters": _table(FILTERS), "catalogs": _table(CATALOGS), "templates": _table(TEMPLATES)}


class Codes(Answer):
    """Codes of everything, in the order in which to offer them."""

    filters: list[str]
    catalogs: list[str]
    templates: list[str]


async def index(_: web.Request) -> web.Response:
    """List the codes."""
    return reply({name: list(table) for name, table in _TABLES.items()})


async def table(request: web.Request) -> web.Response:
    """Show one table."""
    found = _TABLES.get(request.match_info["table"])
    if found is None:
        raise Missing(f"There are the tables {', '.join(_TABLES)}.")
    return reply(found)


ROUTES = (
    Operation("GET", "/api/reference", index, reply=Codes, public=True),
    Operation(
        "GET",
        "/api/reference/{table}",
        table,
        reply=dict[str, Band] | dict[str, Catalog] | dict[str, Template],
        public=True,
    ),
)
