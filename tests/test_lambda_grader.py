"""Lambda rewards: batches, divisions, the sandbox's outcomes, and the wire to AWS."""

import json
import random
import sys
import zipfile
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from threading import Barrier, Event

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import lambda_handlers
from scripted_server import Reply, judge, serve
from tunestone.errors import RewardError
from tunestone.rewards.aws_lambda.grader import EVENT_BYTES, Lambda, LambdaGrader, cut_batches
from tunestone.rewards.aws_lambda.transport import SandboxTransport
from tunestone.rewards.sandbox import Outcome
from tunestone.rewards.spec import Context
from tunestone.types import Prompt, Sample

ARN = "arn:aws:lambda:eu-west-1:123456789012:function:my-reward"
INVOKE = f"/2015-03-31/functions/{ARN.replace(':', '%3A')}/invocations"
NOWHERE = Context(folder=Path("/nowhere"))


def samples_of(count, *, text=str):
    prompts = [Prompt(f"q{i}", ({"role": "user", "content": "?"},)) for i in range(count)]
    return [Sample(prompt, text(i)) for i, prompt in enumerate(prompts)]


def number_of(item):
    return int(item["messages"][-1]["content"])


def score(event):
    """Rewards each text with itself as a number."""
    return [{"id": item["id"], "aggregate_reward_score": number_of(item)} for item in event]


def raised(reason):
    return Outcome(error=f"Traceback ...\nValueError: {reason}", kind="raised", seconds=0.5)


class ScriptedSandbox:
    """Answers events as a function says: with an Outcome, or with what the handler returns."""

    def __init__(self, handler):
        self.handler = handler
        self.rounds = []

    def call(self, payloads):
        self.rounds.append([len(event) for event in payloads])
        return [self._answer(event) for event in payloads]

    def _answer(self, event):
        result = self.handler(event)
        if isinstance(result, Outcome):
            return result
        return Outcome(value=json.dumps(result), seconds=0.5)


def grader_over(handler, *, batch_size=64, concurrency=12):
    sandbox = ScriptedSandbox(handler)
    transport = SandboxTransport(sandbox, timeout_seconds=300)
    return LambdaGrader(transport, batch_size=batch_size, concurrency=concurrency), sandbox


def test_samples_go_out_in_batches_and_come_back_in_order():
    grader, sandbox = grader_over(lambda event: score(event)[::-1])
    grades = grader.grade(samples_of(130))
    assert [grade.reward for grade in grades] == list(range(130))
    assert sandbox.rounds == [[64, 64, 2]]
    assert {(grade.seconds, grade.attempts) for grade in grades} == {(0.5, 1)}


def test_no_samples_are_no_call():
    grader, sandbox = grader_over(score)
    assert grader.grade([]) == []
    assert sandbox.rounds == []


def test_one_poisonous_sample_costs_no_other_its_grade():
    def handler(event):
        numbers = [number_of(item) for item in event]
        return raised("13 is unlucky") if 13 in numbers else score(event)

    grader, sandbox = grader_over(handler)
    grades = grader.grade(samples_of(64))
    # 64 at once, then 8 pieces of sqrt(64) = 8, then the 8 samples of the piece with the 13.
    assert sandbox.rounds == [[64], [8] * 8, [1] * 8]
    assert [grade.reward for grade in grades] == [None if i == 13 else i for i in range(64)]
    assert grades[13].error == "Traceback ...\nValueError: 13 is unlucky"
    assert grades[13].flags == ("python_grader_runtime_error",)
    assert [grades[i].attempts for i in (0, 8, 13, 15, 16)] == [2, 3, 3, 3, 2]
    assert grades[13].seconds == 1.5


def test_a_handler_that_always_raises_is_asked_at_most_three_times_a_sample():
    grader, sandbox = grader_over(lambda event: raised("always"))
    grades = grader.grade(samples_of(64))
    assert [len(sizes) for sizes in sandbox.rounds] == [1, 8, 64]
    assert {(grade.reward, grade.attempts) for grade in grades} == {(None, 3)}


@pytest.mark.parametrize(
    ("size", "rounds"),
    [
        (1, [[1]]),
        (2, [[2], [1, 1]]),
        (3, [[3], [1, 1, 1]]),
        (5, [[5], [2, 2, 1], [1, 1, 1, 1]]),
    ],
)
def test_small_batches_are_divided_without_asking_the_same_twice(size, rounds):
    grader, sandbox = grader_over(lambda event: raised("always"))
    grader.grade(samples_of(size))
    assert sandbox.rounds == rounds


def test_one_endless_sample_costs_no_other_its_grade():
    late = Outcome(error="ended after 300 s", kind="timeout", seconds=300.0)
    grader, sandbox = grader_over(
        lambda event: late if any(number_of(i) == 40 for i in event) else score(event)
    )
    grades = grader.grade(samples_of(64))
    assert sandbox.rounds == [[64], [8] * 8, [1] * 8]
    assert [i for i, grade in enumerate(grades) if grade.reward is None] == [40]
    assert grades[40].flags == ("unresponsive_reward_error",)
    assert grades[40].error == (
        "the handler took longer than 300 s with 1 sample; "
        "raise `timeout_seconds` (the function's Timeout) or lower `batch_size`\nended after 300 s"
    )


def test_when_everything_is_late_two_more_waves_are_tried_and_no_more():
    late = Outcome(error="", kind="timeout", seconds=300.0)
    grader, sandbox = grader_over(lambda event: late, concurrency=12)
    grades = grader.grade(samples_of(5 * 64))
    # Five batches would be 40 pieces of 8; a wave is 12 wide.
    assert sandbox.rounds == [[64] * 5, [8] * 12, [1] * 12]
    assert all(grade.reward is None for grade in grades)
    assert grades[-1].error.startswith("the handler took longer than 300 s with 64 samples")


def test_late_batches_do_not_keep_broken_ones_from_being_divided():
    def handler(event):
        if number_of(event[0]) < 64:
            return Outcome(kind="timeout")
        return raised("99") if any(number_of(item) == 99 for item in event) else score(event)

    grader, sandbox = grader_over(handler, concurrency=2)
    grades = grader.grade(samples_of(128))
    assert [i for i, grade in enumerate(grades) if grade.reward is None] == [*range(64), 99]
    assert [len(sizes) for sizes in sandbox.rounds] == [2, 2 + 8, 2 + 8]


@pytest.mark.parametrize("kind", ["memory", "killed", "output"])
def test_a_call_that_was_ended_is_an_error_in_the_sandboxs_words(kind):
    grader, _ = grader_over(lambda event: Outcome(error=f"ended: {kind}", kind=kind, attempts=2))
    (grade,) = grader.grade(samples_of(1))
    assert (grade.reward, grade.error, grade.attempts) == (None, f"ended: {kind}", 2)


def test_nonsense_for_a_whole_batch_is_an_error_of_each_sample():
    grader, sandbox = grader_over(lambda event: {"statusCode": 500, "body": "[]"})
    grades = grader.grade(samples_of(2))
    assert sandbox.rounds == [[2], [1, 1]]
    assert {grade.error for grade in grades} == {
        "the answer is an object with 'statusCode', 'body'; "
        "expected an array with one result per sample"
    }


def test_an_answer_that_is_no_json_is_an_error():
    grader, _ = grader_over(lambda event: Outcome(value="[{"))
    (grade,) = grader.grade(samples_of(1))
    assert grade.error == "the answer is not JSON: the string '[{'"


def test_nan_is_an_error_of_its_sample_and_of_no_other():
    def handler(event):
        return [{**result, "aggregate_reward_score": float("nan")} for result in score(event)[:1]]

    grader, sandbox = grader_over(lambda event: [*handler(event), *score(event)[1:]])
    grades = grader.grade(samples_of(3))
    assert [grade.reward for grade in grades] == [None, 1.0, 2.0]
    assert sandbox.rounds == [[3]]


def test_a_long_traceback_keeps_its_end():
    grader, _ = grader_over(lambda event: raised("x" * 10_000 + " the end"))
    (grade,) = grader.grade(samples_of(1))
    assert grade.error.startswith("[...] xxx")
    assert grade.error.endswith(" the end")
    assert len(grade.error) == 4_000 + len("[...] ")


def test_events_stay_below_lambdas_payload_limit():
    texts = ["é" * 1_400_000] * 3 + ["x" * EVENT_BYTES]  # é is two bytes: 2.8 MB, two fit in one
    sizes = []

    def handler(event):
        sizes.append(len(json.dumps(event, ensure_ascii=False).encode()))
        return [{"id": item["id"], "aggregate_reward_score": 1} for item in event]

    grader, sandbox = grader_over(handler)
    grades = grader.grade(samples_of(4, text=texts.__getitem__))
    assert sandbox.rounds == [[2, 1]]
    assert 5_600_000 < sizes[0] <= EVENT_BYTES
    assert [grade.reward for grade in grades] == [1, 1, 1, None]
    assert grades[3].error == "the sample 'q3:0' alone is larger than the 6 MB that Lambda takes"
    assert grades[3].attempts == 0


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 8), st.integers(2, 120))
def test_batches_hold_every_item_that_fits_once_and_in_order(lengths, count, size):
    event = [{"t": "x" * length} for length in lengths]
    batches = cut_batches(event, count=count, size=size)
    fits = [i for i, item in enumerate(event) if len(json.dumps([item])) <= size]
    assert list(chain(*batches)) == fits
    for batch in batches:
        assert 1 <= len(batch) <= count
        assert len(json.dumps([event[i] for i in batch])) <= size


# The spec


def test_the_defaults_are_the_documented_ones():
    spec = Lambda(function=ARN)
    assert (spec.batch_size, spec.concurrency, spec.timeout_seconds) == (64, 12, 300)
    assert (spec.memory_mib, spec.network, spec.wrap_reference_answer) == (512, False, False)


def test_mantles_shape_is_read():
    spec = Lambda.model_validate({"type": "lambda", "lambda": {"function": ARN}})
    assert spec == Lambda(function=ARN)


@pytest.mark.parametrize("arn", [ARN, f"{ARN}:3", f"{ARN}:$LATEST", ARN.replace("aws", "aws-cn")])
def test_arns_of_functions_are_accepted(arn):
    assert Lambda(function=arn).function == arn


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name either `path`, a handler here, or `function`, an ARN on AWS"),
        ({"path": "a.py", "function": ARN}, "name either `path`"),
        ({"function": "my-reward"}, "'my-reward' is not the ARN of a Lambda function"),
        ({"function": ARN.replace("123456789012", "1")}, "is not the ARN"),
        ({"function": ARN + ":" + "x" * 600}, "at most 512 characters"),
        ({"function": ARN, "memory_mib": 512}, "`memory_mib` does nothing with `function`"),
        ({"function": ARN, "network": True}, "`network` does nothing with `function`"),
        ({"path": "a.py", "endpoint_url": "http://x"}, "`endpoint_url` does nothing with `path`"),
        ({"path": "a.py", "timeout_seconds": 901}, "less than or equal to 900"),
        ({"lambda": {"function": ARN}, "function": ARN}, "`lambda` must be"),
        ({"lambda": {"function": ARN, "x": 1}}, "`lambda` must be"),
        ({"path": "a.py", "batchsize": 3}, "batchsize"),
    ],
)
def test_wrong_specs_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Lambda.model_validate(fields)


def test_the_handlers_file_counts_into_the_fingerprint():
    assert Lambda(path="rewards/r.py").files(NOWHERE) == [Path("/nowhere/rewards/r.py")]
    assert Lambda(function=ARN).files(NOWHERE) == []


def test_a_handler_that_is_not_there_is_refused_on_opening():
    with ExitStack() as stack, pytest.raises(RewardError, match=r"/nowhere/r\.py does not exist"):
        Lambda(path="r.py").open(NOWHERE, stack)


# On AWS: the real boto3 against a server of ours


@pytest.fixture
def credentials(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def grade_on_aws(answer, count=1, **fields):
    """(grades, requests) of `count` samples over a server that answers as told."""
    with serve(answer) as served, ExitStack() as stack:
        spec = Lambda(function=ARN, endpoint_url=served.url, **fields)
        return spec.open(NOWHERE, stack).grade(samples_of(count)), served.requests


def refuse(status, code, message="no"):
    headers = {"x-amzn-ErrorType": code, "Content-Type": "application/json"}
    return Reply({"message": message, "Type": "User"}, status, headers)


@pytest.mark.usefixtures("credentials")
def test_a_function_on_aws_is_invoked_with_the_event():
    grades, requests = grade_on_aws(lambda request: Reply(score(request.json())), 5, batch_size=2)
    assert [grade.reward for grade in grades] == [0, 1, 2, 3, 4]
    assert [request.path for request in requests] == [INVOKE] * 3
    assert sorted(len(request.json()) for request in requests) == [1, 2, 2]
    assert "eu-west-1/lambda/aws4_request" in requests[0].headers["Authorization"]
    assert all(grade.seconds > 0 and grade.attempts == 1 for grade in grades)


@pytest.mark.usefixtures("credentials")
def test_throttling_and_server_faults_are_asked_again():
    script = iter([refuse(429, "TooManyRequestsException"), refuse(500, "ServiceException")])
    grades, requests = grade_on_aws(lambda r: next(script, None) or Reply(score(r.json())))
    assert (grades[0].reward, grades[0].attempts, len(requests)) == (0.0, 3, 3)


@pytest.mark.usefixtures("credentials")
def test_after_three_retries_the_error_says_so():
    random.seed(8916)  # botocore draws its waits from here; these are short ones
    grades, requests = grade_on_aws(
        lambda r: refuse(429, "TooManyRequestsException", "Rate Exceeded."), 2
    )
    assert len(requests) == 4  # not divided: no other event would do better
    assert {(grade.reward, grade.attempts) for grade in grades} == {(None, 4)}
    assert grades[0].flags == ("python_grader_server_error",)
    assert grades[0].error == (
        f"{ARN} was not invoked after 4 attempts: TooManyRequestsException: Rate Exceeded. "
        "Lower `concurrency`, or raise the function's."
    )


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (403, "AccessDeniedException", "Allow lambda:InvokeFunction on it to these credentials."),
        (404, "ResourceNotFoundException", "Check its name, region and account."),
    ],
)
def test_a_refusal_is_not_asked_again_and_says_what_to_do(status, code, advice):
    grades, requests = grade_on_aws(lambda r: refuse(status, code), 2)
    assert len(requests) == 1
    assert grades[1].error == f"{ARN} was not invoked: {code}: no {advice}"


@pytest.mark.usefixtures("credentials")
def test_a_fault_of_the_function_is_divided_and_keeps_its_traceback():
    report = {"errorMessage": "two", "errorType": "ValueError", "stackTrace": ["  File r.py\n"]}

    def answer(request):
        event = request.json()
        if any(number_of(item) == 2 for item in event):
            return Reply(report, headers={"X-Amz-Function-Error": "Unhandled"})
        return Reply(score(event))

    grades, requests = grade_on_aws(answer, 4)
    assert [grade.reward for grade in grades] == [0, 1, None, 3]
    assert sorted(len(request.json()) for request in requests) == [1, 1, 2, 2, 4]
    assert grades[2].error == "Traceback (most recent call last):\n  File r.py\nValueError: two"
    assert grades[2].flags == ("python_grader_runtime_error",)


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    "report",
    [
        {"errorMessage": "2026-11-23T03:00:00Z 1-2 Task timed out after 3.00 seconds"},
        {"errorType": "Sandbox.Timedout", "errorMessage": "Error: Task timed out after 3.00 s"},
    ],
)
def test_lambdas_own_time_limit_is_named(report):
    grades, _ = grade_on_aws(lambda r: Reply(report, headers={"X-Amz-Function-Error": "Unhandled"}))
    assert grades[0].flags == ("unresponsive_reward_error",)
    assert "Task timed out after 3.00" in grades[0].error
    assert "raise the function's timeout or lower `batch_size`" in grades[0].error


@pytest.mark.usefixtures("credentials")
def test_a_function_error_that_is_no_json_is_shown():
    grades, _ = grade_on_aws(
        lambda r: Reply(b"segmentation fault", headers={"X-Amz-Function-Error": "Unhandled"})
    )
    assert grades[0].error == "the function failed: segmentation fault"


@pytest.mark.usefixtures("credentials")
def test_an_event_that_lambda_finds_too_large_is_divided():
    def answer(request):
        event = request.json()
        return refuse(413, "RequestTooLargeException") if len(event) > 1 else Reply(score(event))

    grades, _ = grade_on_aws(answer, 4)
    assert [grade.reward for grade in grades] == [0, 1, 2, 3]


@pytest.mark.usefixtures("credentials")
def test_a_call_over_our_time_limit_is_not_sent_again():
    done = Event()

    def answer(request):
        done.wait(3)
        return Reply([])

    try:
        grades, requests = grade_on_aws(answer, timeout_seconds=1)
    finally:
        done.set()
    assert len(requests) == 1
    assert grades[0].flags == ("unresponsive_reward_error",)
    assert grades[0].error.startswith("the handler took longer than 1 s with 1 sample")
    assert 1.0 <= grades[0].seconds < 2.5


@pytest.mark.usefixtures("credentials")
def test_events_are_out_at_the_same_time_up_to_the_concurrency():
    meet = Barrier(3, timeout=5)

    def answer(request):
        meet.wait()  # none is answered before three are here
        return Reply(score(request.json()))

    grades, _ = grade_on_aws(answer, 6, batch_size=1, concurrency=3)
    assert [grade.reward for grade in grades] == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("credentials")
def test_without_credentials_the_reward_does_not_open(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with ExitStack() as stack, pytest.raises(RewardError, match="there are no AWS credentials"):
        Lambda(function=ARN).open(NOWHERE, stack)


def test_without_boto3_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with ExitStack() as stack, pytest.raises(RewardError, match=r"tunestone\[aws\]"):
        Lambda(function=ARN).open(NOWHERE, stack)


# In the real sandbox


def grade_here(folder, source, samples, **fields):
    (folder / "reward_here.py").write_text(source)
    with ExitStack() as stack:
        spec = Lambda(path="reward_here.py", **fields)
        return spec.open(Context(folder=folder), stack).grade(samples)


def row(text, **keys):
    return Sample(Prompt("q", ({"role": "user", "content": "?"},), keys), text)


@pytest.mark.parametrize(
    ("handler", "answer", "right", "wrap"),
    [
        (lambda_handlers.METADATA_FIRST, {"final_answer": "72"}, "#### 72", False),
        (lambda_handlers.TEXT_WRAPPED, "so #### 72", "#### 72", True),
        (lambda_handlers.TOP_LEVEL, {"answer": "72"}, "ANSWER: 72", False),
    ],
)
def test_public_handlers_run_unmodified_in_the_sandbox(tmp_path, handler, answer, right, wrap):
    samples = [row(text, reference_answer=answer) for text in (right, "no idea", right)]
    grades = grade_here(
        tmp_path, handler, samples, wrap_reference_answer=wrap, batch_size=2, concurrency=2
    )
    assert [grade.reward for grade in grades] == [1.0, 0.0, 1.0]


def test_in_the_sandbox_a_judge_is_reached_when_network_and_variables_are_given(
    tmp_path, credentials, monkeypatch
):
    names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"]
    with serve(judge) as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", served.url)
        grades = grade_here(
            tmp_path, lambda_handlers.JUDGE, [row("four")], network=True, environment=tuple(names)
        )
        assert [grade.reward for grade in grades] == [4.0]
        (closed,) = grade_here(tmp_path, lambda_handlers.JUDGE, [row("four")], environment=names)
    assert closed.reward is None
    assert len(served.requests) == 1


def test_a_handler_that_cannot_be_imported_shows_its_own_lines_alone(tmp_path):
    with pytest.raises(RewardError) as caught:
        grade_here(tmp_path, "import nothing_of_that_name\n", [row("5")])
    first, place, *rest = caught.value.message.splitlines()
    assert first == "Traceback (most recent call last):"
    assert place.endswith('reward_here.py", line 1, in <module>')
    assert rest[-1] == "ModuleNotFoundError: No module named 'nothing_of_that_name'"


def test_in_the_sandbox_a_handler_may_run_the_answer_as_a_program(tmp_path):
    cases = [{"input": "2 3", "output": "5"}, {"input": "4 4", "output": "8"}]
    texts = ("print(sum(map(int, input().split())))", "print(5)", "print(")
    samples = [row(text, test_cases=cases) for text in texts]
    grades = grade_here(tmp_path, lambda_handlers.CODE_RUNNER, samples)
    assert [grade.reward for grade in grades] == [1.0, 0.5, 0.0]
    assert [grade.metrics["tests_passed"] for grade in grades] == [2.0, 1.0, 0.0]


def test_in_the_sandbox_a_handler_may_print_the_largest_event(tmp_path):
    source = """
import json
def lambda_handler(event, context):
    print("Event: ", json.dumps(event))
    return [{"id": s["id"], "aggregate_reward_score": len(s["messages"][-1]["content"])}
            for s in event]
"""
    # Three bytes each in the event, six as an escape in the log: 5.7 MB and 11.4 MB.
    (grade,) = grade_here(tmp_path, source, [row("語" * 1_900_000)])
    assert (grade.reward, grade.error) == (1_900_000.0, None)


def test_in_the_sandbox_a_zip_reads_its_own_files_and_cannot_change_them(tmp_path):
    source = """
import os
from pathlib import Path

def score(event, context):
    import late
    root = Path(os.environ["LAMBDA_TASK_ROOT"])
    try:
        (root / "late.py").write_text("SCORE = 1.0")
    except OSError as error:
        fault = 1.0
    else:
        fault = 0.0
    return [{
        "id": sample["id"], "aggregate_reward_score": late.SCORE,
        "metrics_list": [{"name": "refused", "value": fault, "type": "Metric"}],
    } for sample in event]
"""
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("scoring.py", source)
        archive.writestr("late.py", "SCORE = 0.25")
    with ExitStack() as stack:
        spec = Lambda(path="p.zip", handler="scoring.score", batch_size=1)
        grades = spec.open(Context(folder=tmp_path), stack).grade(samples_of(2))
    assert [(grade.reward, grade.metrics) for grade in grades] == [(0.25, {"refused": 1.0})] * 2


def test_in_the_sandbox_a_sample_that_kills_the_handler_costs_no_other_its_grade(tmp_path):
    source = """
import os
def lambda_handler(event, context):
    for sample in event:
        if sample["messages"][-1]["content"] == "2":
            os._exit(0)
        if sample["messages"][-1]["content"] == "3":
            raise ValueError("three")
    return [{"id": s["id"], "aggregate_reward_score": 1} for s in event]
"""
    grades = grade_here(tmp_path, source, samples_of(5), concurrency=1)
    assert [grade.reward for grade in grades] == [1.0, 1.0, None, None, 1.0]
    assert "ValueError: three" in grades[3].error


def test_in_the_sandbox_a_file_that_does_not_load_is_refused_on_opening(tmp_path):
    with pytest.raises(RewardError, match="has no function lambda_handler"):
        grade_here(tmp_path, "x = 1", samples_of(1))
