"""What a check finds."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Mend = Callable[[], Awaitable[bool]]
"""Mends what was found; tells whether it did, or somebody else was faster."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Parameters
    ----------
    kind
        Short name.
    subject
        What it is about, such as `task 7`.
    text
        What is wrong.
    remedy
        What `mend` does, or what a person can do.
    mend
        None where only a person can tell what is right.
    """

    kind: str
    subject: str
    text: str
    remedy: str
    mend: Mend | None = None
