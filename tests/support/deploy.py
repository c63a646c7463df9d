"""Reading what `deploy/` holds."""

import functools
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"


def program(name: str) -> str:
    """Give the path of a program that a package of the lock brings."""
    return str(Path(sys.executable).parent / name)


def normal(name: str) -> str:
    """Write the name of a distribution as locks do."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path) -> dict[str, str]:
    """Read the versions of a lock."""
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE))


@functools.cache
def modules_of(lock: Path) -> tuple[list[str], list[str]]:
    """List the top-level modules that are installed here: those of the lock's distributions, and all others."""
    names = locked(lock).keys()
    inside, outside = [], []
    for module, owners in metadata.packages_distributions().items():
        of_lock = any(normal(owner) in names or normal(owner) == "stdweb" for owner in owners)
        (inside if of_lock else outside).append(module)
    return inside, outside


@functools.cache
def stages() -> dict[str, list[tuple[str, str]]]:
    """Read the Dockerfile: the instructions of each stage, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            name = rest.split()[-1]
            found[name] = []
        if name:
            found[name].append((word, " ".join(rest.split())))
    return found


def labels(stage: str) -> dict[str, str]:
    """Read the labels of a stage."""
    text = " ".join(rest for word, rest in stages()[stage] if word == "LABEL")
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def environment(stage: str) -> dict[str, str]:
    """Read the environment variables that a stage sets, with those of the stages that it is made from."""
    instructions = stages()[stage]
    parent = instructions[0][1].split()[0]
    own = " ".join(rest for word, rest in instructions if word == "ENV")
    above = environment(parent) if parent in stages() else {}
    return above | dict(pair.split("=", 1) for pair in shlex.split(own))


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in the project's folder."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
