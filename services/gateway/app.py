"""Puts the gateway together."""

import asyncio
import contextlib
import functools
import importlib.metadata
import json
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any

import structlog
from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, web

from shared.broker import Broker
from shared.metrics import BROKER_CONNECTED
from shared.settings import GatewaySettings
from shared.taskdir import TasksRoot

from . import keys
from .deliver import Deliverer, Sender
from .domain.auth import Auth
from .domain.callbacks import Callbacks
from .domain.coordinator import Coordinator
from .domain.data import Data
from .domain.edits import Edits
from .domain.events import Events
from .domain.files import Files
from .domain.images import Images
from .domain.listing import Listing
from .domain.making import Making
from .domain.once import Once
from .domain.presets import PresetFiles, Presets
from .domain.previews import Previews
from .domain.queue import QueueService
from .domain.quota import Quota
from .domain.room import Room
from .domain.sessions import Sessions
from .domain.signs import Signs
from .domain.tasks import TaskService
from .domain.throttle import Throttle
from .listener import Listener
from .middlewares import answer_errors, authenticate
from .openapi import describe
from .reconcile import Reconciler
from .routes import OPERATIONS, add_routes
from .storage import Attempts, CallbackStore, Claims, OtherForm, SessionStore, Store, StoreAway, Tasks, Users, Watch

_PREPARE_AGAIN_S = 1.0
_MAX_FORM = 1024 * 1024

log = structlog.get_logger()


def build_app(
    settings: GatewaySettings, store: Store, broker: Broker, broken: Callable[[], None] = lambda: None
) -> web.Application:
    """Build the application. It closes store and broker when it ends.

    Parameters
    ----------
    broken
        Called when what runs in the background has died: the gateway answers then, but brings no run on.
    """
    for category in (BadContentDispositionHeader, BadContentDispositionParam):
        # Python prints and remembers every new text of a warning; these hold what strangers send
        warnings.simplefilter("ignore", category)
    app = web.Application(middlewares=[answer_errors, authenticate], client_max_size=_MAX_FORM)
    root = TasksRoot(settings.data_dir)
    tasks, users, signs = Tasks(store), Users(store), Signs()
    coordinator = _coordinator(settings, store, broker, signs)
    images = Images(tasks, root)
    app[keys.SETTINGS] = settings
    app[keys.STORE] = store
    app[keys.BROKER] = broker
    BROKER_CONNECTED.set_function(lambda: broker.connected)
    app[keys.ROOT] = root
    app[keys.AUTH] = Auth(users, Throttle(Attempts(store)))
    app[keys.SESSIONS] = Sessions(
        SessionStore(store),
        users,
        timedelta(seconds=settings.session_idle_s),
        timedelta(seconds=settings.session_longest_s),
    )
    app[keys.COORDINATOR] = coordinator
    app[keys.CALLBACKS] = coordinator.callbacks
    _add_tasks(app, tasks, users, root)
    app[keys.FILES] = Files(root, images)
    app[keys.EDITS] = Edits(root, images, broker)
    app[keys.PREVIEWS] = Previews(root, settings.data_dir, broker)
    app[keys.QUEUE] = QueueService(tasks, coordinator, signs)
    _add_events(app, store)
    app[keys.LISTENING] = asyncio.Event()
    app[keys.VERSION] = importlib.metadata.version("stdweb")
    app[keys.DESCRIPTION] = _description(app[keys.VERSION])
    add_routes(app)
    listener = Listener(broker, coordinator, app[keys.EVENTS])
    deliverer = Deliverer(coordinator.callbacks, Sender(settings.callback_allow), settings.reconcile_every_s)
    reconciler = Reconciler(settings, tasks, root, coordinator, images)

    async def background(app: web.Application) -> AsyncIterator[None]:
        async def listen() -> None:
            await listener.start()
            app[keys.LISTENING].set()

        async def work() -> None:
            try:
                await _prepare(store)
                await _together(listen, reconciler.run, app[keys.EVENTS].run, deliverer.run)
            except Exception:
                log.exception("background work died")
                broken()

        running = asyncio.create_task(work())
        yield
        await listener.stop()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await broker.close()
        app[keys.AUTH].close()
        store.close()

    app.cleanup_ctx.append(background)
    return app


@functools.cache  # a quarter of a second of work, the same for every application of a process
def _description(version: str) -> bytes:
    return json.dumps(describe(OPERATIONS, version)).encode()


def _add_tasks(app: web.Application, tasks: Tasks, users: Users, root: TasksRoot) -> None:
    settings = app[keys.SETTINGS]
    app[keys.ROOM] = Room(root.path, settings.max_upload_bytes, settings.reserve_bytes)
    app[keys.QUOTA] = Quota(tasks, users, root, settings.user_quota_bytes)
    app[keys.LISTING] = Listing(tasks, root)
    making = Making(tasks, users, root, PresetFiles(settings.data_dir), app[keys.ROOM])
    app[keys.ONCE] = Once(Claims(app[keys.STORE]), tasks, making.new_id)
    app[keys.DATA] = Data(settings.data_dir)
    app[keys.PRESETS] = Presets(users)
    app[keys.TASKS] = TaskService(
        tasks,
        users,
        root,
        app[keys.COORDINATOR],
        making,
    )


def _coordinator(settings: GatewaySettings, store: Store, broker: Broker, signs: Signs) -> Coordinator:
    tasks, users, root = Tasks(store), Users(store), TasksRoot(settings.data_dir)
    callbacks = Callbacks(
        CallbackStore(store),
        tasks,
        settings.callback_allow,
        timedelta(seconds=settings.callback_retry_s),
        timedelta(seconds=settings.callback_keep_trying_s),
    )
    return Coordinator(
        tasks, root, broker, signs, callbacks, users=users, max_steps_per_user=settings.max_steps_per_user
    )


def _add_events(app: web.Application, store: Store) -> None:
    settings = app[keys.SETTINGS]
    events = app[keys.EVENTS] = Events(Watch(store), settings.events_max, settings.events_max_per_user)
    app[keys.COORDINATOR].revisions.after.append(events.changed)

    async def end_streams(_: web.Application) -> None:
        events.close()

    app.on_shutdown.append(end_streams)


async def _together(*parts: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part())


async def _prepare(store: Store) -> None:
    while True:
        try:
            await store.prepare()
        except StoreAway:
            await asyncio.sleep(_PREPARE_AGAIN_S)
        except OtherForm as error:
            log.critical("store not for this version", error=str(error))
            raise
        else:
            return
