"""The training core: torch, and no knowledge of any server."""

from tunestone.core.memory import bound_caches

bound_caches()
