"""OpenAI's dialect: Bedrock's OpenAI-compatible endpoint and OpenAI's own, on the same paths."""

from dataclasses import replace

from tunestone.api.http import Route
from tunestone.api.openai import (
    chat,
    checkpoints,
    completions,
    evals,
    events,
    files,
    fine_tuning,
    graders,
    models,
    permissions,
    responses,
)
from tunestone.api.openai.errors import render_error
from tunestone.api.openai.files import sweep

_PREFIXES = ("/v1", "/openai/v1")
"""OpenAI's and bedrock-mantle's, and bedrock-runtime's."""
_MODULES = (
    *(files, fine_tuning, events, checkpoints, permissions, graders, models, evals),
    *(chat, completions, responses),
)
ROUTES: tuple[Route, ...] = tuple(
    replace(route, path=f"{prefix}{route.path}")
    for prefix in _PREFIXES
    for module in _MODULES
    for route in module.ROUTES
)
"""All operations, under each prefix."""

__all__ = ["ROUTES", "render_error", "sweep"]
