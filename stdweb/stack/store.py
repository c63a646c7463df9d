"""The embedded store: SecantusDB, a server of its own that speaks MongoDB's protocol."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.05


@dataclass(frozen=True)
class EmbeddedStore:
    """How to start the store on loopback, and where it then is.

    Parameters
    ----------
    folder
        Where it keeps its data.
    port
        TCP port on 127.0.0.1.
    database
        Name of the database in `url`.
    """

    folder: Path
    port: int
    database: str = "stdweb"

    @property
    def url(self) -> str:
        """Address for `STDWEB_MONGO_URL`. Retryable writes make this store, and it alone, slower with time."""
        return f"mongodb://127.0.0.1:{self.port}/{self.database}?retryWrites=false"

    @property
    def command(self) -> list[str]:
        """Command line.

        Without `--sync-on-commit` a crash loses acknowledged writes; `--standalone` spares the log for change streams,
        which nothing here reads and which costs a fifth of every update.
        """
        program = Path(sys.executable).parent / "secantusd-py"
        options = {"--host": "127.0.0.1", "--port": str(self.port), "--storage-path": str(self.folder)}
        return [
            str(program),
            *(part for option in options.items() for part in option),
            "--sync-on-commit",
            "--standalone",
            "--cache-size",
            "256M",
            "--log-level",
            "WARNING",
        ]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the process."""
        return {**os.environ, "PYTHONUNBUFFERED": "1"}

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start the process; its output goes to the file `log`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(self.command, env=self.environment, stdout=output, stderr=output)

    def accepts(self) -> bool:
        """Tell whether something listens there."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def wait(self, process: subprocess.Popen[bytes], timeout_s: float = 30) -> None:
        """Wait until the store answers.

        Raises
        ------
        RuntimeError
            When the process ended instead, or is not there in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.accepts():
            if process.poll() is not None:
                raise RuntimeError(f"the store ended with code {process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the store did not answer within {timeout_s:g} s")
            time.sleep(_POLL_S)
