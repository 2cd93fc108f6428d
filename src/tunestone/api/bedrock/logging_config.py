"""Model invocation logging: where records of all questions and answers go.

The configuration is kept in `settings` under `KEY`; what writes the records reads it there.
"""

import logging

from tunestone.api.bedrock.errors import ValidationException
from tunestone.api.bedrock.operations import Reply
from tunestone.api.bedrock.shapes import Json
from tunestone.api.http import Call
from tunestone.errors import TunestoneError
from tunestone.jobs.tables import Setting

KEY = "invocation_logging"
_NO_CLOUDWATCH = (
    "There is no CloudWatch here: cloudWatchConfig is stored and echoed, and nothing is delivered "
    "to it. Records go to s3Config."
)
_log = logging.getLogger(__name__)


def put_logging(call: Call, given: Json) -> Reply:
    """PutModelInvocationLoggingConfiguration. The bucket must be writable."""
    config = given["loggingConfig"]
    if "s3Config" not in config:
        raise ValidationException(
            "loggingConfig.s3Config is required: Tunestone delivers records to S3 only, since it "
            "has no CloudWatch."
        )
    s3 = config["s3Config"]
    prefix = s3.get("keyPrefix", "").strip("/")
    try:
        call.services.objects.check_writable(f"s3://{s3['bucketName']}/{prefix}".rstrip("/") + "/")
    except TunestoneError as error:
        raise ValidationException(
            f"Failed to validate permissions for the bucket {s3['bucketName']}. {error}"
        ) from error
    with call.services.store.session() as session:
        session.merge(Setting(key=KEY, value=config))
    if "cloudWatchConfig" not in config:
        return Reply()
    _log.warning("Invocation logging: %s", _NO_CLOUDWATCH)
    return Reply(note=_NO_CLOUDWATCH)


def get_logging(call: Call, given: Json) -> Json:
    """GetModelInvocationLoggingConfiguration; nothing when there is none."""
    with call.services.store.session() as session:
        row = session.get(Setting, KEY)
    return {"loggingConfig": row.value} if row else {}


def delete_logging(call: Call, given: Json) -> Json:
    """DeleteModelInvocationLoggingConfiguration; nothing is logged from then on."""
    with call.services.store.session() as session:
        if row := session.get(Setting, KEY):
            session.delete(row)
    return {}
