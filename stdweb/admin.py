"""Administration of users, tokens and presets, straight in the store."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from .settings import DEMO_USER, StackError, StackState

if TYPE_CHECKING:
    from services.gateway.admin import Admin

T = TypeVar("T")


async def with_admin(mongo_url: str, work: Callable[["Admin"], Awaitable[T]]) -> T:
    """Do something with a store.

    Parameters
    ----------
    mongo_url
        The store.
    work
        What to do.

    Raises
    ------
    StackError
        It was refused, or the store does not answer.
    """
    from services.gateway.admin import Admin
    from services.gateway.domain.errors import Refused
    from services.gateway.storage import OtherForm, StoreAway

    try:
        async with await Admin.connect(mongo_url) as admin:
            return await work(admin)
    except (Refused, OtherForm) as error:
        raise StackError(str(error)) from error
    except StoreAway as error:
        raise StackError("The store does not answer. Does it run? Try: make status") from error


async def ensure_demo_user(state: StackState) -> None:
    """Make the demo user, or give it the password that the stack remembers."""

    async def work(admin: "Admin") -> None:
        if any(user.name == DEMO_USER for user in await admin.list_users()):
            await admin.set_password(DEMO_USER, state.demo_password)
        else:
            await admin.add_user(DEMO_USER, state.demo_password)

    await with_admin(state.mongo_url, work)
