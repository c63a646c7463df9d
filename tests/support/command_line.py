"""The command line `stdweb`, as administrators use it."""

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    status: int
    shown: str
    complaint: str


@dataclass(frozen=True)
class CommandLine:
    """`stdweb` in a folder of its own, with the address of a store."""

    folder: Path
    mongo_url: str
    data_dir: Path | None = None
    amqp_url: str | None = None

    async def run(self, *arguments: str, stdin: str = "") -> Answer:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STDWEB_")}
        environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "160", "STDWEB_MONGO_URL": self.mongo_url}
        if self.data_dir is not None:
            environment["STDWEB_DATA_DIR"] = str(self.data_dir)
        if self.amqp_url is not None:
            environment["STDWEB_AMQP_URL"] = self.amqp_url
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stdweb",
            *arguments,
            cwd=self.folder,
            env=environment,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        shown, complaint = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        return Answer(process.returncode or 0, shown.decode(), complaint.decode())

    async def ok(self, *arguments: str, stdin: str = "") -> str:
        answer = await self.run(*arguments, stdin=stdin)
        assert answer.status == 0, answer
        assert answer.complaint == ""
        return answer.shown


@dataclass(frozen=True)
class SameProcess(CommandLine):
    """The same without a process for each command, which costs more than most commands; one at a time."""

    async def run(self, *arguments: str, stdin: str = "") -> Answer:
        return await asyncio.to_thread(self._run, arguments, stdin)

    def _run(self, arguments: tuple[str, ...], stdin: str) -> Answer:
        from stdweb.cli import app
        from stdweb.settings import StackError

        environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith("STDWEB_")}
        environment |= {"COLUMNS": "160", "STDWEB_MONGO_URL": self.mongo_url, "STDWEB_AMQP_URL": self.amqp_url}
        environment["STDWEB_DATA_DIR"] = None if self.data_dir is None else str(self.data_dir)
        with contextlib.chdir(self.folder):
            result = CliRunner().invoke(app, arguments, input=stdin, env=environment)
        complaint = result.stderr
        if isinstance(result.exception, StackError):
            complaint += f"{result.exception}\n"
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, complaint)
