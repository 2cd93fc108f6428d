"""Local AWS in `tunestone serve` itself: killed and started again, and with keys."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from live_server import serving
from local_aws_server import ROLE, client_of, zipped

ACCOUNT = (
    "import boto3\n"
    "def lambda_handler(event, context):\n"
    "    s3 = boto3.client('s3')\n"
    "    return s3.get_object(Bucket='kept', Key='k')['Body'].read().decode()\n"
)


def deploy(functions) -> None:
    functions.create_function(
        FunctionName="reads",
        Runtime="python3.11",
        Role=ROLE,
        Handler="m.lambda_handler",
        Code={"ZipFile": zipped(m=ACCOUNT)},
        Timeout=30,
        MemorySize=512,
    )


def test_a_killed_server_has_lost_nothing_that_it_acknowledged(tmp_path):
    folder = tmp_path / "data"
    with serving(folder, "--local-aws") as server:
        s3 = client_of(server.url, "s3")
        s3.put_object(Bucket="kept", Key="k", Body=b"what was sent")
        s3.put_object(Bucket="kept", Key="large", Body=b"l" * 2**21)
        upload = s3.create_multipart_upload(Bucket="kept", Key="parts")["UploadId"]
        part = {"Bucket": "kept", "Key": "parts", "UploadId": upload, "PartNumber": 1}
        etag = s3.upload_part(**part, Body=b"p")["ETag"]
        deploy(client_of(server.url, "lambda"))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    (folder / "local_aws" / "bodies" / "cut-off.part").write_bytes(b"of an upload that broke off")
    with serving(folder, "--local-aws") as server:
        answer = client_of(server.url, "lambda").invoke(FunctionName="reads")
        assert json.loads(answer["Payload"].read()) == "what was sent"
        s3 = client_of(server.url, "s3")
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        s3.complete_multipart_upload(
            Bucket="kept", Key="parts", UploadId=upload, MultipartUpload=parts
        )
        sizes = {
            found["Key"]: found["Size"] for found in s3.list_objects_v2(Bucket="kept")["Contents"]
        }
        assert sizes == {"k": 13, "large": 2**21, "parts": 1}
        assert not list((folder / "local_aws" / "bodies").glob("*.part"))


def test_with_keys_signatures_count_and_handlers_have_a_key_of_their_own(tmp_path):
    folder = tmp_path / "data"
    command = [sys.executable, "-m", "tunestone.cli", "keys", "create", "--data", str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    key = dict(re.findall(r"^(AWS_\w+)=(\S+)$", told.stdout + told.stderr, re.MULTILINE))

    with serving(folder, "--local-aws") as server:

        def client(service: str, secret: str = key["AWS_SECRET_ACCESS_KEY"], **options):
            return boto3.client(
                service,
                endpoint_url=server.url,
                region_name="us-east-1",
                aws_access_key_id=key["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=secret,
                config=Config(retries={"total_max_attempts": 1}, **options),
            )

        path = tmp_path / "upload"
        path.write_bytes(b"0123456789abcdef" * 2**20)  # 16 MiB: two parts
        client("s3").upload_file(str(path), "kept", "a b/parts")
        client("s3").put_object(Bucket="kept", Key="k", Body=b"signed")
        link = client("s3", signature_version="s3v4").generate_presigned_url(
            "get_object", Params={"Bucket": "kept", "Key": "k"}
        )
        with urllib.request.urlopen(link) as answer:
            assert answer.read() == b"signed"
        for service, call in (("s3", "list_buckets"), ("iam", "list_roles")):
            with pytest.raises(ClientError) as refused:
                getattr(client(service, "w" * 40), call)()
            assert refused.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
        assert client("sts").get_caller_identity()["Account"] == "123456789012"
        deploy(client("lambda"))
        answer = client("lambda").invoke(FunctionName="reads")
        assert json.loads(answer["Payload"].read()) == "signed"
