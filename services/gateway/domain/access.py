"""Who may do what with a task."""

from ..model import EDIT_ALL, VIEW_ALL, Task, User
from .errors import Forbidden


def _shared(user: User, task: Task) -> bool:
    return task.user == user.name or user.is_staff or not user.groups.isdisjoint(task.groups)


def may_view(user: User, task: Task) -> bool:
    """Tell whether the user may see the task. Who may edit all tasks may see them."""
    return _shared(user, task) or not user.grants.isdisjoint({VIEW_ALL, EDIT_ALL})


def may_edit(user: User, task: Task) -> bool:
    """Tell whether the user may change and run the task."""
    return _shared(user, task) or EDIT_ALL in user.grants


def may_delete(user: User, task: Task) -> bool:
    """Tell whether the user may delete the task, or share it."""
    return task.user == user.name or user.is_staff


def check_view(user: User, task: Task) -> None:
    """Refuse who may not see the task."""
    if not may_view(user, task):
        raise Forbidden("You may not see this task.")


def check_edit(user: User, task: Task) -> None:
    """Refuse who may not change the task."""
    check_view(user, task)
    if not may_edit(user, task):
        raise Forbidden("You may see this task but not change or run it.")


def check_delete(user: User, task: Task) -> None:
    """Refuse who is neither owner nor staff."""
    check_view(user, task)
    if not may_delete(user, task):
        raise Forbidden("Only the owner of a task, or staff, may do this.")
