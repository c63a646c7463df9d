"""Errors of a step. Their kind decides what happens next; their message is shown to the user."""

from typing import Any, ClassVar


class StepError(Exception):
    """A step cannot go on.

    Parameters
    ----------
    code
        Short stable name of the cause, for clients and metrics, such as `no_wcs`.
    user_message
        One sentence: what was wrong with the input and what to try. No paths, no host names.
    details
        Further facts for the log.
    """

    retry: ClassVar[bool] = False

    def __init__(self, code: str, user_message: str, **details: Any) -> None:
        super().__init__(user_message)
        self.code = code
        self.user_message = user_message
        self.details = details


class UsageError(StepError):
    """The user can fix it by other options."""


class DataError(StepError):
    """The image cannot be used."""


class TransientError(StepError):
    """It may work later: an archive is away, the disk is full. Retried as a step."""

    retry: ClassVar[bool] = True


class InternalError(StepError):
    """A fault of ours; the traceback is in the service's log."""
