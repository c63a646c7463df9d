"""Configs as clients send them: read, checked, merged."""

import ast
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from shared.contracts.params import MAX_CONFIG_BYTES, MAX_KEY_LENGTH
from shared.contracts.steps import STEPS

from .errors import Invalid, said

MAX_STEPS: Final = 32
_MAX_DEPTH: Final = 16
_MAX_LITERAL: Final = 16 * 1024  # Python takes a hundred times as long as JSON, and everybody waits


def parse(value: object, name: str = "config") -> dict[str, Any]:
    """Read a config: an object, JSON, or the Python literal that the published client class sends.

    Raises
    ------
    Invalid
        When it is none of these, or breaks a limit.
    """
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = _parse_text(value, name)
    if not isinstance(value, dict):
        raise Invalid.field(name, 'must be an object, such as {"filter": "R"}')
    _check_depth(value, name)
    for key in value:
        if not _is_key(key):
            raise Invalid.field(
                name, f"keys are texts of 1 to {MAX_KEY_LENGTH} characters, without leading $ and without . or NUL"
            )
    _size(value, name)
    return value


def _is_key(key: object) -> bool:
    return (
        isinstance(key, str)
        and 0 < len(key) <= MAX_KEY_LENGTH
        and not key.startswith("$")
        and not {".", "\0"} & set(key)
    )


def _parse_text(text: str, name: str) -> object:
    if len(text) > MAX_CONFIG_BYTES:
        raise Invalid.field(name, f"may have at most {MAX_CONFIG_BYTES // 1024} KiB")
    try:
        return json.loads(text)
    except RecursionError:
        raise Invalid.field(name, f"may be nested at most {_MAX_DEPTH} deep") from None
    except ValueError:
        pass
    if len(text) > _MAX_LITERAL:
        raise Invalid.field(name, f"is no JSON; a Python literal may have at most {_MAX_LITERAL // 1024} KiB")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Invalid.field(name, "is neither a JSON object nor a Python literal") from None


def _check_depth(value: object, name: str) -> None:
    level: list[object] = [value]
    for _ in range(_MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item)
        if not below:
            return
        level = below
    raise Invalid.field(name, f"may be nested at most {_MAX_DEPTH} deep")


def dump(config: Mapping[str, Any], name: str = "config") -> bytes:
    """Write a config as JSON.

    Raises
    ------
    Invalid
        When JSON has no such values.
    """
    try:
        # half of a surrogate pair is a text in JSON, but in no message
        return json.dumps(config, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        raise Invalid.field(
            name, "values must be texts (valid Unicode), finite numbers, true, false, null, lists or objects"
        ) from None


def _size(config: Mapping[str, Any], name: str) -> None:
    if len(dump(config, name)) > MAX_CONFIG_BYTES:
        raise Invalid.field(name, f"may have at most {MAX_CONFIG_BYTES // 1024} KiB")


def merge(asked: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge keys into what was asked; None removes a key.

    Raises
    ------
    Invalid
        When the whole is too large, or a known key has a bad value.
    """
    merged = {key: value for key, value in {**asked, **change}.items() if value is not None}
    _size(merged, "config")
    validate(merged, STEPS)
    return merged


def validate(config: Mapping[str, Any], steps: Iterable[str]) -> None:
    """Check the values of keys that the steps know.

    Raises
    ------
    Invalid
        Naming every bad key.
    """
    errors: dict[str, list[str]] = {}
    for name in steps:
        try:
            STEPS[name].params.of(dict(config))
        except ValidationError as error:
            for item in error.errors(include_url=False, include_context=False, include_input=False):
                key = str(item["loc"][0]) if item["loc"] else "config"
                message = said(item["msg"])
                if message not in errors.setdefault(key, []):
                    errors[key].append(message)
    if errors:
        detail = "; ".join(f"{key}: {', '.join(messages)}" for key, messages in errors.items())
        raise Invalid(f"Bad config value: {detail}", errors)


def step_names(names: object) -> list[str]:
    """Check the steps that a client wants to run.

    Raises
    ------
    Invalid
        For none, or an unknown one.
    """
    allowed = f"allowed: {', '.join(STEPS)}"
    if not isinstance(names, list) or not names:
        raise Invalid.field("steps", f"must be a list of at least one step; {allowed}")
    if len(names) > MAX_STEPS:
        raise Invalid.field("steps", f"may hold at most {MAX_STEPS} steps")
    if unknown := [name for name in names if not isinstance(name, str) or name not in STEPS]:
        shown = repr(unknown[0][:64]) if isinstance(unknown[0], str) else "that is no text"
        raise Invalid.field("steps", f"unknown step {shown}; {allowed}")
    return list(names)
