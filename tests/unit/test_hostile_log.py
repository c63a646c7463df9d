"""Who puts line breaks, colours or formats into a text that is logged forges no line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import GatewaySettings
from tests.support.gateway import until

FORGED = 'x\n{"event": "forged"}\r\x1b[31m %s {0.__class__} \u2028'
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("STDWEB_")}
PROGRAM = """
import logging, sys
from pathlib import Path
import structlog
from shared.logging import configure_logging
from shared.settings import ProcessSettings
configure_logging(ProcessSettings(amqp_url="amqp://unused", data_dir=Path(".")), "test")
text = sys.argv[1]
structlog.get_logger().info("request refused", path=text)
logging.getLogger("library").warning("cannot take %s", text)
logging.getLogger("library").warning(text)
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_text_of_a_stranger_makes_no_line(form: str) -> None:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM, FORGED],
        env=CLEAN | {"STDWEB_LOG_FORMAT": form},
        capture_output=True,
        check=True,
        timeout=60,
    ).stderr.decode()
    lines = output.removesuffix("\n").split("\n")
    assert len(lines) == 3, output
    assert not {"\x1b", "\r"} & set(output)
    if form == "json":
        assert json.loads(lines[0])["path"] == FORGED
        assert json.loads(lines[2])["event"] == FORGED


def start(environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        command = [sys.executable, "-m", "services.gateway"]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


async def test_passwords_of_broker_and_store_are_not_logged(tmp_path: Path) -> None:
    """A gateway that reaches neither says so, at every level, without them."""
    settings = {
        "STDWEB_AMQP_URL": "amqp://user:hidden-of-broker@127.0.0.1:1/vhost",
        "STDWEB_MONGO_URL": "mongodb://user:hidden-of-store@127.0.0.1:1/stdweb?serverSelectionTimeoutMS=500",
        "STDWEB_DATA_DIR": str(tmp_path),
        "STDWEB_PORT": "0",
        "STDWEB_LOG_LEVEL": "debug",
    }
    log = tmp_path / "log"
    process = start(CLEAN | settings, log)
    try:

        async def said() -> bool:
            assert process.poll() is None, log.read_text()
            return log.read_text().count("broker unreachable") > 1

        await until(said, 60)
    finally:
        process.terminate()
        process.wait(30)
    assert "hidden-of" not in log.read_text()
    made = GatewaySettings(
        amqp_url=settings["STDWEB_AMQP_URL"], mongo_url=settings["STDWEB_MONGO_URL"], data_dir=tmp_path
    )
    assert "hidden-of" not in f"{made} {made!r} {made.model_dump_json()}"
