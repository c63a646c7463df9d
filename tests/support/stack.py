"""A real stack, started as a user starts it, in a folder and on ports of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stdweb.client import Client
from stdweb.settings import DEMO_USER, StackState
from stdweb.stack.supervisor import Report

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Stack:
    """A running stack, and the folder that it was started in."""

    root: Path
    environment: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.root / ".stdweb"

    @property
    def state(self) -> StackState:
        return StackState.started(self.folder)

    def pid(self, name: str) -> int | None:
        """Process id of a process of the stack; None while it is down."""
        report = Report.read(self.folder)
        return report.components[name].pid if report else None

    def ready(self) -> bool:
        report = Report.read(self.folder)
        return report is not None and report.ready

    def run(self, *arguments: str, stdin: str = "", timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a Python module in the stack's folder."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.root,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def client(self) -> Client:
        client = Client(self.state.base_url)
        client.login(DEMO_USER, self.state.demo_password)
        return client


@contextmanager
def running_stack(root: Path, **settings: str) -> Iterator[Stack]:
    """Start a stack in a folder, and end it; `settings` without the prefix `STDWEB_`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STDWEB_")}
    environment |= {
        "STDWEB_PORT": str(port),
        # A worker that was killed is taken over sooner than in normal use.
        "STDWEB_LEASE_S": "6",
        "STDWEB_HEARTBEAT_S": "1",
        "STDWEB_LEASE_POLL_S": "2",
        "STDWEB_RECONCILE_EVERY_S": "1",
        "STDWEB_SILENT_AFTER_S": "15",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(root / "cache"),
        "COLUMNS": "160",
        **{f"STDWEB_{name}": value for name, value in settings.items()},
    }
    stack = Stack(root, environment)
    started = stack.run("stdweb.stack", "up")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield stack
    finally:
        ended = stack.run("stdweb.stack", "down")
        assert ended.returncode == 0, ended.stdout + ended.stderr
