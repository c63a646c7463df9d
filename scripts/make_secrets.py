"""Makes the secrets of deploy/compose: `.env` for the compose file, and the broker's definitions with its users.

Needs nothing but Python. What exists is never overwritten; a name that a new version needs is added. The definitions
are written anew each time from `.env` and from what the project declares, so that an upgrade brings new queues.
"""

import base64
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path

COMPOSE = Path(__file__).parents[1] / "deploy" / "compose"
ADMIN = "admin"
HEAD = "# Made by `make secrets`. Keep a copy in a safe place: volumes made with these passwords need them.\n"


def names(users: list[str]) -> list[str]:
    """List the secrets: one for each user of the broker, and those of store and dashboards."""
    broker = [f"BROKER_{user.upper()}_PASSWORD" for user in users]
    return [*broker, "MONGO_ROOT_PASSWORD", "MONGO_GATEWAY_PASSWORD", "MONGO_REPLICA_KEY", "GRAFANA_ADMIN_PASSWORD"]


def read(path: Path) -> dict[str, str]:
    """Read an env file; empty when there is none."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def write(path: Path, text: str, mode: int) -> None:
    """Put a whole file in its place."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask is
        file.write(text)
    fresh.rename(path)


def user(name: str, password: str) -> dict[str, object]:
    """Describe a user of the broker as it keeps it: salted and hashed."""
    salt = secrets.token_bytes(4)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return {
        "name": name,
        "password_hash": base64.b64encode(salt + digest).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["administrator"] if name == ADMIN else [],
    }


def make(folder: Path, declared: Path = COMPOSE / "rabbitmq" / "definitions.json") -> list[str]:
    """Make what is missing in `folder`; give the names of the secrets that are new."""
    definitions = json.loads(declared.read_text())
    vhost = definitions["vhosts"][0]["name"]
    definitions["permissions"].append({"user": ADMIN, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"})
    users = [permission["user"] for permission in definitions["permissions"]]

    env = folder / ".env"
    known = read(env)
    # letters and digits alone: they stand in addresses, and in the replica set's key, which allows few others
    fresh = {name: secrets.token_hex(32) for name in names(users) if name not in known}
    if fresh:
        text = env.read_text() if env.exists() else HEAD
        text += "" if text.endswith("\n") else "\n"
        write(env, text + "".join(f"{name}={value}\n" for name, value in fresh.items()), 0o600)
    known |= fresh

    # The broker's container reads it as a user of its own; the folder keeps everybody else on this machine out.
    rendered = folder / "secrets"
    rendered.mkdir(mode=0o700, exist_ok=True)
    rendered.chmod(0o700)
    definitions["users"] = [user(name, known[f"BROKER_{name.upper()}_PASSWORD"]) for name in users]
    write(rendered / "definitions.json", json.dumps(definitions, indent=1) + "\n", 0o644)
    return list(fresh)


if __name__ == "__main__":
    made = make(COMPOSE)
    said = f"{len(made)} secrets made" if made else "complete, nothing changed"
    sys.stderr.write(f"{COMPOSE / '.env'}: {said}\n")
