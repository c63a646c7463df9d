"""What this gateway has heard of running steps. In memory only: it hastens and shows, it decides nothing alone."""

import time
from dataclasses import dataclass, field

from shared.contracts.messages import StepProgress


@dataclass
class Sign:
    """What is known of one attempt at a step; times are of the monotonic clock of this process, seconds.

    Parameters
    ----------
    heard
        When it last gave a sign of life, or was first seen here.
    working
        Whether a service is known to work on it.
    published
        When it was last published from here; None when it was not.
    owed
        Whether a publish from here failed and is to be tried again soon.
    """

    attempt: int
    heard: float = field(default_factory=time.monotonic)
    working: bool = False
    published: float | None = None
    owed: bool = False
    fraction: float = 0.0
    phase: str = ""


class Signs:
    """Signs of all steps that are released, by step id."""

    def __init__(self) -> None:
        self._signs: dict[str, Sign] = {}

    def of(self, step_id: str, attempt: int) -> Sign:
        """Give the sign of an attempt, new when it was not known."""
        sign = self._signs.get(step_id)
        if sign is None or sign.attempt < attempt:
            sign = self._signs[step_id] = Sign(attempt)
        return sign

    def peek(self, step_id: str) -> Sign | None:
        """Give the sign of a step if there is one."""
        return self._signs.get(step_id)

    def hear(self, step_id: str, attempt: int) -> None:
        """Note that an attempt is alive."""
        sign = self.of(step_id, attempt)
        if sign.attempt == attempt:
            sign.heard = time.monotonic()
            sign.working = True

    def progress(self, message: StepProgress) -> None:
        """Note how far an attempt is."""
        self.hear(message.step_id, message.attempt)
        sign = self._signs[message.step_id]
        if sign.attempt == message.attempt:
            sign.fraction, sign.phase = message.fraction, message.phase

    def forget(self, step_id: str) -> None:
        """Drop what is known of a step that has ended."""
        self._signs.pop(step_id, None)

    def keep_only(self, step_ids: set[str]) -> None:
        """Drop what is known of any other step, unless it was heard just now."""
        recent = time.monotonic() - 60
        for step_id in [known for known, sign in self._signs.items() if sign.heard < recent]:
            if step_id not in step_ids:
                del self._signs[step_id]

    def all_alive(self) -> None:
        """Count every attempt as heard now: after a time in which nothing could be heard."""
        at = time.monotonic()
        for sign in self._signs.values():
            sign.heard = at
