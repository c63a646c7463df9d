"""A RabbitMQ node of our own: own ports on the loopback, own folder, own cookie, never the machine's."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from shared.broker.rights import ALL, Rights

USER: Final = "stdweb"
VHOST: Final = "stdweb"

_DEBIAN: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in the path changes user and ends without root
_CONSUMER_TIMEOUT_MS: Final = 12 * 3600 * 1000  # above the longest step: beyond it the broker closes the channel
_LOOPBACK: Final = "-kernel inet_dist_use_interface {127,0,0,1}"
_NO_BUSY_WAITING: Final = "+sbwt none +sbwtdcpu none +sbwtdio none"  # the cores are for the steps
_PROBE_S: Final = 2.0
_POLL_S: Final = 0.1


@dataclass(frozen=True)
class RabbitNode:
    """A node, running or not.

    Parameters
    ----------
    folder
        Where it keeps everything: configuration, cookie, messages, logs.
    port, dist_port, epmd_port
        Ports on 127.0.0.1 for AMQP, for Erlang's distribution and for its port mapper.
    password
        Of the user; those of the services are derived from it.
    cookie
        Erlang's secret.
    vhosts
        Virtual hosts that exist.
    services
        What each service may do, as a user of its own name.
    metrics_port
        Port on 127.0.0.1 where Prometheus finds its metrics, those of each queue too; None for no such port.
    """

    folder: Path
    port: int
    dist_port: int
    epmd_port: int
    password: str
    cookie: str
    vhosts: tuple[str, ...] = (VHOST,)
    services: Mapping[str, Rights] = field(default_factory=dict)
    metrics_port: int | None = None

    @property
    def url(self) -> str:
        """Address of the first virtual host, with user and password."""
        return self.url_of(self.vhosts[0])

    def url_of(self, vhost: str, user: str = USER) -> str:
        """Give the address of a virtual host, with user and password."""
        return f"amqp://{user}:{quote(self._password(user), safe='')}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def _password(self, user: str) -> str:
        # nobody learns another's from his own
        own = hmac.new(self.password.encode(), user.encode(), "sha256").hexdigest()
        return self.password if user == USER else own

    @property
    def command(self) -> list[str]:
        """Command that becomes the node: its process is the Erlang machine itself, and SIGTERM ends it cleanly.

        Raises
        ------
        FileNotFoundError
            When RabbitMQ is not installed.
        """
        found = str(_DEBIAN) if _DEBIAN.exists() else shutil.which("rabbitmq-server")
        if found is None:
            msg = "RabbitMQ is not installed: there is no rabbitmq-server"
            raise FileNotFoundError(msg)
        return [found]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that the node needs besides the usual ones."""
        base = str(self.folder)
        return {
            "HOME": base,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            # what a node keeps is bound to its name, which must outlast its ports; the port mapper is its own
            "RABBITMQ_NODENAME": "stdweb@localhost",
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_CONFIG_FILE": f"{base}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{base}/rabbitmq-env.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{base}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{base}/enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{base}/generated",
            "RABBITMQ_SCHEMA_DIR": f"{base}/schema",
            "RABBITMQ_MNESIA_BASE": f"{base}/mnesia",
            "RABBITMQ_LOG_BASE": f"{base}/log",
            "RABBITMQ_PID_FILE": f"{base}/rabbitmq.pid",
            # with input allowed the script executes Erlang instead of staying in front of it
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-noinput {_LOOPBACK} {_NO_BUSY_WAITING}",
        }

    def prepare(self) -> None:
        """Write configuration, definitions and cookie."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cookie = self.folder / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.touch(mode=0o600)
        cookie.write_text(self.cookie)
        cookie.chmod(0o400)
        definitions = self.folder / "definitions.json"
        definitions.touch(mode=0o600)
        definitions.write_text(json.dumps(self._definitions()))
        plugins = "" if self.metrics_port is None else "rabbitmq_prometheus"
        (self.folder / "enabled_plugins").write_text(f"[{plugins}].\n")
        (self.folder / "rabbitmq-env.conf").touch()
        (self.folder / "rabbitmq.conf").write_text(
            "\n".join(
                (
                    f"listeners.tcp.1 = 127.0.0.1:{self.port}",
                    f"load_definitions = {definitions}",
                    f"consumer_timeout = {_CONSUMER_TIMEOUT_MS}",
                    "disk_free_limit.absolute = 50MB",
                    "vm_memory_high_watermark.relative = 0.4",
                    "log.file.level = warning",
                    *self._metrics(),
                    "",
                )
            )
        )

    def _metrics(self) -> tuple[str, ...]:
        if self.metrics_port is None:
            return ()
        return (
            "prometheus.tcp.ip = 127.0.0.1",
            f"prometheus.tcp.port = {self.metrics_port}",
            "management_agent.disable_metrics_collector = true",  # a history for a page that is not here
        )

    def _definitions(self) -> dict[str, object]:
        users = {USER: ALL, **self.services}
        return {
            "users": [self._user(name) for name in users],
            "vhosts": [{"name": name} for name in self.vhosts],
            "permissions": [
                {"user": name, "vhost": vhost, **asdict(rights)}
                for name, rights in users.items()
                for vhost in self.vhosts
            ],
        }

    def _user(self, name: str) -> dict[str, object]:
        salt = secrets.token_bytes(4)
        digest = hashlib.sha256(salt + self._password(name).encode()).digest()
        return {
            "name": name,
            "password_hash": base64.b64encode(salt + digest).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ["administrator"] if name == USER else [],
        }

    def accepts(self) -> bool:
        """Tell whether the node speaks AMQP now."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), _PROBE_S) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"
        return False

    # ---- for whoever has no supervisor

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the node; `prepare` comes before, `wait_ready` after."""
        with (self.folder / "stdout.log").open("ab") as output:
            return subprocess.Popen(
                self.command,
                env=dict(os.environ) | self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, process: "subprocess.Popen[bytes]", deadline_s: float = 60) -> None:
        """Wait until the node speaks AMQP.

        Raises
        ------
        RuntimeError
            When it ended instead, or took longer than `deadline_s` seconds.
        """
        end = time.monotonic() + deadline_s
        while not self.accepts():
            if process.poll() is not None or time.monotonic() > end:
                msg = f"RabbitMQ did not start; see {self.folder}/stdout.log and {self.folder}/log"
                raise RuntimeError(msg)
            time.sleep(_POLL_S)

    def stop(self, process: "subprocess.Popen[bytes]", grace_s: float = 20) -> None:
        """End the node, and the port mapper that it left behind."""
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if epmd := shutil.which("epmd"):
            environment = dict(os.environ) | self.environment
            subprocess.run([epmd, "-kill"], env=environment, check=False, capture_output=True, timeout=grace_s)
