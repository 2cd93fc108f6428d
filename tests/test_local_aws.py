"""S3, STS and IAM on the server's own port, through boto3; and what of them a restart keeps."""

import json
import os
import resource
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from live_server import running, services_in
from local_aws_server import client_of, local_server
from tunestone.api import local_aws
from tunestone.api.access.keys import KeyRing
from tunestone.api.local_aws.compaction import compact
from tunestone.api.local_aws.journal import Entry, Journal
from tunestone.errors import StorageError

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
)
POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "bedrock:InvokeModel", "Resource": "*"}],
    }
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with local_server(tmp_path_factory.mktemp("local") / "data") as (url, _):
        yield url


def fault_of(refused) -> tuple[str, str]:
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def test_one_port_answers_s3_sts_and_iam(server):
    assert client_of(server, "sts").get_caller_identity()["Account"] == "123456789012"
    role = client_of(server, "iam").create_role(RoleName="One", AssumeRolePolicyDocument=TRUST)
    assert role["Role"]["Arn"] == "arn:aws:iam::123456789012:role/One"
    s3 = client_of(server, "s3")
    s3.create_bucket(Bucket="one-port")
    s3.put_object(Bucket="one-port", Key="a", Body=b"1")
    assert s3.get_object(Bucket="one-port", Key="a")["Body"].read() == b"1"


def test_a_path_of_our_own_is_s3s_when_s3_signs_it(server):
    s3 = client_of(server, "s3")
    s3.create_bucket(Bucket="healthz")  # GET /healthz is a route of ours too
    s3.put_object(Bucket="healthz", Key="k", Body=b"")
    assert [found["Key"] for found in s3.list_objects_v2(Bucket="healthz")["Contents"]] == ["k"]
    with urllib.request.urlopen(f"{server}/healthz") as answer:
        assert json.load(answer) == {"status": "ok"}


def test_an_upload_in_parts_of_100_mb_comes_back_as_it_was(server, tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(2**20) * 100)
    s3 = client_of(server, "s3")
    s3.upload_file(str(source), "large", "in/parts.bin")  # boto3: 13 parts, aws-chunked, CRC32
    assert s3.head_object(Bucket="large", Key="in/parts.bin")["ETag"].endswith('-13"')
    s3.download_file("large", "in/parts.bin", str(copy))
    assert copy.read_bytes() == source.read_bytes()


def test_odd_keys_and_metadata_survive_the_wire(server):
    s3 = client_of(server, "s3")
    key = "a b+c/é%2F?#&.jsonl"
    s3.put_object(Bucket="odd", Key=key, Body=b"x", Metadata={"with_underscore": "1"})
    found = s3.get_object(Bucket="odd", Key=key)
    assert found["Metadata"] == {"with_underscore": "1"}
    assert s3.list_objects_v2(Bucket="odd")["Contents"][0]["Key"] == key


def test_a_presigned_link_works(server):
    s3 = client_of(server, "s3", signature_version="s3v4")
    s3.put_object(Bucket="presigned", Key="k", Body=b"read me")
    link = s3.generate_presigned_url("get_object", Params={"Bucket": "presigned", "Key": "k"})
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"read me"


def test_what_is_not_there_is_an_error_of_s3(server):
    s3 = client_of(server, "s3")
    with pytest.raises(s3.exceptions.NoSuchBucket) as refused:
        s3.get_object(Bucket="never-made", Key="k")
    assert fault_of(refused) == ("NoSuchBucket", "The specified bucket does not exist")
    s3.create_bucket(Bucket="empty")
    with pytest.raises(s3.exceptions.NoSuchKey) as refused:
        s3.get_object(Bucket="empty", Key="k")
    assert fault_of(refused) == ("NoSuchKey", "The specified key does not exist.")


def test_a_role_that_exists_is_a_conflict_and_aws_managed_policies_are_known(server):
    iam = client_of(server, "iam")
    iam.create_role(RoleName="Twice", AssumeRolePolicyDocument=TRUST)
    with pytest.raises(iam.exceptions.EntityAlreadyExistsException) as refused:
        iam.create_role(RoleName="Twice", AssumeRolePolicyDocument=TRUST)
    assert fault_of(refused) == (
        "EntityAlreadyExists",
        "Role with name Twice already exists.",
    )
    managed = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    iam.attach_role_policy(RoleName="Twice", PolicyArn=managed)
    attached = iam.list_attached_role_policies(RoleName="Twice")["AttachedPolicies"]
    assert [policy["PolicyArn"] for policy in attached] == [managed]


def test_an_upload_beyond_the_limit_is_refused(tmp_path):
    with local_server(tmp_path / "data", max_upload_bytes=2 * 2**20) as (url, _):
        s3 = client_of(url, "s3")
        with pytest.raises(ClientError) as refused:
            s3.put_object(Bucket="limit", Key="k", Body=bytes(4 * 2**20))
        code, message = fault_of(refused)
        assert code == "EntityTooLarge"
        assert "the limit of this server" in message


def test_who_may_only_look_changes_nothing_in_iam_either(tmp_path):
    """IAM is asked by GET too; and a signature in which two readers find two services is S3's for
    none of them."""
    with local_server(tmp_path / "data", require_keys=True) as (url, services):
        key = KeyRing(services.store, services.folder).create("looks", "read")
        query = "Action=CreateUser&UserName=evil&Version=2010-05-08"
        scope = "X-Amz-Credential=x/20260101/us-east-1/{}/aws4_request"
        bearer = {"Authorization": f"Bearer {key.bearer}"}
        for headers, target in [
            (bearer, f"{url}/?{query}&{scope.format('iam')}"),
            (signed_for_s3(key, f"{url}/?{query}"), f"{url}/?{query}"),
            (signed_for_s3(key, f"{url}/?{query}&{scope.format('iam')}", "\t"), ""),
        ]:
            request = urllib.request.Request(target or f"{url}/?{query}&{scope.format('iam')}")
            for name, value in headers.items():
                request.add_header(name, value)
            try:
                with urllib.request.urlopen(request) as answer:
                    assert b"CreateUserResponse" not in answer.read()
            except urllib.error.HTTPError as error:
                assert error.code in (403, 501)


def signed_for_s3(key, target, blank=" "):
    """Headers of a GET, signed for S3, with another blank behind the algorithm's name."""
    request = AWSRequest("GET", target)
    S3SigV4Auth(Credentials(key.id, key.secret), "s3", "us-east-1").add_auth(request)
    headers = dict(request.headers.items())
    return {**headers, "Authorization": headers["Authorization"].replace(" ", blank, 1)}


def test_motos_own_api_is_a_bucket_like_any_other(server):
    s3 = client_of(server, "s3")
    s3.put_object(Bucket="kept", Key="a", Body=b"1")
    for key in ("data.json", "reset", "config", "recorder/start-recording"):
        with pytest.raises(ClientError) as refused:
            s3.get_object(Bucket="moto-api", Key=key)
        assert fault_of(refused)[0] == "NoSuchBucket"
    scope = "X-Amz-Credential=x/20260101/us-east-1/s3/aws4_request"
    request = urllib.request.Request(f"{server}/moto-api/reset?{scope}", b"", method="POST")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request)
    assert s3.get_object(Bucket="kept", Key="a")["Body"].read() == b"1"


def test_without_local_aws_s3_is_not_answered(tmp_path):
    services = services_in(tmp_path)
    find = local_aws.local_aws_app(services)
    with running(services, elsewhere=find) as url, pytest.raises(ClientError) as refused:
        client_of(url, "s3").get_object(Bucket="a-bucket", Key="k")
    assert fault_of(refused)[0] == "NoSuchKey"
    assert "There is no operation GET /a-bucket/k here." in fault_of(refused)[1]


def test_a_restart_keeps_objects_roles_and_uploads_under_way(tmp_path):
    folder = tmp_path / "data"
    with local_server(folder) as (url, _):
        s3, iam = client_of(url, "s3"), client_of(url, "iam")
        s3.put_object(Bucket="kept", Key="small", Body=b"small", Metadata={"m": "1"})
        s3.put_object(Bucket="kept", Key="large", Body=b"x" * 2**21)
        s3.put_object(Bucket="kept", Key="deleted", Body=b"y")
        s3.delete_object(Bucket="kept", Key="deleted")
        head = s3.head_object(Bucket="kept", Key="small")
        upload = s3.create_multipart_upload(Bucket="kept", Key="parts")["UploadId"]
        first = s3.upload_part(
            Bucket="kept", Key="parts", UploadId=upload, PartNumber=1, Body=b"1" * (5 * 2**20)
        )
        role = iam.create_role(RoleName="Kept", AssumeRolePolicyDocument=TRUST)["Role"]
        iam.put_role_policy(RoleName="Kept", PolicyName="judge", PolicyDocument=POLICY)
    with local_server(folder) as (url, _):
        s3, iam = client_of(url, "s3"), client_of(url, "iam")
        found = s3.get_object(Bucket="kept", Key="small")
        assert found["Body"].read() == b"small"
        assert {key: found[key] for key in ("ETag", "LastModified", "Metadata")} == {
            key: head[key] for key in ("ETag", "LastModified", "Metadata")
        }
        assert s3.get_object(Bucket="kept", Key="large")["Body"].read() == b"x" * 2**21
        second = s3.upload_part(
            Bucket="kept", Key="parts", UploadId=upload, PartNumber=2, Body=b"2"
        )
        parts = [
            {"PartNumber": number, "ETag": part["ETag"]}
            for number, part in ((1, first), (2, second))
        ]
        s3.complete_multipart_upload(
            Bucket="kept", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
        )
        assert s3.get_object(Bucket="kept", Key="parts")["Body"].read()[-2:] == b"12"
        assert iam.get_role(RoleName="Kept")["Role"] == role
        policy = iam.get_role_policy(RoleName="Kept", PolicyName="judge")["PolicyDocument"]
        assert policy == json.loads(POLICY)
        keys = [found["Key"] for found in s3.list_objects_v2(Bucket="kept")["Contents"]]
        assert keys == ["large", "parts", "small"]


def test_bodies_of_replaced_objects_are_not_kept(tmp_path):
    folder = tmp_path / "data"
    with local_server(folder) as (url, _):
        s3 = client_of(url, "s3")
        for byte in b"abc":
            s3.put_object(Bucket="again", Key="k", Body=bytes([byte]) * 2**20)
    bodies = folder / "local_aws" / "bodies"
    assert len(list(bodies.iterdir())) == 3
    with local_server(folder) as (url, _):
        s3 = client_of(url, "s3")
        assert s3.get_object(Bucket="again", Key="k")["Body"].read() == b"c" * 2**20
        assert len(list(bodies.iterdir())) == 1


def test_an_entry_that_did_not_fit_on_the_disk_harms_no_later_one(tmp_path):
    journal = Journal(tmp_path)
    journal.append(entry("PUT", "/bucket/first"))
    size = (tmp_path / "journal.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))  # a disk with room for half a line
    try:
        with pytest.raises(StorageError, match="the change cannot be written"):
            journal.append(entry("PUT", "/bucket/refused"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append(entry("PUT", "/bucket/later"))
    found = [kept.target for kept in Journal(tmp_path).read()]
    assert found == ["/bucket/first", "/bucket/later"]


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path):
    journal = Journal(tmp_path)
    journal.append(entry("PUT", "/bucket/whole"))
    journal.close()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"method": "PUT", "tar')
    assert [found.target for found in Journal(tmp_path).read()] == ["/bucket/whole"]
    journal = Journal(tmp_path)
    journal.append(entry("PUT", "/bucket/next"))
    assert [found.target for found in journal.read()] == ["/bucket/whole", "/bucket/next"]


def entry(method: str, target: str, *, service: str = "s3", **headers: str) -> Entry:
    scope = f"AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/{service}/aws4_request"
    named = {"authorization": scope, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return Entry(method, target, tuple(named.items()), time=0.0, seed=0)


def shown(entries: list[Entry]) -> list[str]:
    return [f"{found.method} {found.target}" for found in compact(entries)]


def test_compaction_keeps_the_last_of_each_object():
    entries = [
        entry("PUT", "/b"),
        entry("PUT", "/b/x?x-id=PutObject"),
        entry("PUT", "/b/y"),
        entry("PUT", "/b/x"),
        entry("DELETE", "/b/y"),
        entry("POST", "/", service="iam"),
    ]
    assert shown(entries) == ["PUT /b", "PUT /b/x", "POST /"]


def test_compaction_keeps_what_a_copy_was_made_of():
    entries = [
        entry("PUT", "/b/x"),
        entry("PUT", "/b/y", x_amz_copy_source="b/x"),
        entry("PUT", "/b/x"),
        entry("DELETE", "/b/x"),
    ]
    # the second /b/x is gone; the first is what /b/y is made of, so its deletion stays too
    assert shown(entries) == ["PUT /b/x", "PUT /b/y", "DELETE /b/x"]


def test_compaction_forgets_ended_uploads_and_keeps_those_under_way():
    def begun(key: str, upload: str) -> Entry:
        return replace(entry("POST", f"/b/{key}?uploads"), upload_id=upload)

    entries = [
        begun("done", "1"),
        entry("PUT", "/b/done?partNumber=1&uploadId=1"),
        entry("POST", "/b/done?uploadId=1"),
        begun("given-up", "2"),
        entry("PUT", "/b/given-up?partNumber=1&uploadId=2"),
        entry("DELETE", "/b/given-up?uploadId=2"),
        begun("replaced", "3"),
        entry("POST", "/b/replaced?uploadId=3"),
        entry("PUT", "/b/replaced"),
        begun("running", "4"),
        entry("PUT", "/b/running?partNumber=1&uploadId=4"),
    ]
    assert shown(entries) == [
        "POST /b/done?uploads",
        "PUT /b/done?partNumber=1&uploadId=1",
        "POST /b/done?uploadId=1",
        "PUT /b/replaced",
        "POST /b/running?uploads",
        "PUT /b/running?partNumber=1&uploadId=4",
    ]


def test_compaction_leaves_buckets_with_versions_alone():
    entries = [
        entry("PUT", "/b"),
        entry("PUT", "/b?versioning"),
        entry("PUT", "/b/x"),
        entry("PUT", "/b/x"),
        entry("PUT", "/b/x/"),
    ]
    assert compact(entries) == entries


def test_compaction_reads_deletions_of_many():
    body = b"<Delete><Object><Key>x</Key></Object><Object><Key>y</Key></Object></Delete>"
    bulk = replace(entry("POST", "/b?delete"), body=body)
    assert shown([entry("PUT", "/b/x"), entry("PUT", "/b/z"), bulk]) == ["PUT /b/z"]
