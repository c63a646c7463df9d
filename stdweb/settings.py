"""Settings of the local stack, and what it remembers between two starts."""

import os
import secrets
import socket
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import KNOWN, PREFIX

STATE_FOLDER: Final = Path(".stdweb")
"""Where the stack of a project folder keeps its state, logs, tasks and secrets."""

DEMO_USER: Final = "demo"

_OWN_PORTS: Final = (
    *("amqp", "dist", "epmd", "broker_metrics", "store"),
    *("inspect", "photometry", "subtraction", "transients", "preview"),
)


class StackError(Exception):
    """The stack cannot do what was asked; the text says why and what to try."""


class StackSettings(BaseSettings):
    """What the environment says about the local stack."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address that the API listens on")
    port: int = Field(8000, gt=0, le=65535, description="Port that the API listens on")
    amqp_url: SecretStr | None = Field(None, description="A RabbitMQ of your own, used instead of the stack's")
    mongo_url: SecretStr | None = Field(None, description="A MongoDB of your own, used instead of the stack's store")
    data_dir: Path | None = Field(None, description="Shared volume; by default a folder of the stack's state")
    mirror_dir: Path | None = Field(None, description="Catalogue mirrors; by default a folder of the stack's state")
    slots: int | None = Field(None, ge=1, description="Steps that each service works on at once; by default one a core")

    @classmethod
    def read(cls) -> Self:
        """Read the environment.

        Raises
        ------
        StackError
            A value is not allowed, or a `STDWEB_` name means nothing.
        """
        names = {name for name in os.environ if name.startswith(PREFIX)}
        unknown = sorted(name for name in names if name.removeprefix(PREFIX).lower() not in KNOWN)
        if unknown:
            raise StackError(f"Unknown settings in the environment: {', '.join(unknown)}. Unset them.")
        try:
            return cls()
        except ValidationError as error:
            bad = "; ".join(f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise StackError(f"Settings in the environment are not allowed: {bad}") from None


class StackState(BaseModel):
    """What one stack chose at its first start and keeps: its mark, ports and secrets."""

    folder: Path
    mark: str = Field(default_factory=lambda: secrets.token_hex(16))
    ports: dict[str, int] = Field(default_factory=dict)
    broker_password: str = Field(default_factory=lambda: secrets.token_urlsafe(24))
    cookie: str = Field(default_factory=lambda: secrets.token_hex(20))
    demo_password: str = Field(default_factory=lambda: secrets.token_urlsafe(9))
    base_url: str = ""
    amqp_url: str = ""
    mongo_url: str = ""
    mirror_dir: Path | None = None

    @property
    def volume(self) -> Path:
        """The shared volume, where the environment names no other."""
        return self.folder / "volume"

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the state kept in `folder`; None when there is none."""
        try:
            text = (folder / "stack.json").read_text()
        except FileNotFoundError:
            return None
        try:
            # The project may have been moved: the folder is where the file was found.
            return cls.model_validate_json(text).model_copy(update={"folder": folder.resolve()})
        except ValidationError:
            raise StackError(f"{folder / 'stack.json'} is damaged. Run 'make down', then remove it.") from None

    @classmethod
    def started(cls, folder: Path) -> Self:
        """Read the state of a stack that was started in `folder`."""
        state = cls.load(folder)
        if state is None:
            raise StackError("No stack was started in this folder. Start one: make up")
        return state

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the state kept in `folder`, or make a new one."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls.load(folder) or cls(folder=folder.resolve())

    def save(self) -> None:
        """Keep the state, readable by its owner only."""
        path = self.folder / "stack.json"
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.model_dump_json(indent=2))
        fresh.rename(path)

    def choose_ports(self) -> None:
        """Give every part of the stack a loopback port, the one it had before where that is still free."""
        held = []
        for name in _OWN_PORTS:
            listener = _bind(self.ports.get(name, 0)) or _bind(0)
            if listener is None:
                raise StackError("No free loopback port was found.")
            held.append(listener)
            self.ports[name] = listener.getsockname()[1]
        for listener in held:
            listener.close()


def _bind(port: int, host: str = "127.0.0.1") -> socket.socket | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        return None
    return listener


def port_is_free(host: str, port: int) -> bool:
    """Tell whether a program could listen on `port` of `host` now."""
    listener = _bind(port, host)
    if listener is None:
        return False
    listener.close()
    return True
