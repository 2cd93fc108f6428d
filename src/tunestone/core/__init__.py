"""The training core: torch, and no knowledge of any server."""
