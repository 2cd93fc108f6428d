"""Credentials with which parts of this server ask the server itself: handlers, and S3 of the jobs.

Where nobody needs a key, any will do. Otherwise there is a key for it, made when it is first
needed, listed by `tunestone keys list` like any other.
"""

import threading
from pathlib import Path

from tunestone.api.access.keys import KeyRing
from tunestone.jobs.store import Store

KEY_NAME = "local-aws"
_making = threading.Lock()  # or two jobs that begin together would make two keys


def own_credentials(store: Store, folder: Path) -> tuple[str, str]:
    """Access key id and secret access key."""
    ring = KeyRing(store, folder)
    with _making:
        keys = ring.listed()
        if not keys:
            return KEY_NAME, KEY_NAME
        own = [key for key in keys if key.name == KEY_NAME and key.revoked_at is None]
        key_id = own[0].id if own else ring.create(KEY_NAME, "write").id
    return key_id, ring.secret_of(key_id)


def handler_environment(store: Store, folder: Path, *, url: str) -> dict[str, str]:
    """Variables with which boto3 in a handler finds this server, whose address is `url`."""
    key_id, secret = own_credentials(store, folder)
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
