"""The engine: a process that answers with base, tuned and checkpoint models."""
