"""The description of the API, OpenAPI 3.1, made of the routes and of the models that check requests."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from shared.contracts.params import MAX_KEY_LENGTH
from shared.contracts.steps import STEPS

from .routes.operation import JSON, Operation
from .routes.schemas import Problem

_PARAMETER: Final = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
_WORD: Final = re.compile(r"(?<!:)\b[a-z_]+")
_REF: Final = "#/components/schemas/{model}"
_MEANING: Final = {
    206: "A part of the file",
    304: "The client has it already",
    400: "Bad input; `errors` names the fields",
    401: "No login, or one that is not known",
    403: "Not for the caller",
    404: "Does not exist",
    405: "Never allowed here",
    409: "Not now: the task is running, or its image is being changed",
    412: "The file is not the one that the request asks for",
    413: "Too large",
    415: "A body of a kind that is not understood",
    416: "The file has no such range",
    429: "Too often, or too many at once; see Retry-After",
    500: "Internal error",
    503: "Something that the request needs is away; see Retry-After",
}
_ALSO: Final = {
    "number": ({"type": "string", "description": "The number as text"},),
    "integer": ({"type": "string", "description": "The number as text"},),
    "boolean": ({"enum": [0, 1]}, {"type": "string", "description": "true, false, yes, no, on, off"}),
    "string": ({"type": "number"},),
}
_ABOUT: Final = {"title", "description", "default", "x-steps", "anyOf"}
_PATH: Final[dict[str, dict[str, Any]]] = {
    "path": {"type": "string", "minLength": 1, "description": "Name, relative; slashes need no escape"},
    "table": {"type": "string", "enum": ["filters", "catalogs", "templates"]},
}
_TASK_ID: Final = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A request that is sent again with the same key, because its answer was lost, takes effect once",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_LAST: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Number of the last change of state that the client knows; browsers send it when they come back",
    "schema": {"type": "string", "maxLength": 255},
}
_DESCRIPTION: Final = (
    "Upload FITS images, run inspect, photometry and the search for transients on them, fetch the results. "
    "Log in with `POST /api/auth/token/` and send `Authorization: Token <token>`. "
    "Every path works with and without its trailing slash, and with HEAD and OPTIONS where it works with GET."
)


def describe(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """Describe the operations.

    Returns
    -------
    dict
        An OpenAPI 3.1 document, as JSON has it.
    """
    operations = [operation for operation in operations if operation.path.startswith("/api/")]
    schemas, components = _schemas(operations)
    components |= _config()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        slash = "" if ":" in operation.path else "/"
        paths.setdefault(path + slash, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "STDWeb", "version": version, "description": _DESCRIPTION, "license": {"name": "MIT"}},
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Token <token>`",
                },
                "session": {"type": "apiKey", "in": "cookie", "name": "sessionid"},
                "csrf": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-CSRFToken",
                    "description": "The value of the cookie `csrftoken`; goes with the session where something changes",
                },
            },
        },
    }


def _schemas(operations: list[Operation]) -> tuple[dict[tuple[int, str], Any], dict[str, Any]]:
    """Make the schemas of everything at once, so that shared models are written once."""
    inputs: list[tuple[Any, Any, TypeAdapter[Any]]] = [((-1, "problem"), "serialization", TypeAdapter(Problem))]
    for operation in operations:
        if operation.reply is not None:
            inputs.append(((id(operation), "reply"), "serialization", TypeAdapter(operation.reply)))
        if operation.body is not None:
            inputs.append(((id(operation), "body"), "validation", TypeAdapter(operation.body)))
        if operation.told is not None:
            inputs.append(((id(operation), "told"), "serialization", TypeAdapter(operation.told)))
        for name, model in operation.events.items():
            inputs.append(((id(operation), f"event {name}"), "serialization", TypeAdapter(model)))
    found, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    return {key: schema for (key, _), schema in found.items()}, definitions.get("$defs", {})


def _config() -> dict[str, Any]:
    """Describe the options of all steps, which have one namespace, and the models of those that are objects."""
    properties: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for step in STEPS.values():
        schema = step.params.model_json_schema(ref_template=_REF)
        for name, part in schema["properties"].items():
            known = properties.setdefault(name, {**part, "x-steps": []})
            known["x-steps"].append(step.name)
            _widen(known, {"type": "null"})
        for name, model in schema.get("$defs", {}).items():
            for part in model.get("properties", {}).values():
                _widen(part)
            models[name] = model
    config = {
        "type": "object",
        "description": "Options of the steps; others are kept, and mean nothing to them. null counts as absent",
        "properties": properties,
        "propertyNames": {"minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": r"^[^$.\x00][^.\x00]*$"},
    }
    return {"Config": config, **models}


def _widen(option: dict[str, Any], *more: dict[str, Any]) -> None:
    """Say in which other forms the value of an option is taken."""
    kinds = option.pop("anyOf", None) or [{key: option.pop(key) for key in list(option) if key not in _ABOUT}]
    also = [kind for given in kinds for kind in _ALSO.get(given.get("type", ""), ()) if "enum" not in given]
    option["anyOf"] = kinds + [kind for kind in (*also, *more) if kind not in kinds]


def _operation(operation: Operation, schemas: dict[tuple[int, str], Any]) -> dict[str, Any]:
    summary, _, more = (operation.handler.__doc__ or "").strip().partition("\n")
    described: dict[str, Any] = {
        "operationId": "_".join([operation.method.lower(), *_WORD.findall(operation.path)[1:]]),
        "summary": summary.rstrip("."),
        "tags": [operation.path.split("/")[2]],
        "parameters": [
            *_path_parameters(operation),
            *_query_parameters(operation.query),
            *([_KEY] if operation.keyed else []),
            *([_LAST] if operation.events else []),
        ],
        "responses": _responses(operation, schemas),
    }
    if more.strip():
        described["description"] = "\n".join(line.strip() for line in more.strip().splitlines())
    if operation.public:
        described["security"] = []
    elif operation.method != "GET":
        described["security"] = [{"token": []}, {"session": [], "csrf": []}]
    if body := _body(operation, schemas.get((id(operation), "body"))):
        described["requestBody"] = body
    if operation.told is not None:
        described["callbacks"] = {"ended": {"{$request.body#/callback_url}": _told(schemas[id(operation), "told"])}}
    return described


def _told(schema: dict[str, Any]) -> dict[str, Any]:
    """Describe what we send, and not what is sent to us."""
    names = {
        "X-STDWeb-Event": "The `event_id`: the same each time, for it may come more than once",
        "X-STDWeb-Timestamp": "When it was sent, seconds since the epoch",
        "X-STDWeb-Signature": "`sha256=` and the HMAC-SHA256, hexadecimal, of the timestamp, a dot and the body",
    }
    return {
        "post": {
            "summary": "A run has ended",
            "parameters": [
                {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
                for name, text in names.items()
            ],
            "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
            "responses": {
                "2XX": {"description": "Taken; the body is not read"},
                "410": {"description": "Not wanted any more: it is not sent again. All else is tried again for a day"},
            },
        }
    }


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    is_task = operation.path.startswith("/api/tasks/")
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _PATH.get(name) or (_TASK_ID if is_task else {"type": "string", "minLength": 1}),
        }
        for name in _PARAMETER.findall(operation.path)
    ]


def _query_parameters(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema(ref_template=_REF)
    required = schema.get("required", ())
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": part.get("description", ""),
            "schema": {key: value for key, value in part.items() if key not in {"title", "description"}},
        }
        for name, part in schema["properties"].items()
    ]


def _body(operation: Operation, schema: Any) -> dict[str, Any] | None:
    if schema is None and not operation.upload:
        return None
    fields = schema or {"type": "object"}
    kinds = {JSON: {"schema": fields}} if schema else {}
    if operation.form:
        kinds["application/x-www-form-urlencoded"] = {"schema": fields}
    if operation.upload:
        file = {
            "type": "object",
            "properties": {"file": {"type": "string", "contentMediaType": "application/octet-stream"}},
        }
        form = {"allOf": [fields, file]} if schema else {**file, "required": ["file"]}
        kinds["multipart/form-data"] = {"schema": form}
    fields_of = operation.body.model_fields.values() if operation.body else ()
    required = not schema or any(field.is_required() for field in fields_of)
    return {"required": required, "content": kinds}


def _stream(operation: Operation, schemas: dict[tuple[int, str], Any]) -> dict[str, Any]:
    """Describe server-sent events, for which OpenAPI 3.1 has no words."""
    return {
        "schema": {"type": "string", "description": "Events; the `data` of each is JSON, by its name"},
        "x-events": {name: schemas[id(operation), f"event {name}"] for name in operation.events},
    }


def _good(operation: Operation, schemas: dict[tuple[int, str], Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done"}
    reply = schemas.get((id(operation), "reply"))
    if reply is not None:
        good["content"] = {JSON: {"schema": reply}}
    for media in operation.media:
        if media != JSON:
            binary = {"schema": {"type": "string", "contentMediaType": media}} if not media.startswith("text/") else {}
            good.setdefault("content", {})[media] = binary
    if operation.events:
        good["content"] = {"text/event-stream": _stream(operation, schemas)}
    return good


def _responses(operation: Operation, schemas: dict[tuple[int, str], Any]) -> dict[str, Any]:
    statuses = {500, 503, *operation.errors}
    if not operation.public:
        statuses |= {401} if operation.method == "GET" else {401, 403}  # a session without its proof
    if operation.query or operation.body or operation.upload or operation.keyed:
        statuses.add(400)
    if operation.body or operation.upload:
        statuses |= {413, 415}
    if _PARAMETER.search(operation.path):
        statuses |= {404} if operation.public else {403, 404}
    problem = {JSON: {"schema": schemas[-1, "problem"]}}
    good = _good(operation, schemas)
    described: dict[str, Any] = {str(operation.status): good}
    for status in sorted(statuses):
        described[str(status)] = {"description": _MEANING[status]}
        if status >= HTTPStatus.BAD_REQUEST:
            described[str(status)]["content"] = problem
        elif status == HTTPStatus.PARTIAL_CONTENT:
            described[str(status)]["content"] = good["content"]
    return described
