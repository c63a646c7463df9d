"""What the command line does with users, tokens and presets. For people who have the store's address."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

from .domain import config as configs
from .domain.auth import Auth
from .domain.callbacks import Callbacks
from .domain.errors import Invalid
from .domain.presets import PresetFiles
from .domain.throttle import Throttle
from .model import GRANTS, Preset, User, now
from .storage import Attempts, CallbackStore, Duplicate, SessionStore, Store, Tasks, Users

_MAX_NAME = 150
_MAX_LIMIT: Final = 2**62

Site = Literal["site"]
SITE: Final[Site] = "site"
"""What the site allows, instead of a limit of the user's own."""


class Admin:
    """Administration, straight in the store; use as `async with await Admin.connect(url) as admin`.

    Every refusal is a `services.gateway.domain.errors.Refused` whose text is for the user; a store that does not
    answer is `services.gateway.storage.StoreAway`, one of another version `services.gateway.storage.OtherForm`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._users = Users(store)
        self._sessions = SessionStore(store)
        self._auth = Auth(self._users, Throttle(Attempts(store)))
        self._callbacks = Callbacks(CallbackStore(store), Tasks(store))

    @classmethod
    async def connect(cls, mongo_url: str) -> Self:
        """Connect, and create what the store lacks."""
        store = Store(mongo_url)
        try:
            await store.prepare()
        except BaseException:
            store.close()
            raise
        return cls(store)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._auth.close()
        self._store.close()

    async def add_user(
        self,
        name: str,
        password: str | None = None,
        *,
        is_staff: bool = False,
        groups: Collection[str] = (),
        grants: Collection[str] = (),
    ) -> User:
        """Make a user, and the groups that are missing; without a password only tokens let the user in.

        Raises
        ------
        Invalid
            For a bad name, password or grant, or when there is such a user.
        """
        if not name or len(name) > _MAX_NAME or not name.isprintable() or "|" in name or name != name.strip():
            raise Invalid.field("name", f"1 to {_MAX_NAME} printable characters, without | and outer blanks")
        _check_password(password)
        _check_names("groups", groups)
        _check_grants(grants)
        user = User(name, is_staff, frozenset(groups), frozenset(grants))
        await self._users.make_groups(groups)
        try:
            await self._users.add(user, await self._auth.hash(password) if password is not None else None, now())
        except Duplicate:
            raise Invalid.field("name", f"there is a user {name!r} already") from None
        return user

    async def set_user(
        self,
        name: str,
        *,
        is_staff: bool | None = None,
        groups: Collection[str] | None = None,
        grants: Collection[str] | None = None,
        quota_bytes: int | Site | None = None,
        max_steps: int | Site | None = None,
    ) -> User:
        """Change a user; None leaves as it is, and SITE lets hold again what the site allows. Effective within 5 s.

        Raises
        ------
        Invalid
            For a bad group, grant or limit, or when there is no such user.
        """
        await self._known(name)
        fields: dict[str, Any] = {}
        limits = (("quota_bytes", quota_bytes, 0), ("max_steps", max_steps, 1))
        for field, limit, least in limits:
            if isinstance(limit, int) and not least <= limit <= _MAX_LIMIT:
                raise Invalid.field(field, f"must be between {least} and {_MAX_LIMIT}")
            if limit is not None:
                fields[field] = None if limit == SITE else limit
        if is_staff is not None:
            fields["is_staff"] = is_staff
        if grants is not None:
            _check_grants(grants)
            fields["grants"] = sorted(set(grants))
        if groups is not None:
            _check_names("groups", groups)
            await self._users.make_groups(groups)
            fields["groups"] = sorted(set(groups))
        if fields:
            await self._users.change(name, **fields)
        return await self._known(name)

    async def set_password(self, name: str, password: str) -> None:
        """Set a password; tokens stay valid, sessions of browsers end within 5 s."""
        _check_password(password)
        await self._known(name)
        await self._users.change(name, password=await self._auth.hash(password))
        await self._sessions.delete_of(name)

    async def list_users(self) -> list[User]:
        """List the users by name."""
        return await self._users.all()

    async def create_token(self, name: str) -> str:
        """Issue a token; it is shown now and never again."""
        await self._known(name)
        return await self._auth.issue(name)

    async def revoke_tokens(self, name: str) -> int:
        """Revoke all tokens of a user, within 5 s. Returns how many there were."""
        await self._known(name)
        return await self._users.revoke_tokens(name)

    async def new_secret(self, name: str) -> str:
        """Make the secret that signs a user's callbacks from now on; it is shown now and never again."""
        await self._known(name)
        return await self._callbacks.new_secret(name)

    async def add_preset(
        self, name: str, config: Mapping[str, Any], files: Sequence[Path] = (), data_dir: Path | None = None
    ) -> Preset:
        """Store a preset; its config is checked.

        Parameters
        ----------
        files
            Copied into each task that starts from it, under their own names.
        data_dir
            The shared volume, which is needed for files.

        Raises
        ------
        Invalid
            For a bad name, config or file.
        """
        if not name or len(name) > _MAX_NAME or not name.isprintable():
            raise Invalid.field("name", f"must be a printable text of at most {_MAX_NAME} characters")
        checked = configs.merge({}, configs.parse(dict(config)))
        if not files:
            preset = Preset(await self._users.new_preset_id(), name, checked)
            await self._users.add_preset(preset)
            return preset
        if data_dir is None:
            raise Invalid.field("files", "the shared volume is not known here; set STDWEB_DATA_DIR")
        folder = PresetFiles(data_dir)
        names = await asyncio.to_thread(folder.names, files)
        preset = Preset(await self._users.new_preset_id(), name, checked, names)
        await asyncio.to_thread(folder.keep, preset.id, files)
        try:
            await self._users.add_preset(preset)
        except BaseException:
            await asyncio.to_thread(folder.drop, preset.id)
            raise
        return preset

    async def list_presets(self) -> list[Preset]:
        """List the presets by id."""
        return await self._users.presets()

    async def _known(self, name: str) -> User:
        user = await self._users.get(name)
        if user is None:
            raise Invalid.field("name", f"there is no user {name!r}")
        return user


def _check_password(password: str | None) -> None:
    if password == "":
        raise Invalid.field("password", "may not be empty")


def _check_names(field: str, names: Collection[str]) -> None:
    if bad := [name for name in names if not name or len(name) > _MAX_NAME or not name.isprintable() or "," in name]:
        raise Invalid.field(field, f"bad name {bad[0]!r}: 1 to {_MAX_NAME} printable characters, without commas")


def _check_grants(grants: Collection[str]) -> None:
    if unknown := sorted(set(grants) - set(GRANTS)):
        raise Invalid.field("grants", f"unknown grant {unknown[0]!r}; allowed: {', '.join(GRANTS)}")
