"""The only code that knows motor, collections and fields. Relies on what MongoDB 8 and SecantusDB do alike."""

from .attempts import Attempts
from .callbacks import CallbackStore
from .claims import Claim, Claims
from .sessions import Session, SessionStore
from .store import OtherForm, Store, StoreAway
from .tasks import Changed, Tasks
from .upkeep import Shelved, Upkeep
from .users import Duplicate, Users
from .watch import Watch

__all__ = [
    "Attempts",
    "CallbackStore",
    "Changed",
    "Claim",
    "Claims",
    "Duplicate",
    "OtherForm",
    "Session",
    "SessionStore",
    "Shelved",
    "Store",
    "StoreAway",
    "Tasks",
    "Upkeep",
    "Users",
    "Watch",
]
