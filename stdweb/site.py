"""Work on a whole installation: the one of the running stack, or the one that the environment names."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from .settings import STATE_FOLDER, StackError, StackSettings, StackState

if TYPE_CHECKING:
    from services.gateway.upkeep import Site

T = TypeVar("T")


def with_site(work: Callable[["Site"], Awaitable[T]], *, broker: bool = False) -> T:
    """Do something with store and files, and with the broker if it is needed.

    Raises
    ------
    StackError
        It was refused, something is away, or nobody knows where it is.
    """
    settings, state = StackSettings.read(), StackState.load(STATE_FOLDER)
    mongo = settings.mongo_url.get_secret_value() if settings.mongo_url else state.mongo_url if state else ""
    amqp = settings.amqp_url.get_secret_value() if settings.amqp_url else state.amqp_url if state else ""
    data_dir = settings.data_dir or (state.volume if state else None)
    needed = {"MONGO_URL": bool(mongo), "DATA_DIR": data_dir is not None, "AMQP_URL": bool(amqp) or not broker}
    if data_dir is None or not all(needed.values()):
        missing = " and ".join(f"STDWEB_{name}" for name, known in needed.items() if not known)
        raise StackError(f"No stack was started in this folder. Start one with 'make up', or set {missing}.")
    if not data_dir.is_dir():
        raise StackError(f"There is no folder {data_dir} (STDWEB_DATA_DIR).")

    async def run() -> T:
        from services.gateway.domain.errors import Refused
        from services.gateway.storage import OtherForm, StoreAway
        from services.gateway.upkeep import Site
        from shared.broker import BrokerUnavailable

        try:
            async with Site(mongo, data_dir, amqp if broker else None) as site:
                return await work(site)
        except (Refused, OtherForm) as error:
            raise StackError(str(error)) from error
        except StoreAway as error:
            raise StackError("The store does not answer. Does it run? Try: make status") from error
        except BrokerUnavailable as error:
            raise StackError("The broker does not answer. Does it run? Try: make status") from error
        except OSError as error:
            raise StackError(f"A file cannot be read or written: {error}") from error

    return asyncio.run(run())
