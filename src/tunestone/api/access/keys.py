"""Access keys: a bearer key for the openai client and a signing pair for boto3, of one owner.

The bearer key is random and only its SHA-256 is stored. The pair's secret is made from its id and
the data folder's own secret (a file only its owner reads) each time it is needed, and is stored
nowhere. The running server reads the table anew every second, so that a key made or revoked by
`tunestone keys` holds at once.
"""

import base64
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import final

from sqlalchemy import select, update

from tunestone.api.http import Scope
from tunestone.errors import ConfigError, StorageError
from tunestone.jobs.store import Store, now
from tunestone.jobs.tables import Key

SCOPES: dict[Scope, tuple[Scope, ...]] = {
    "read": ("read",),
    "write": ("read", "write"),
    "admin": ("read", "write", "admin"),
}
"""What each scope contains."""
SECRET_FILE = "secret"
OWN_KEY = "TUNESTONE_OWN_KEY"
"""Environment variable in which the server hands its own bearer key to its children."""
_OWN = "ts-own-"
_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_TOUCH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key with its secrets, which are shown once."""

    id: str
    """Access key id of the pair; also names the key."""
    name: str
    scope: Scope
    bearer: str
    secret: str
    """Secret access key of the pair."""


@final
class KeyRing:
    """The keys of one data folder."""

    def __init__(self, store: Store, folder: Path, *, fresh_seconds: float = 1.0) -> None:
        self._store = store
        self._file = folder / SECRET_FILE
        self._fresh_seconds = fresh_seconds
        self._rows: Sequence[Key] = ()
        self._read_at = float("-inf")
        self._touched: dict[str, float] = {}

    def create(self, name: str, scope: Scope) -> NewKey:
        """A new key. Raises ConfigError when the folder's secret cannot be kept to its owner."""
        key_id = "AKTS" + "".join(secrets.choice(_ID_LETTERS) for _ in range(16))
        bearer = f"ts-{secrets.token_urlsafe(32)}"
        secret = self.secret_of(key_id)
        row = Key(
            id=key_id,
            name=name,
            bearer_sha256=_sha256(bearer),
            scopes=list(SCOPES[scope]),
            created_at=now(),
        )
        with self._store.session() as session:
            session.add(row)
        self.refresh()
        return NewKey(key_id, name, scope, bearer, secret)

    def listed(self) -> list[Key]:
        """All keys, also revoked ones, oldest first."""
        with self._store.session() as session:
            return list(session.scalars(select(Key).order_by(Key.created_at, Key.id)))

    def revoke(self, key_id: str) -> Key:
        """End a key, by its id or by a name that only one key in use has. Raises ConfigError."""
        found = [key for key in self.listed() if key_id in (key.id, key.name)]
        live = [key for key in found if key.revoked_at is None]
        if not found:
            raise ConfigError(f"There is no key '{key_id}'.", remedy="`tunestone keys list` does.")
        if len(live) != 1:
            what = "was revoked before" if not live else "is the name of several keys"
            raise ConfigError(f"'{key_id}' {what}.", remedy="Give the id of one that is in use.")
        with self._store.session() as session:
            session.execute(update(Key).where(Key.id == live[0].id).values(revoked_at=now()))
        self.refresh()
        return live[0]

    def is_stale(self) -> bool:
        """Whether the table should be read again."""
        return time.monotonic() - self._read_at > self._fresh_seconds

    def refresh(self) -> None:
        """Read the table."""
        self._rows = self.listed()
        self._read_at = time.monotonic()

    def any(self) -> bool:
        """Whether a key was ever made: from then on one is needed, even if all were revoked."""
        return bool(self._rows)

    def own_bearer(self) -> str:
        """A bearer key for what the server starts itself, such as judges that ask it.

        It is made from the folder's secret and stored nowhere; it may look and ask models only,
        for the environment of children that hold it is nearer to clients' code than the server is.
        """
        return _OWN + hmac.digest(self._folder_secret(), b"own bearer", "sha256").hex()

    def by_bearer(self, token: str) -> Key | None:
        """The key in use with this bearer token."""
        if token.startswith(_OWN):
            is_own = hmac.compare_digest(token.encode(), self.own_bearer().encode())
            return Key(id="own", name="this server", scopes=["read"]) if is_own else None
        digest = _sha256(token)
        found = [key for key in self._live() if hmac.compare_digest(key.bearer_sha256, digest)]
        return found[0] if found else None

    def by_id(self, key_id: str) -> Key | None:
        """The key in use with this access key id."""
        return next((key for key in self._live() if key.id == key_id), None)

    def secret_of(self, key_id: str) -> str:
        """Secret access key of a pair: 40 characters, as AWS's have."""
        mac = hmac.digest(self._folder_secret(), key_id.encode(), "sha256")
        return base64.b64encode(mac).decode()[:40]

    def touch(self, key_id: str) -> None:
        """Note that a key was used; written once a minute at most."""
        if time.monotonic() - self._touched.get(key_id, float("-inf")) < _TOUCH_SECONDS:
            return
        self._touched[key_id] = time.monotonic()
        stale = (Key.last_used_at.is_(None)) | (Key.last_used_at < now() - timedelta(seconds=30))
        with self._store.session() as session:
            session.execute(update(Key).where(Key.id == key_id, stale).values(last_used_at=now()))

    def _live(self) -> list[Key]:
        return [key for key in self._rows if key.revoked_at is None]

    def _folder_secret(self) -> bytes:
        try:
            handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self._read_secret()
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        return self._read_secret()

    def _read_secret(self) -> bytes:
        if self._file.stat().st_mode & 0o077:
            raise ConfigError(
                f"{self._file} can be read by others.", remedy=f"Run `chmod 600 {self._file}`."
            )
        try:
            secret = self._file.read_bytes().strip()
        except OSError as error:
            raise StorageError(
                f"{self._file} cannot be read: {error.strerror}.",
                remedy="Server and `tunestone keys` have to run as the same user.",
            ) from None
        if len(secret) < 64:
            raise ConfigError(
                f"{self._file} holds no whole secret.",
                remedy="Remove it and make new keys: pairs made with it no longer work.",
            )
        return secret


def scopes_of(key: Key) -> frozenset[Scope]:
    """What the owner of a key may do."""
    return frozenset(scope for scope in SCOPES if scope in key.scopes)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
