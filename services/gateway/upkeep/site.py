"""An installation: its store, its shared volume and its broker."""

from pathlib import Path
from types import TracebackType
from typing import Self

from shared.broker import Broker, connect
from shared.taskdir import TasksRoot

from ..domain.callbacks import Callbacks
from ..domain.coordinator import Coordinator
from ..domain.errors import Unavailable
from ..domain.images import Images
from ..domain.signs import Signs
from ..storage import CallbackStore, Store, Tasks, Upkeep, Users

_SETTLE_S = 10.0
_STEPS_PER_USER = 64


class Site:
    """Use as `async with Site(…) as site`.

    Parameters
    ----------
    mongo_url
        The store.
    data_dir
        The shared volume.
    amqp_url
        The broker; None for work that needs none.
    """

    def __init__(self, mongo_url: str, data_dir: Path, amqp_url: str | None = None) -> None:
        self.data_dir = data_dir
        self._amqp_url = amqp_url
        self._broker: Broker | None = None
        self._coordinator: Coordinator | None = None
        self.store = Store(mongo_url)
        self.tasks, self.users, self.upkeep = Tasks(self.store), Users(self.store), Upkeep(self.store)
        self.root = TasksRoot(data_dir)
        self.images = Images(self.tasks, self.root)

    async def __aenter__(self) -> Self:
        try:
            await self.store.prepare()
        except BaseException:
            self.store.close()
            raise
        if self._amqp_url is not None:
            self._broker = connect(self._amqp_url, "stdweb-admin", settle_s=_SETTLE_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._broker is not None:
            await self._broker.close()
        self.store.close()

    @property
    def broker(self) -> Broker:
        """The broker.

        Raises
        ------
        Unavailable
            When nobody said where it is.
        """
        if self._broker is None:
            raise Unavailable("The address of the broker is not known here; set STDWEB_AMQP_URL.")
        return self._broker

    @property
    def coordinator(self) -> Coordinator:
        """A coordinator like that of a gateway."""
        if self._coordinator is None:
            callbacks = Callbacks(CallbackStore(self.store), self.tasks)
            self._coordinator = Coordinator(
                self.tasks,
                self.root,
                self.broker,
                Signs(),
                callbacks,
                users=self.users,
                max_steps_per_user=_STEPS_PER_USER,
            )
        return self._coordinator
