"""What clients asked and were promised: a line before each request that changes something, and one at its answer."""

import json
import time
from pathlib import Path
from typing import Any, TextIO


class Ledger:
    """Lines of JSON in a file, and in memory.

    Each line has `at` (seconds since the epoch), `what` and `op`: `asked` comes before the first try of a request,
    `accepted` after its 2xx, `refused` after an answer that says for certain that nothing was done, and `unknown` when
    the client gave up without such an answer.
    """

    def __init__(self, path: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._file: TextIO = path.open("w", buffering=1)

    def note(self, what: str, op: str, **facts: Any) -> dict[str, Any]:
        """Add a line."""
        line = {"at": time.time(), "what": what, "op": op, **facts}
        self.lines.append(line)
        self._file.write(json.dumps(line) + "\n")
        return line

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Read what another process has written."""
        return [json.loads(line) for line in path.read_text().splitlines()]
