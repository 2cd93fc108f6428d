"""Everything that computes with models: sampling, training, evaluation."""

from tunestone.core.memory import prefer_large_pages

prefer_large_pages()
