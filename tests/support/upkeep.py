"""An installation with a gateway, and administration beside it."""

import os
import time
from pathlib import Path

from services.gateway.upkeep import Site
from tests.support.gateway import Gateway


class MemorySite(Site):
    """An installation whose broker is the one in memory that the gateway uses, too."""

    def __init__(self, gateway: Gateway, mongo_url: str) -> None:
        super().__init__(mongo_url, gateway.data_dir)
        self._broker = gateway.broker


def grow_old(path: Path, age_s: float = 7200) -> None:
    """Let a file or folder, and all below it, look as if nobody had changed it lately, as far as that can be set."""
    at = time.time() - age_s
    for folder, _, names in os.walk(path):
        for name in names:
            os.utime(os.path.join(folder, name), (at, at), follow_symlinks=False)
        os.utime(folder, (at, at))
    if path.is_file():
        os.utime(path, (at, at))
