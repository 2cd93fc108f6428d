"""`s3://` addresses -> files, and back: Amazon S3, any server that speaks as it does, or our own.

Where the bytes lie follows from the server's settings: at `s3_endpoint`; or at this server itself
with `local_aws`; or at Amazon, with the credentials that boto3 finds. Objects are streamed, never
whole in memory, and a file appears whole or not at all.

boto3 (extra `aws`) is imported when it is first needed.
"""

import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunestone.errors import ConfigError, DataError, StorageError, TunestoneError, WorldError
from tunestone.jobs.settings import ServerSettings

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
_CHECK_NAME = ".write_access_check_file.temp"
"""Left behind by a check, as Bedrock does it: who may write need not be allowed to delete."""
_MISSING = frozenset({"NoSuchKey", "NotFound", "404"})
_DENIED = frozenset({"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"})
_BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
)


class Objects:
    """The objects a server reads and writes. Safe for several threads."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        endpoint: Callable[[], str] | str = "",
        credentials: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        """`endpoint`: this server's own address, and `credentials` (key id, secret) to ask it with;
        both are used with `local_aws` only."""
        self._settings = settings
        self._endpoint = endpoint
        self._credentials = credentials
        self._lock = threading.Lock()
        self._client: tuple[dict[str, Any], Any] | None = None

    def environment(self) -> dict[str, str]:
        """Variables with which a child process finds the same AWS; none but with `local_aws`."""
        if not self._settings.local_aws:
            return {}
        key_id, secret = self._own_credentials()
        return {
            "AWS_ENDPOINT_URL": self._own_address(),
            "AWS_ACCESS_KEY_ID": key_id,
            "AWS_SECRET_ACCESS_KEY": secret,
        }

    def download(self, url: str, to: Path) -> None:
        """Write the object to a file. Raises DataError or WorldError naming the url.

        What is larger than an upload may be is refused: it would fill the disk, then the memory.
        """
        bucket, key = _split(url)
        temporary = to.with_name(f".{to.name}.{secrets.token_hex(4)}.part")
        try:
            with temporary.open("xb") as file:
                with self._asking(url, "read") as client:
                    self._refuse_large(client.head_object(Bucket=bucket, Key=key), url)
                    client.download_fileobj(bucket, key, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(to)
        except OSError as error:
            raise StorageError(
                f"{to}: what {url} holds cannot be written: {error.strerror or error}.",
                remedy="Check that the data folder may be written to and has room.",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _refuse_large(self, head: Mapping[str, Any], url: str) -> None:
        size, most = int(head["ContentLength"]), self._settings.max_upload_bytes
        if size > most:
            raise DataError(
                f"The object has {size:,} bytes; this server takes at most {most:,}.",
                path=url,
                remedy="Split it, or raise the server's setting max_upload_bytes.",
            )

    def list(self, url: str) -> list[str]:
        """Addresses of the object itself and of all below it as a folder, sorted."""
        bucket, prefix = _split(url, whole_bucket=True)
        folder = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
        keys = []
        with self._asking(url, "list") as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for page in pages:
                keys += [found["Key"] for found in page.get("Contents", ())]
        return [f"s3://{bucket}/{key}" for key in keys if key == prefix or key.startswith(folder)]

    def upload(self, path: Path, url: str) -> None:
        """Send a file. Raises DataError or WorldError naming the url."""
        bucket, key = _split(url)
        with path.open("rb") as file, self._asking(url, "write") as client:
            client.upload_fileobj(file, bucket, key)

    def check_readable(self, url: str) -> None:
        """That the object, or anything below the address, is there and may be read."""
        bucket, key = _split(url, whole_bucket=True)
        with self._asking(url, "read") as client:
            if key and not key.endswith("/"):
                client.head_object(Bucket=bucket, Key=key)
                return
            found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        if not found.get("KeyCount"):
            raise _missing(url, "There is nothing below this address.")

    def check_writable(self, url: str) -> None:
        """That objects may be written below the address: by an empty one that stays there."""
        bucket, key = _split(url, whole_bucket=True)
        folder = key if key.endswith("/") or not key else f"{key}/"
        with self._asking(url, "write") as client:
            client.put_object(Bucket=bucket, Key=f"{folder}{_CHECK_NAME}", Body=b"")

    @contextmanager
    def _asking(self, url: str, what: str) -> Iterator[Any]:
        """The client, its errors put into our words."""
        client = self._connect()
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield client
        except ClientError as error:
            raise _explain(error.response, url, what) from error
        except NoCredentialsError as error:
            raise DataError(
                "There are no AWS credentials to ask S3 with.",
                path=url,
                remedy="Give the server AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY; or set s3_endpoint, or start it with --local-aws.",
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            raise WorldError(
                f"{url}: S3 could not be asked: {error}", remedy="Check the network and try again."
            ) from error

    def _connect(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise ConfigError(
                "s3:// addresses need the boto3 package.", remedy="pip install 'tunestone[aws]'"
            ) from error
        options: dict[str, Any] = {"region_name": self._settings.region}
        config: dict[str, Any] = {"retries": {"mode": "standard", "total_max_attempts": 4}}
        if address := self._settings.s3_endpoint or self._own_address():
            options["endpoint_url"] = address
            # As other servers than Amazon's understand it.
            config["s3"] = {"addressing_style": "path"}
            config["request_checksum_calculation"] = "when_required"
            config["response_checksum_validation"] = "when_required"
        if self._settings.local_aws and not self._settings.s3_endpoint:
            key_id, secret = self._own_credentials()
            options |= {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
        with self._lock:
            if self._client is None or self._client[0] != options:
                session = boto3.Session()
                self._client = (
                    dict(options),
                    session.client("s3", config=Config(**config), **options),
                )
            return self._client[1]

    def _own_address(self) -> str:
        """This server's, where it is S3; else empty."""
        if not self._settings.local_aws:
            return ""
        return self._endpoint if isinstance(self._endpoint, str) else self._endpoint()

    def _own_credentials(self) -> tuple[str, str]:
        return self._credentials() if self._credentials else ("local-aws", "local-aws")


def _split(url: str, *, whole_bucket: bool = False) -> tuple[str, str]:
    """Bucket and key. Raises DataError."""
    found = _URL.fullmatch(url)
    if found is None or not (found[2] or whole_bucket):
        raise DataError(
            "This is no address of an object in S3.",
            path=url,
            remedy="Write s3://bucket/key.",
        )
    return found[1], found[2] or ""


def _missing(url: str, message: str) -> DataError:
    return DataError(message, path=url, remedy="Check the bucket and the key.")


def _explain(response: dict[str, Any], url: str, what: str) -> TunestoneError:
    """What S3 refused, and what to do about it."""
    fault = response.get("Error", {})
    code, said = str(fault.get("Code", "unknown")), str(fault.get("Message", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return _missing(url, "There is no such bucket (NoSuchBucket).")
    if code in _MISSING:
        return _missing(url, "There is no such object (NoSuchKey).")
    if code in _DENIED:
        actions = {"read": "s3:GetObject", "list": "s3:ListBucket", "write": "s3:PutObject"}
        return DataError(
            f"S3 does not let the server {what} it (AccessDenied).",
            path=url,
            remedy=f"Allow {actions[what]} to the server's credentials.",
        )
    if code in _BAD_CREDENTIALS:
        return DataError(
            f"S3 does not accept the server's credentials ({code}).",
            path=url,
            remedy="Renew or correct the AWS credentials of the server.",
        )
    message = f"S3 refused to {what} it ({code}): {said.rstrip('.')}."
    with suppress(ValueError, TypeError):
        if int(status) >= 500 or code in ("SlowDown", "RequestTimeout", "503"):
            return WorldError(f"{url}: {message}", remedy="Try again later.")
    return DataError(message, path=url)
