"""The only code that knows motor, collections and fields. Relies on what MongoDB 8 and SecantusDB do alike."""

from .store import Store, StoreAway
from .tasks import Changed, Tasks
from .users import Duplicate, Users

__all__ = ["Changed", "Duplicate", "Store", "StoreAway", "Tasks", "Users"]
