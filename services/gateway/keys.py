"""Typed keys of what handlers find in the application and in requests."""

import asyncio
from typing import Final

from aiohttp import web

from shared.broker import Broker
from shared.settings import GatewaySettings
from shared.taskdir import TasksRoot

from .domain.auth import Auth
from .domain.callbacks import Callbacks
from .domain.coordinator import Coordinator
from .domain.data import Data
from .domain.edits import Edits
from .domain.events import Events
from .domain.files import Files
from .domain.listing import Listing
from .domain.once import Once
from .domain.presets import Presets
from .domain.previews import Previews
from .domain.queue import QueueService
from .domain.quota import Quota
from .domain.room import Room
from .domain.sessions import Sessions
from .domain.tasks import TaskService
from .model import User
from .storage import Store

SETTINGS: Final = web.AppKey("settings", GatewaySettings)
STORE: Final = web.AppKey("store", Store)
BROKER: Final = web.AppKey("broker", Broker)
ROOT: Final = web.AppKey("root", TasksRoot)
AUTH: Final = web.AppKey("auth", Auth)
SESSIONS: Final = web.AppKey("sessions", Sessions)
TASKS: Final = web.AppKey("tasks", TaskService)
DATA: Final = web.AppKey("data", Data)
PRESETS: Final = web.AppKey("presets", Presets)
ROOM: Final = web.AppKey("room", Room)
QUOTA: Final = web.AppKey("quota", Quota)
LISTING: Final = web.AppKey("listing", Listing)
FILES: Final = web.AppKey("files", Files)
EDITS: Final = web.AppKey("edits", Edits)
PREVIEWS: Final = web.AppKey("previews", Previews)
CALLBACKS: Final = web.AppKey("callbacks", Callbacks)
EVENTS: Final = web.AppKey("events", Events)
COORDINATOR: Final = web.AppKey("coordinator", Coordinator)
QUEUE: Final = web.AppKey("queue", QueueService)
ONCE: Final = web.AppKey("once", Once)
VERSION: Final = web.AppKey("version", str)
DESCRIPTION: Final = web.AppKey("description", bytes)
"""The description of the API, as it is sent."""
LISTENING: Final = web.AppKey("listening", asyncio.Event)
"""Set when the gateway takes messages from the broker for the first time."""

USER: Final = web.RequestKey("user", User)
SESSION: Final = web.RequestKey("session", str)
"""Id of the session, when the cookie says who calls."""
REQUEST_ID: Final = web.RequestKey("request_id", str)
