"""Requests that are answered at once, beside the runs. Frozen and versioned; no pixels, settings or secrets."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class Rpc(BaseModel):
    """One kind of request: who answers it, and how long the asker waits."""

    model_config = ConfigDict(frozen=True)

    name: str
    service: str
    time_limit_s: float

    @property
    def queue(self) -> str:
        """Queue of the broker that holds the requests; redeclaring with other arguments needs a new name."""
        return f"rpc.{self.name}.v1"


PREVIEW_RENDER: Final = Rpc(name="preview.render", service="preview", time_limit_s=45)

RPCS: Final[Mapping[str, Rpc]] = {rpc.name: rpc for rpc in (PREVIEW_RENDER,)}


class RpcMessage(BaseModel):
    """What requests and replies share."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1


class Request(RpcMessage):
    """A request; who asked is of no concern to the service."""

    at: AwareDatetime = Field(description="When the sender made the message, UTC")
    request_id: str = Field("", description="Id of the client's request, for the logs")


class Refusal(RpcMessage):
    """What was asked cannot be done."""

    kind: Literal["refused"] = "refused"
    code: str
    error: str = Field(description="One sentence for the user")
    parameter: str | None = Field(None, description="Which parameter was wrong; None when none was")
    status: Literal["bad", "missing", "later", "fault"] = Field(
        "bad", description="The user can mend it; there is no such thing; it may work later; our fault"
    )
