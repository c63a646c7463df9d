"""Requests that are answered at once, beside the runs. Frozen and versioned; no pixels, settings or secrets."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from .messages import FileInfo


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
IMAGE_EDIT: Final = Rpc(name="image.edit", service="inspect", time_limit_s=150)

RPCS: Final[Mapping[str, Rpc]] = {rpc.name: rpc for rpc in (PREVIEW_RENDER, IMAGE_EDIT)}


class RpcMessage(BaseModel):
    """What requests and replies share."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1


class Request(RpcMessage):
    """A request."""

    at: AwareDatetime = Field(description="When the sender made the message, UTC")
    request_id: str = Field("", description="Id of the client's request, for the logs")


class Refusal(RpcMessage):
    """What was asked cannot be done."""

    kind: Literal["refused"] = "refused"
    code: str
    error: str = Field(description="One sentence for the user")
    parameter: str | None = Field(None, description="Which parameter was wrong; None when none was")
    status: Literal["bad", "missing", "busy", "later", "fault"] = Field(
        "bad",
        description="The user can mend it; there is no such thing; it may work once other requests of the user have "
        "ended; it may work later; our fault",
    )


class FolderRequest(Request):
    """A request whose answer is files: the asker makes a folder for them, and commits what the service leaves there.

    The folder is the fence: once the asker has moved it away nobody who comes late can put anything into it.
    """

    task_id: int
    source: str = Field(pattern=r"^[0-9a-f]{32}$", description="Name of the folder, among the incoming files")


class Prepared(RpcMessage):
    """The files are there, whole and on the disk, in a folder of their own below the asker's."""

    kind: Literal["prepared"] = "prepared"
    folder: str = Field(pattern=r"^[0-9a-f]{32}$", description="Its name")
    files: tuple[FileInfo, ...]
