"""Parts of the settings of every process, read from `STDWEB_…` variables of the environment.

Each process has one class made of these parts; it is read in its `__main__` and handed down. Secrets have no default.
"""

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "STDWEB_"

KNOWN: set[str] = set()
"""Every setting of every process of ours: all of them read the same environment, and none may hold another name."""


class ProcessSettings(BaseSettings):
    """What every process is told; unknown `STDWEB_` names stop the start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    amqp_url: SecretStr = Field(description="Broker, amqp(s)://user:password@host:port/vhost")
    data_dir: Path = Field(description="Shared volume with the folders tasks, data and cache")
    log_format: Literal["json", "console"] = Field("json", description="Form of the log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged")
    health_host: str = Field("127.0.0.1", description="Address of /healthz, /readyz and /metrics of a service")
    health_port: int = Field(0, ge=0, le=65535, description="Port of the same; 0 picks a free one")
    broker_settle_s: float = Field(20, gt=0, description="How long to wait for a confirmation of the broker, seconds")
    broker_declares: bool = Field(
        True, description="Whether to make queues and exchanges; no where the broker lets the gateway alone do that"
    )
    heartbeat_s: float = Field(5, gt=0, description="Period of signs of life of a running step, seconds")
    lease_s: float = Field(20, gt=0, description="A lease unchanged for so long may be taken over, seconds")
    lease_poll_s: float = Field(5, gt=0, description="Delay of a message whose step another worker holds, seconds")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        KNOWN.update(cls.model_fields)

    @model_validator(mode="after")
    def _no_unknown_names(self) -> Self:
        names = {name.removeprefix(PREFIX).lower() for name in os.environ if name.startswith(PREFIX)}
        unknown = sorted(names - KNOWN)
        if unknown:
            msg = f"unknown settings: {', '.join(PREFIX + name.upper() for name in unknown)}"
            raise ValueError(msg)
        return self


def _paths(value: object) -> object:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _names(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class GatewaySettings(ProcessSettings):
    """Settings of the gateway."""

    mongo_url: SecretStr = Field(description="Store, mongodb://…/database")
    host: str = Field("127.0.0.1", description="Address that the API listens on")
    port: int = Field(8000, ge=0, le=65535, description="Port that the API listens on")
    tls_certificate: Path | None = Field(
        None, description="Certificate with its chain, PEM: the API speaks https; without it that is left to a proxy"
    )
    tls_key: Path | None = Field(None, description="Private key of the certificate, PEM, if in a file of its own")
    site_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+$",
        description="Address of the site as browsers see it, https://host; pages of other sites are refused, cookies "
        "are for https only if it is. Without it the Host header counts, and cookies are sent without TLS, too",
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_names)] = Field(
        (), description="Networks of proxies whose X-Forwarded-For is believed, separated by commas"
    )
    session_idle_s: float = Field(14 * 86400, gt=0, description="A session unused for so long ends, seconds")
    session_longest_s: float = Field(90 * 86400, gt=0, description="A session ends so long after its login, seconds")
    path_prefix: str = Field("tasks", description="Prefix of `path` of a task, as people who mount the volume see it")
    max_upload_bytes: int = Field(4 * 2**30, gt=0, description="Largest upload, bytes")
    reserve_bytes: int = Field(2**30, ge=0, description="Free space below which uploads are refused, bytes")
    user_quota_bytes: int = Field(
        0, ge=0, description="What the files of all tasks of one user may take, bytes; 0 for no limit"
    )
    max_steps_per_user: int = Field(
        64,
        gt=0,
        description="Most steps of one user released to one queue at a time; never more than two for each that can be "
        "worked on at once",
    )
    events_max: int = Field(1000, gt=0, description="Clients that may follow tasks at once, of one gateway")
    events_max_per_user: int = Field(20, gt=0, description="The same of one user")
    events_heartbeat_s: float = Field(
        15, gt=0, description="Period of comments to who follows a task, and of asking again who it is, seconds"
    )
    callback_allow: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_names)] = Field(
        (), description="Networks that are not public and may all the same be called back, separated by commas"
    )
    callback_retry_s: float = Field(10, gt=0, description="First delay of a callback that failed; it grows, seconds")
    callback_keep_trying_s: float = Field(86400, gt=0, description="A callback is given up after that time, seconds")
    silent_after_s: float = Field(60, gt=0, description="A started step silent for so long is tried again, seconds")
    republish_after_s: float = Field(300, gt=0, description="A published step not started is published again, seconds")
    reconcile_every_s: float = Field(5, gt=0, description="Period of the reconciler, seconds")


class WorkerSettings(ProcessSettings):
    """Settings of a step service."""

    slots: int = Field(1, ge=1, le=256, description="Steps worked on at once; one a core")
    only: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (),
        description="Steps and requests (such as image.edit) of the service that this process works on, separated "
        "by commas; by default all of them",
    )
    drain_s: float = Field(
        15,
        ge=0,
        description="How long running steps may take to end after SIGTERM before they go back to the queue, "
        "seconds; who then kills must wait 15 s longer",
    )
    step_memory_bytes: int = Field(8 * 2**30, gt=0, description="Memory of a step with all its programs, bytes")
    max_child_deaths: int = Field(3, ge=1, description="Deaths of a step's process after which the step fails")
    mirror_dir: Path | None = Field(None, description="Folder of local catalogue mirrors (HATS)")
    astrometry_indexes: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders with index files of Astrometry.net, separated by colons"
    )
    ca_bundle: Path | None = Field(None, description="CA certificates for archives, PEM")

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: object) -> object:
        if isinstance(values, dict) and "astrometry_indexes" in values:
            return {**values, "astrometry_indexes": _paths(values["astrometry_indexes"])}
        return values


class PreviewSettings(ProcessSettings):
    """Settings of the preview service."""

    slots: int | None = Field(
        None, ge=1, le=256, description="Pictures of one user drawn at once, and one more in all; by default one a core"
    )
    preview_memory_bytes: int = Field(3 * 2**30, gt=0, description="Memory of a process that draws, bytes")
    preview_time_s: float = Field(30, gt=0, description="Longest time to draw a picture, seconds")
    preview_cache_bytes: int = Field(4 * 2**30, gt=0, description="Size of the cache of pictures and copies, bytes")
