"""The training core: torch, and no knowledge of any server."""

from tunestone.core.memory import prefer_large_pages

prefer_large_pages()
