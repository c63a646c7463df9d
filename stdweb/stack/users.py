"""The demo user of a local stack."""

from services.gateway.admin import Admin

from ..settings import DEMO_USER, StackState


async def ensure_demo_user(state: StackState) -> None:
    """Make the demo user, or give it the password that the stack remembers."""
    async with Admin.connect(state.mongo_url) as admin:
        if any(user.name == DEMO_USER for user in await admin.list_users()):
            await admin.set_password(DEMO_USER, state.demo_password)
        else:
            await admin.add_user(DEMO_USER, state.demo_password)
