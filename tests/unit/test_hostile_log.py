"""Who puts line breaks, colours or formats into a text that is logged forges no line."""

import json
import os
import subprocess
import sys

import pytest

FORGED = 'x\n{"event": "forged"}\r\x1b[31m %s {0.__class__} \u2028'
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
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STDWEB_")}
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM, FORGED],
        env=environment | {"STDWEB_LOG_FORMAT": form},
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
