"""What tests of the local AWS share: a server with it, real boto3 clients, packages to deploy."""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from live_server import running, services_in
from tunestone.api import local_aws, server
from tunestone.api.local_aws.credentials import own_credentials
from tunestone.api.services import Services
from tunestone.jobs.objects import Objects
from tunestone.jobs.settings import ServerSettings

ROLE = "arn:aws:iam::123456789012:role/Reward"


def client_of(url: str, service: str, *, region: str = "us-east-1", **options: Any) -> Any:
    """A boto3 client that nothing but its address tells from one of AWS."""
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=region,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=False, **options),
    )


def zipped(**modules: str) -> bytes:
    """A deployment package: module -> source."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in modules.items():
            archive.writestr(f"{name}.py", source)
    return data.getvalue()


@contextlib.contextmanager
def local_server(folder: Path, **options: Any) -> Iterator[tuple[str, Services]]:
    """A live server with local AWS, whose own S3 the jobs would read and write."""
    address: list[str] = []
    settings = ServerSettings(data=folder, local_aws=True)
    objects = Objects(settings, endpoint=lambda: address[0])
    services = services_in(folder, objects=objects, local_aws=True, **options)
    objects._credentials = partial(own_credentials, services.store, services.folder)
    find = local_aws.local_aws_app(services)
    with running(services, server.ROUTES, server.RENDER_ERROR, elsewhere=find) as url:
        address.append(url)
        try:
            yield url, services
        finally:
            local_aws.stop_functions(services)
