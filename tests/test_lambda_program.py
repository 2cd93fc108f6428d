"""Lambda's runtime and packages, in this process: what a handler sees, and what is refused."""

import json
import os
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

import pytest

import lambda_handlers
from scripted_server import judge, serve
from tunestone.errors import RewardError
from tunestone.rewards.aws_lambda.contract import build_event, name_samples, parse_response
from tunestone.rewards.aws_lambda.package import open_package
from tunestone.rewards.aws_lambda.program import encode_result, load_program
from tunestone.types import Prompt, Sample


@pytest.fixture(autouse=True)
def _own_interpreter(monkeypatch):
    """Lambda's variables, path and modules end with the test, as they end with a worker."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    variables = dict(os.environ)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    temporary = Path(tempfile.gettempdir()).resolve()
    for name in set(sys.modules) - before:
        file = Path(getattr(sys.modules[name], "__file__", None) or "/")
        # This very checkout, with its virtual environment, may lie in the temporary folder too.
        if file.is_relative_to(temporary) and not file.is_relative_to(sys.prefix):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(variables)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def load(package):
    setup = {"root": str(package.root), "module": package.module, "function": package.function}
    setup["source"] = str(package.source)
    return load_program({**setup, "timeout_seconds": 300, "memory_mib": 512})


def load_source(folder, stack, source, *, name="grader_under_test.py", handler=""):
    (folder / name).write_text(source)
    return load(open_package(folder / name, handler, stack))


def samples_of(*texts, **row):
    prompt = Prompt("q", ({"role": "user", "content": "?"},), row)
    return [Sample(prompt, text) for text in texts]


def rewards(call, samples, *, wrap=False):
    ids = name_samples(samples)
    event = build_event(samples, ids, wrap_reference_answer=wrap)
    answer = json.loads(call(json.loads(json.dumps(event))))
    return [grade.reward for grade in parse_response(answer, ids).grades]


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_a_handler_that_looks_in_metadata_first(tmp_path, stack):
    call = load_source(tmp_path, stack, lambda_handlers.METADATA_FIRST)
    row = {"reference_answer": {"final_answer": "1080", "steps": None}}
    texts = ("so #### 1,080", "#### 108", "1080", "#### 1080" + "." * 301)
    assert rewards(call, samples_of(*texts, **row)) == [1.0, 0.0, 0.0, 0.0]


def test_a_handler_that_wants_a_wrapped_text_scores_only_with_the_wrapping(tmp_path, stack):
    call = load_source(tmp_path, stack, lambda_handlers.TEXT_WRAPPED)
    samples = samples_of("#### 72", "#### 7", reference_answer="6 x 12 is 72 #### 72")
    assert rewards(call, samples, wrap=True) == [1.0, 0.0]
    assert rewards(call, samples) == [0.0, 0.0]


def test_a_handler_that_indexes_the_top_level(tmp_path, stack):
    call = load_source(tmp_path, stack, lambda_handlers.TOP_LEVEL)
    # 1 % of 14.1 is 0.141: 14.2 is within, 14.3 is not.
    texts = ("ANSWER: 14.1", "ANSWER: $14.2", "ANSWER: 14.3", "none")
    assert rewards(call, samples_of(*texts, reference_answer={"answer": "14.1%"})) == [
        *(1.0, 0.95, 0.0, 0.0)
    ]
    with pytest.raises(KeyError, match="reference_answer"):
        rewards(call, samples_of("ANSWER: 14.1"))


def test_a_handler_that_asks_a_judge_on_bedrock_reaches_another_endpoint(
    tmp_path, stack, monkeypatch
):
    served = stack.enter_context(serve(judge))
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", served.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    call = load_source(tmp_path, stack, lambda_handlers.JUDGE)
    assert rewards(call, samples_of("four", "seven..")) == [4.0, 7.0]
    assert [request.path for request in served.requests] == [
        "/model/openai.gpt-oss-120b-1%3A0/converse"
    ] * 2
    assert served.requests[0].json()["inferenceConfig"] == {"maxTokens": 500, "temperature": 0.0}


def test_the_context_and_the_environment_are_those_of_lambda(tmp_path, stack):
    source = """
        import os, sys
        def lambda_handler(event, context):
            return [
                context.function_name, context.function_version, context.memory_limit_in_mb,
                context.invoked_function_arn, len(context.aws_request_id),
                context.log_group_name, bool(context.log_stream_name),
                context.get_remaining_time_in_millis(), context.client_context,
                context.identity.cognito_identity_id,
                os.environ["AWS_LAMBDA_FUNCTION_NAME"], os.environ["AWS_REGION"],
                os.environ["AWS_DEFAULT_REGION"], os.environ["_HANDLER"],
                os.environ["LAMBDA_TASK_ROOT"], sys.path[0],
            ]
    """
    call = load_source(tmp_path, stack, "if True:" + source, name="my_reward.py")
    got = json.loads(call([]))
    left = got.pop(7)
    assert 290_000 < left <= 300_000
    assert got == [
        *("my_reward", "$LATEST", "512"),
        *("arn:aws:lambda:us-east-1:000000000000:function:my_reward", 36),
        *("/aws/lambda/my_reward", True, None, None),
        *("my_reward", "us-east-1", "us-east-1", "my_reward.lambda_handler"),
        *(str(tmp_path), str(tmp_path)),
    ]


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_a_region_that_was_handed_on_is_kept(tmp_path, stack, monkeypatch, name):
    monkeypatch.setenv(name, "eu-central-1")
    source = "import os\ndef lambda_handler(e, c): return [os.environ[n] for n in e]"
    got = json.loads(load_source(tmp_path, stack, source)(["AWS_REGION", "AWS_DEFAULT_REGION"]))
    assert got == ["eu-central-1"] * 2


def test_a_handler_imports_its_siblings_and_may_have_any_name(tmp_path, stack):
    (tmp_path / "sibling_of_test.py").write_text("SCORE = 0.25")
    source = "from sibling_of_test import SCORE\ndef reward(event, context): return [SCORE]"
    for handler in ("reward", "grader_under_test.reward"):
        assert load_source(tmp_path, stack, source, handler=handler)([]) == "[0.25]"


def test_a_zip_runs_with_lambdas_handler_setting(tmp_path, stack):
    files = {
        "src/__init__.py": "",
        "src/grader_in_zip.py": "import helper_in_zip\n"
        "def score(event, context): return [helper_in_zip.SCORE]",
        "helper_in_zip.py": "SCORE = 0.5",
        "data/words.txt": "a",
    }
    package = open_package(write_zip(tmp_path / "p.zip", files), "src/grader_in_zip.score", stack)
    assert package.handler == "src.grader_in_zip.score"
    assert (package.root / "data" / "words.txt").read_text() == "a"
    assert load(package)([]) == "[0.5]"
    stack.close()
    assert not package.root.exists()


@pytest.mark.parametrize(
    ("files", "module"),
    [
        ({"lambda_function.py": "", "other.py": ""}, "lambda_function"),
        ({"only_one.py": "", "pkg/mod.py": ""}, "only_one"),
    ],
)
def test_the_default_handler_of_a_zip(tmp_path, stack, files, module):
    package = open_package(write_zip(tmp_path / "p.zip", files), "", stack)
    assert package.handler == f"{module}.lambda_handler"


def test_a_zip_without_the_module_lists_what_it_has(tmp_path, stack):
    path = write_zip(tmp_path / "p.zip", {"a.py": "", "b.py": ""})
    with pytest.raises(RewardError, match=r"has no module lambda_function; at its top there is a"):
        open_package(path, "", stack)


@pytest.mark.parametrize("name", ["../outside.py", "/tmp/outside.py", "a/../../outside.py"])
def test_a_zip_cannot_write_outside_its_folder(tmp_path, stack, name):
    path = write_zip(tmp_path / "p.zip", {"lambda_function.py": "", name: "x"})
    with pytest.raises(RewardError, match="an entry that could lead outside of it"):
        open_package(path, "", stack)
    assert not list(tmp_path.rglob("outside.py"))


def test_a_zip_with_a_link_is_refused(tmp_path, stack):
    link = zipfile.ZipInfo("secrets")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(RewardError, match="'secrets'"):
        open_package(tmp_path / "p.zip", "", stack)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, stack):
    with (
        zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros", "w") as file,
    ):
        for _ in range(251):
            file.write(bytes(2**20))
    with pytest.raises(RewardError, match="is 251 MiB unpacked; Lambda takes at most 250"):
        open_package(tmp_path / "p.zip", "", stack)


def test_permissions_in_a_zip_are_kept(tmp_path, stack):
    tool = zipfile.ZipInfo("tool")
    tool.external_attr = 0o100755 << 16
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr(tool, "#!/bin/sh\n")
        archive.writestr("lambda_function.py", "")
    root = open_package(tmp_path / "p.zip", "", stack).root
    assert os.access(root / "tool", os.X_OK)
    assert not os.access(root / "lambda_function.py", os.X_OK)


@pytest.mark.parametrize(
    ("name", "content", "handler", "message"),
    [
        ("gone.py", None, "", "gone.py does not exist"),
        ("r.txt", b"", "", "is neither a .py file nor a .zip"),
        ("r.zip", b"not a zip", "", "cannot be unpacked: File is not a zip file"),
        ("r.py", b"", "other.f", "'other.f' is in the module other, but the file is r.py"),
        ("r.v2.py", b"", "", "r.v2.py cannot be imported as a module"),
    ],
)
def test_a_package_that_is_none_is_refused(tmp_path, stack, name, content, handler, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RewardError, match=message):
        open_package(tmp_path / name, handler, stack)


def test_a_folder_is_not_a_package(tmp_path, stack):
    with pytest.raises(RewardError, match="is a folder"):
        open_package(tmp_path, "", stack)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("async def lambda_handler(e, c): return []", "is async, which Lambda does not run"),
        ("def handler(e, c): return []", "has no function lambda_handler; it has handler"),
        ("lambda_handler = 3", "has no function lambda_handler; it has none"),
    ],
)
def test_a_handler_that_cannot_be_called_is_refused(tmp_path, stack, source, message):
    with pytest.raises(RewardError, match=message):
        load_source(tmp_path, stack, source)


def test_a_zip_without_the_handler_is_named_itself(tmp_path, stack):
    package = tmp_path / "mine.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("inside/rewards_of_mine.py", "def score(e, c): return []")
    with pytest.raises(RewardError) as caught:
        load(open_package(package, "inside.rewards_of_mine.handle", stack))
    place = f"{package}: inside/rewards_of_mine.py"
    assert caught.value.message == f"{place} has no function handle; it has score."


def test_a_handler_named_like_a_module_of_python_is_refused(tmp_path, stack):
    with pytest.raises(RewardError, match="the handler's module json hides behind Python's own"):
        load_source(tmp_path, stack, "def lambda_handler(e, c): return []", name="json.py")


def test_a_fault_on_import_names_the_line(tmp_path, stack):
    with pytest.raises(SyntaxError) as caught:
        load_source(tmp_path, stack, "x = 1\ndef f(:\n")
    assert caught.value.lineno == 2


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ([{"id": "é"}], '[{"id": "é"}]'),
        ((1, 2), "[1, 2]"),
        (Decimal("0.25"), "0.25"),
        (Decimal("nan"), "NaN"),
        (float("nan"), "NaN"),
        (b'[{"id": "a"}]', '[{"id": "a"}]'),
        (None, "null"),
    ],
)
def test_results_are_encoded_as_lambda_encodes_them(result, text):
    assert encode_result(result) == text


@pytest.mark.parametrize("result", [{1, 2}, [object()], {"at": {b"x"}}])
def test_results_that_lambda_refuses_are_refused(result):
    with pytest.raises(TypeError, match="the handler's result cannot be sent as JSON: Object of"):
        encode_result(result)


def test_a_result_that_holds_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(TypeError, match="Circular reference"):
        encode_result(loop)
