"""Rewards behind an HTTP endpoint: bodies, signatures, retries, and answers that are none."""

import hashlib
import hmac
import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier, Event

import pytest
from pydantic import ValidationError

from scripted_server import Reply, serve
from tunestone.errors import RewardError
from tunestone.rewards import http
from tunestone.rewards.http import Http, sign, verify
from tunestone.rewards.spec import Context
from tunestone.types import Prompt, Sample

SECRET = "s3cret-é"
TOOL = {"type": "function", "function": {"name": "add"}}


def samples_of(count):
    return [
        Sample(Prompt(f"q{i}", ({"role": "user", "content": "?"},), {"n": i}), f"text {i}")
        for i in range(count)
    ]


def right(request):
    """Rewards each sample with the `n` of its row."""
    grades = [{"id": s["id"], "reward": s["row"]["n"]} for s in request.json()["samples"]]
    return Reply({"grades": grades[::-1]})


def grade(answer, count=1, **fields):
    """(grades, requests) of `count` samples over a server that answers as told."""
    with serve(answer) as served, ExitStack() as stack:
        spec = Http(url=f"{served.url}/grade?key=hidden", **{"backoff_seconds": 0.01, **fields})
        return spec.open(Context(folder=Path()), stack).grade(samples_of(count)), served.requests


def error_of(answer, **fields):
    (only,), _ = grade(answer, **fields)
    assert only.reward is None
    return only.error.partition("/grade: ")[2]


def test_samples_go_out_and_grades_come_back_by_id():
    grades, requests = grade(right, 5, batch_size=2)
    assert [grade.reward for grade in grades] == [0, 1, 2, 3, 4]
    assert all(grade.seconds > 0 and grade.attempts == 1 for grade in grades)
    first = min(requests, key=lambda request: request.body)
    assert first.path == "/grade?key=hidden"
    assert first.headers["Content-Type"] == "application/json"
    assert first.json()["samples"][0] == {
        "id": "q0:0",
        "messages": [{"role": "user", "content": "?"}],
        "completion": "text 0",
        "row": {"n": 0, "id": "q0"},
    }


def test_tools_are_part_of_the_row():
    with serve(right) as served, ExitStack() as stack:
        prompt = Prompt("q", ({"role": "user", "content": "?"},), {"n": 1}, (TOOL,))
        Http(url=served.url).open(Context(folder=Path()), stack).grade([Sample(prompt, "")])
    assert served.requests[0].json()["samples"][0]["row"] == {"n": 1, "id": "q", "tools": [TOOL]}


def test_requests_are_out_at_the_same_time_up_to_the_concurrency():
    meet = Barrier(3, timeout=5)

    def answer(request):
        meet.wait()  # none is answered before three are here
        return right(request)

    grades, _ = grade(answer, 6, batch_size=1, concurrency=3)
    assert [grade.reward for grade in grades] == [0, 1, 2, 3, 4, 5]


def test_metrics_and_errors_of_single_samples():
    def answer(request):
        ids = [sample["id"] for sample in request.json()["samples"]]
        return Reply(
            {
                "grades": [
                    {"id": ids[0], "reward": 1, "metrics": {"words": 3, "bad": "x"}},
                    {"id": ids[1], "reward": None, "error": "no reference"},
                    {"id": ids[2], "reward": True},
                    {"id": ids[3], "score": 1},
                    {"id": "zz", "reward": 1},
                ]
            }
        )

    (first, *errors), _ = grade(answer, 5)
    assert (first.reward, first.metrics, first.flags) == (1.0, {"words": 3.0}, ("other_error",))
    assert [grade.error for grade in errors] == [
        "no reference",
        "the result for the id 'q2:0': reward must be a finite number, got true",
        "the result for the id 'q3:0': no reward, only id, score",
        "the answer has no result for the id 'q4:0'; in its place: unknown id 'zz'",
    ]


def test_the_shape_of_a_lambda_can_be_spoken():
    def answer(request):
        (item,) = request.json()
        assert item["messages"][-1] == {"role": "assistant", "content": "text 0"}
        assert item["metadata"] == {"n": 0}
        metric = {"name": "m", "value": 2, "type": "Reward"}
        result = {"id": item["id"], "aggregate_reward_score": 0.5, "metrics_list": [metric]}
        return Reply([result])

    (only,), _ = grade(answer, format="lambda")
    assert (only.reward, only.metrics) == (0.5, {"reward/m": 2.0})


# Signatures


def test_a_request_is_signed_over_time_and_body(monkeypatch):
    monkeypatch.setenv("MY_SECRET", SECRET)
    _, (request,) = grade(right, secret_env="MY_SECRET")
    stamp = request.headers["X-Tunestone-Timestamp"]
    message = f"{stamp}.".encode() + request.body
    digest = hmac.HMAC(SECRET.encode("utf-8"), message, hashlib.sha256).hexdigest()
    assert request.headers["X-Tunestone-Signature"] == f"v1={digest}"
    assert abs(time.time() - int(stamp)) < 10
    given = {"timestamp": stamp, "signature": request.headers["X-Tunestone-Signature"]}
    assert verify(SECRET, request.body, **given)
    assert not verify("other", request.body, **given)
    assert not verify(SECRET, request.body + b" ", **given)


def test_without_a_secret_nothing_is_signed():
    _, (request,) = grade(right)
    assert not [name for name in request.headers if name.lower().startswith("x-tunestone")]


def test_a_signature_of_known_input_has_the_known_value():
    # printf '1700000000.{}' | openssl dgst -sha256 -hmac key
    assert sign("key", b"{}", timestamp="1700000000") == (
        "v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    )


@pytest.mark.parametrize(
    ("age", "accepted"), [(0, True), (300, True), (301, False), (-300, True), (-301, False)]
)
def test_an_old_request_is_refused(age, accepted):
    signature = sign("key", b"{}", timestamp="1000")
    assert verify("key", b"{}", timestamp="1000", signature=signature, now=1000 + age) is accepted


@pytest.mark.parametrize("stamp", ["", "-1", "1.5", "abc", "９", "9" * 5000])
def test_a_timestamp_that_is_none_is_refused(stamp):
    signature = sign("key", b"{}", timestamp=stamp)
    assert not verify("key", b"{}", timestamp=stamp, signature=signature, now=9.0)


def test_a_signature_that_is_no_ascii_is_refused_and_does_not_raise():
    assert not verify("key", b"{}", timestamp="1000", signature="v1=é", now=1000.0)


def test_a_missing_secret_is_said_when_opened(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "")
    spec = Http(url="http://x/a?key=hidden", secret_env="MY_SECRET")
    with ExitStack() as stack, pytest.raises(RewardError, match="MY_SECRET") as caught:
        spec.open(Context(folder=Path()), stack)
    assert "hidden" not in str(caught.value)


# Retries


@pytest.mark.parametrize("status", [429, 500, 502, 503, 599])
def test_what_may_pass_is_asked_again(status):
    script = iter([Reply(status=status), Reply(status=status)])
    (only,), requests = grade(lambda request: next(script, None) or right(request))
    assert (only.reward, only.attempts, len(requests)) == (0.0, 3, 3)


def test_after_three_retries_the_last_answer_is_the_error():
    (only,), requests = grade(lambda request: Reply(b"come back later", 503))
    assert (only.reward, only.attempts, len(requests)) == (None, 4, 4)
    assert only.flags == ("unresponsive_reward_error",)
    assert only.error.endswith("/grade: HTTP 503: come back later")
    assert "hidden" not in only.error


def test_no_retries_are_none():
    (only,), requests = grade(lambda request: Reply(status=500), retries=0)
    assert (only.attempts, len(requests)) == (1, 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_not_asked_again(status):
    (only,), requests = grade(lambda request: Reply(b"no", status, {"Retry-After": "0"}))
    assert len(requests) == 1
    assert only.flags == ("other_error",)
    assert only.error.endswith(f"/grade: HTTP {status}: no")


def test_a_connection_that_breaks_is_asked_again():
    script = iter([None, Reply(b"half", headers={"Content-Length": "9", "Connection": "close"})])
    (only,), requests = grade(lambda request: next(script, right(request)))
    assert (only.reward, only.attempts, len(requests)) == (0.0, 3, 3)


def test_nobody_listening_is_an_error_after_the_retries():
    with socket.socket() as taken, ExitStack() as stack:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        spec = Http(url=url, backoff_seconds=0.01, retries=1)
        (only,) = spec.open(Context(folder=Path()), stack).grade(samples_of(1))
    assert (only.reward, only.attempts) == (None, 2)
    assert "Connection refused" in only.error


def test_retry_after_is_respected():
    script = iter([Reply(status=429, headers={"Retry-After": "1"})])
    (only,), _ = grade(lambda request: next(script, None) or right(request))
    assert only.reward == 0.0
    assert 1.0 <= only.seconds < 3.0


def test_retry_after_zero_waits_for_nothing():
    script = iter([Reply(status=429, headers={"Retry-After": "0"})])
    (only,), requests = grade(lambda request: next(script, None) or right(request))
    assert (only.reward, len(requests)) == (0.0, 2)
    assert only.seconds < 1.0


def test_a_retry_after_that_is_no_time_ends_it_with_the_status():
    (only,), requests = grade(lambda r: Reply(b"", 503, {"Retry-After": "soon"}))
    assert len(requests) == 1
    assert only.error.endswith("/grade: HTTP 503")


def test_every_attempt_is_signed_anew(monkeypatch):
    monkeypatch.setenv("MY_SECRET", SECRET)
    script = iter([Reply(status=503, headers={"Retry-After": "1"})])
    _, (first, second) = grade(
        lambda request: next(script, None) or right(request), secret_env="MY_SECRET"
    )
    stamps = [int(request.headers["X-Tunestone-Timestamp"]) for request in (first, second)]
    assert stamps[1] > stamps[0]
    assert first.body == second.body
    assert first.headers["X-Tunestone-Signature"] != second.headers["X-Tunestone-Signature"]


def test_a_server_that_takes_too_long_is_not_asked_again():
    done = Event()

    def answer(request):
        done.wait(3)
        return right(request)

    try:
        (only,), requests = grade(answer, timeout_seconds=1)
    finally:
        done.set()
    assert len(requests) == 1
    assert only.error.endswith("/grade took longer than 1 s")
    assert 1.0 <= only.seconds < 2.5


def test_a_redirect_is_not_followed():
    with serve(right) as elsewhere:
        error = error_of(lambda request: Reply(status=307, headers={"Location": elsewhere.url}))
    assert elsewhere.requests == []
    assert error == (f"HTTP 307 to {elsewhere.url}; redirects are not followed, name it in `url`")


# Answers that are none


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "the answer is not JSON: '<html>'"),
        ([], 'expected {"grades": [...]}, got an array'),
        ({"grade": 1}, "expected {\"grades\": [...]}, got an object with 'grade'"),
        ({"grades": {}}, "the answer is an empty object; expected an array"),
        (b"[" * 100_000, "the answer is not JSON"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_batch(body, message):
    assert error_of(lambda request: Reply(body)).startswith(message)


def test_an_answer_that_is_too_large_is_not_read_to_its_end():
    body = b" " * (http.ANSWER_BYTES + 1)
    assert error_of(lambda request: Reply(body)) == "the answer is larger than 16 MiB"


def test_an_answer_that_drips_ends_with_the_time_limit():
    def drip():
        for _ in range(40):
            yield b" "
            time.sleep(0.1)

    (only,), requests = grade(
        lambda request: Reply(drip(), headers={"Content-Length": "40"}), timeout_seconds=1
    )
    assert len(requests) == 1
    assert only.error.endswith("/grade took longer than 1 s")
    assert 1.0 <= only.seconds < 2.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "ftp://x"}, "'ftp://x' is not an address; write https://host/path"),
        ({"url": "x/y"}, "is not an address"),
        ({"url": "http://me:pw@x/"}, "a password in the address ends up in logs"),
        ({"url": "http://x", "retries": -1}, "greater than or equal to 0"),
        ({"url": "http://x", "format": "xml"}, "'tunestone' or 'lambda'"),
        ({"url": "http://x", "wrap_reference_answer": True}, "`wrap_reference_answer` does noth"),
        ({"url": "http://x", "secret": "s"}, "secret"),
    ],
)
def test_wrong_specs_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Http.model_validate(fields)


def test_bodies_are_json_with_any_text():
    prompt = Prompt("ü", ({"role": "user", "content": "\ud800"},), {"n": 1})
    with serve(right) as served, ExitStack() as stack:
        grader = Http(url=served.url).open(Context(folder=Path()), stack)
        (only,) = grader.grade([Sample(prompt, "日本\x00")])
    assert only.reward == 1.0
    assert json.loads(served.requests[0].body)["samples"][0]["completion"] == "日本\x00"
