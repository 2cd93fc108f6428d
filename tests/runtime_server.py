"""Bedrock's runtime over a scripted engine, and its boto3 client."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from live_server import running, services_in
from scripted_engine import Script, ScriptedEngine
from tunestone.api.bedrock.errors import render_error
from tunestone.api.bedrock_runtime import ROUTES
from tunestone.api.services import Services

NOVA = "amazon.nova-2-lite-v1:0"
HELLO = [{"role": "user", "content": [{"text": "Hello"}]}]
ADD = {
    "toolSpec": {
        "name": "add",
        "description": "Adds two numbers.",
        "inputSchema": {"json": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


class Words:
    """What the engine says, or how it fails; a test changes it."""

    def __init__(self, text: str = "Hello there.") -> None:
        self.text = text
        self.error: Exception | None = None

    def __call__(self, request: Any) -> str:
        if self.error:
            raise self.error
        return self.text


def runtime_client(url: str) -> Any:
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=config,
    )


@contextlib.contextmanager
def serving_runtime(services: Services) -> Iterator[Any]:
    """A client of a server with Bedrock's runtime."""
    with running(services, ROUTES, {"bedrock": render_error}) as url:
        yield runtime_client(url)


def scripted_services(folder: Path, script: Script, **settings: Any) -> Services:
    return services_in(folder, engine=ScriptedEngine(script), **settings)
