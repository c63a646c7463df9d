"""A route and its description: the models that check requests are those that the description of the API is made of."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from ..domain.errors import Invalid, said

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Model = TypeVar("Model", bound=BaseModel)

JSON: Final = "application/json"
ANY: Final = "*/*"


@dataclass(frozen=True)
class Operation:
    """One method at one path.

    Parameters
    ----------
    handler
        Its docstring is the summary.
    reply
        Type of the JSON of a good answer; None when it has no body, or is no JSON.
    status
        Of a good answer.
    query, body
        Models of the query and of the fields of the body; the handler checks with them.
    upload
        Whether the body may be a form with a `file`; it must be one when there is no model of other fields.
    form
        Whether the body may be a form without files as well as JSON.
    media
        Content types of a good answer.
    errors
        Other statuses: of refusals, 206 and 304. Without saying go 400 of a bad query or body, 401, 403 and 404 of a
        path with an id, 500 and 503.
    public
        Whether it needs no login.
    keyed
        Whether the header `Idempotency-Key` makes a request that is sent again take effect once.
    events
        Models of the data of server-sent events, by their names.
    told
        Model of what is sent to the address in the field `callback_url` of the body.
    """

    method: str
    path: str
    handler: Handler
    reply: Any = None
    status: int = 200
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    upload: bool = False
    form: bool = False
    media: tuple[str, ...] = (JSON,)
    errors: tuple[int, ...] = ()
    public: bool = False
    keyed: bool = False
    events: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    told: type[BaseModel] | None = None


def check(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Check fields of a request.

    Raises
    ------
    Invalid
        Naming each bad field, and what is allowed there.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        found: dict[str, list[str]] = {}
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(problem["loc"][0]) if problem["loc"] else "body"
            found.setdefault(name, []).append(said(problem["msg"]))
        detail = "; ".join(f"{name}: {messages[0]}" for name, messages in found.items())
        raise Invalid(detail, found) from None


def read_query(request: web.Request, model: type[Model]) -> Model:
    """Check the query of a request; of a parameter that is given twice the last counts.

    Raises
    ------
    Invalid
        Naming each bad parameter.
    """
    return check(model, {name: request.query.getall(name)[-1] for name in request.query})
