"""Limits of a user, as people write them."""

import re
from typing import Final, Literal

import typer

_SIZE: Final = re.compile(r"(\d{1,12})\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MOST_DIGITS: Final = 9

Site = Literal["site"]


def quota_of(text: str) -> int | Site:
    """Read a quota: a size, `none`, or `site`; bytes, 0 for no limit.

    Raises
    ------
    typer.BadParameter
        When it is none of these.
    """
    if text == "site":
        return "site"
    if text == "none":
        return 0
    match = _SIZE.fullmatch(text)
    if match is None or not (size := int(match[1]) * _UNITS[match[2].upper()]):
        raise typer.BadParameter("--quota is a size such as 500M, 2G or 1T, or none, or site")
    return size


def steps_of(text: str) -> int | Site:
    """Read how many steps, or `site`; raises as `quota_of` does."""
    if text == "site":
        return "site"
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and int(text)):
        raise typer.BadParameter("--max-steps is a number from 1 on, or site")
    return int(text)


def shown_quota(quota_bytes: int | None) -> str:
    """Write a quota; empty where that of the site holds."""
    if quota_bytes is None:
        return ""
    unit = next((unit for unit, size in reversed(_UNITS.items()) if quota_bytes >= size and not quota_bytes % size), "")
    return f"{quota_bytes // _UNITS[unit]}{unit}" if quota_bytes else "none"
