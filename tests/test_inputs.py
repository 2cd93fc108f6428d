"""Rows of a job: uploads, objects in S3, and logged calls of models as training data."""

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from live_server import FolderObjects
from tunestone.data import load_prompts
from tunestone.errors import DataError
from tunestone.jobs.inputs import fetch_rows, matches
from tunestone.jobs.invocation_log import SETTING, Invocation, InvocationLog
from tunestone.jobs.job import DataSource
from tunestone.jobs.store import Store, now, sqlite_url
from tunestone.jobs.tables import File, Setting

LOGS = "s3://bucket/logs/AWSLogs/123456789012/BedrockModelInvocationLogs/us-east-1/2026/01/02/03"
ASKED = {"messages": [{"role": "user", "content": [{"text": "2+2?"}]}]}
SAID = {"output": {"message": {"role": "assistant", "content": [{"text": "four"}]}}}


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(sqlite_url(tmp_path))
    store.migrate()
    return store


@pytest.fixture
def objects(tmp_path) -> FolderObjects:
    return FolderObjects(tmp_path / "s3")


def record(request: Any = ASKED, answer: Any = SAID, **members: Any) -> dict[str, Any]:
    return {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "operation": "Converse",
        "modelId": "m",
        "input": {"inputContentType": "application/json", "inputBodyJson": request},
        "output": {"outputContentType": "application/json", "outputBodyJson": answer},
        **members,
    }


def put(objects: FolderObjects, url: str, data: bytes) -> None:
    objects.path(url).parent.mkdir(parents=True, exist_ok=True)
    objects.path(url).write_bytes(data)


def lines(*records: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


def fetch(store, objects, tmp_path, **source: Any) -> tuple[list[dict[str, Any]], list[str]]:
    to = tmp_path / "rows.jsonl"
    chosen = DataSource(**{"kind": "logs", "location": "s3://bucket/logs/", **source})
    notes = fetch_rows(chosen, to, store=store, objects=objects, data=tmp_path)
    return [json.loads(line) for line in to.read_text().splitlines()], notes


def test_an_uploaded_file_is_copied(store, objects, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x").write_text('{"messages": []}\n')
    with store.session() as session:
        session.add(
            File(
                id="file-1",
                filename="train.jsonl",
                purpose="fine-tune",
                bytes=1,
                sha256="",
                path="files/x",
                created_at=now(),
            )
        )
    rows, notes = fetch(store, objects, tmp_path, kind="file", location="file-1")
    assert (rows, notes) == ([{"messages": []}], [])
    with pytest.raises(DataError, match="There is no file 'file-2'"):
        fetch(store, objects, tmp_path, kind="file", location="file-2")


def test_an_object_is_downloaded_as_it_is(store, objects, tmp_path):
    put(objects, "s3://bucket/train.jsonl", b'{"messages": [1]}\n')
    rows, _ = fetch(store, objects, tmp_path, kind="s3", location="s3://bucket/train.jsonl")
    assert rows == [{"messages": [1]}]


def test_logs_of_all_packings_are_read_in_order(store, objects, tmp_path):
    put(objects, f"{LOGS}/1.json.gz", gzip.compress(lines(record(requestId="a"))))
    put(objects, f"{LOGS}/2.jsonl", lines(record(requestId="b"), record(requestId="c")))
    put(objects, f"{LOGS}/3.json", json.dumps([record(requestId="d")], indent=1).encode())
    put(objects, f"{LOGS}/4.json", json.dumps(record(requestId="e"), indent=1).encode())
    put(objects, f"{LOGS}/5.json", b'{"schemaType": "something else"}')
    put(objects, f"{LOGS}/amazon-bedrock-logs-permission-check", b"no JSON at all")
    rows, notes = fetch(store, objects, tmp_path)
    assert [row["id"] for row in rows] == ["a", "b", "c", "d", "e"]
    assert rows[0]["messages"] == [{"role": "user", "content": "2+2?"}]
    assert notes == []
    assert len(load_prompts(tmp_path / "rows.jsonl")) == 5


def test_the_logged_answer_is_used_only_when_asked_for(store, objects, tmp_path):
    put(objects, f"{LOGS}/1.json", lines(record(requestId="a")))
    assert "reference_answer" not in fetch(store, objects, tmp_path)[0][0]
    rows, _ = fetch(store, objects, tmp_path, use_response=True)
    assert rows[0]["reference_answer"] == "four"


def test_large_bodies_lie_in_objects_of_their_own(store, objects, tmp_path):
    big = record(requestId="a")
    big["input"] = {"inputBodyS3Path": f"{LOGS}/data/a_input.json.gz"}
    big["output"] = {"outputBodyS3Path": f"{LOGS}/data/a_output.json.gz"}
    put(objects, f"{LOGS}/1.json", lines(big))
    put(objects, f"{LOGS}/data/a_input.json.gz", gzip.compress(json.dumps(ASKED).encode()))
    put(objects, f"{LOGS}/data/a_output.json.gz", gzip.compress(json.dumps(SAID).encode()))
    rows, _ = fetch(store, objects, tmp_path, use_response=True)
    assert [(row["messages"][0]["content"], row["reference_answer"]) for row in rows] == [
        ("2+2?", "four")
    ]


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "2+2?"}


@pytest.mark.parametrize(
    ("request_body", "messages"),
    [
        ({"system": [{"text": "Be brief."}], **ASKED}, [SYSTEM, USER]),
        (
            {
                "anthropic_version": "bedrock-2023-05-31",
                "max_tokens": 9,
                "system": "Be brief.",
                "messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}],
            },
            [SYSTEM, USER],
        ),
        ({"messages": [SYSTEM, USER], "max_completion_tokens": 9}, [SYSTEM, USER]),
        ({"prompt": "2+2?", "max_gen_len": 9}, [USER]),
        ({"inputText": "2+2?"}, [USER]),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"text": "a"}, {"cachePoint": {"type": "default"}}],
                    },
                    {
                        "role": "assistant",
                        "content": [
                            {"reasoningContent": {"reasoningText": {"text": "hm"}}},
                            {"text": "b"},
                        ],
                    },
                    {"role": "user", "content": [{"text": "c"}, {"text": "d"}]},
                ]
            },
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c\nd"},
            ],
        ),
    ],
)
def test_requests_of_every_form_become_chat_rows(store, objects, tmp_path, request_body, messages):
    put(objects, f"{LOGS}/1.json", lines(record(request_body)))
    assert fetch(store, objects, tmp_path)[0][0]["messages"] == messages


@pytest.mark.parametrize(
    "answer",
    [
        SAID,
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "four"}]},
        {"choices": [{"message": {"role": "assistant", "content": "four"}}]},
        {"choices": [{"text": "four"}]},
        {"generation": "four"},
        {"outputs": [{"text": "four"}]},
        {"results": [{"outputText": "four"}]},
        [
            {"contentBlockDelta": {"delta": {"text": "fo"}}},
            {"contentBlockDelta": {"delta": {"text": "ur"}}},
            {"messageStop": {"stopReason": "end_turn"}},
        ],
        [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "four"}}],
        [{"choices": [{"delta": {"content": "fo"}}]}, {"choices": [{"delta": {"content": "ur"}}]}],
    ],
)
def test_answers_of_every_form_are_text(store, objects, tmp_path, answer):
    put(objects, f"{LOGS}/1.json", lines(record(answer=answer)))
    assert fetch(store, objects, tmp_path, use_response=True)[0][0]["reference_answer"] == "four"


def test_tools_of_converse_and_of_anthropic_become_openais(store, objects, tmp_path):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    converse = {
        "messages": [
            {"role": "user", "content": [{"text": "Weather?"}]},
            {
                "role": "assistant",
                "content": [
                    {"toolUse": {"toolUseId": "t", "name": "w", "input": {"city": "Bonn"}}}
                ],
            },
            {
                "role": "user",
                "content": [{"toolResult": {"toolUseId": "t", "content": [{"json": {"c": 3}}]}}],
            },
        ],
        "toolConfig": {
            "tools": [
                {"toolSpec": {"name": "w", "description": "d", "inputSchema": {"json": schema}}}
            ]
        },
    }
    anthropic = {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "t", "name": "w", "input": {"city": "Bonn"}}
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": '{"c": 3}'}],
            },
        ],
        "tools": [{"name": "w", "description": "d", "input_schema": schema}],
    }
    put(objects, f"{LOGS}/1.json", lines(record(converse), record(anthropic)))
    first, second = fetch(store, objects, tmp_path)[0]
    assert first == second
    assert first["tools"] == [
        {
            "type": "function",
            "function": {"name": "w", "description": "d", "parameters": schema},
        }
    ]
    call = {
        "id": "t",
        "type": "function",
        "function": {"name": "w", "arguments": '{"city": "Bonn"}'},
    }
    assert first["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "content": '{"c": 3}'},
    ]


def test_what_cannot_be_trained_on_is_left_out_and_counted(store, objects, tmp_path):
    picture = {"messages": [{"role": "user", "content": [{"image": {"format": "png"}}]}]}
    prefilled = {"messages": [USER, {"role": "assistant", "content": "fo"}]}
    put(
        objects,
        f"{LOGS}/1.json",
        lines(
            record(requestId="good"),
            record(requestId="good"),
            record(picture),
            record(picture),
            record(prefilled),
            record({"texts": ["embed me"]}),
            record({"messages": [{"role": "user", "content": "  "}]}),
            record({"messages": [{"role": "user", "content": [{"toolUse": 3}]}]}),
            record(None),
        ),
    )
    rows, notes = fetch(store, objects, tmp_path)
    assert [row["id"] for row in rows] == ["good"]
    assert notes[0] == "2 of 9 logged calls were left out: content that is not text (image)."
    assert len(notes) == 5  # the most frequent reasons
    put(objects, f"{LOGS}/1.json", lines(record(prefilled)))
    with pytest.raises(DataError) as refused:
        fetch(store, objects, tmp_path)
    assert str(refused.value) == (
        "s3://bucket/logs/: No invocation log below this address can be trained on: 1 records were "
        "found there; 1 left out: the conversation ends with the assistant's turn. Check the "
        "address and the requestMetadataFilters."
    )


def test_a_log_that_is_none_is_named_with_its_line(store, objects, tmp_path):
    put(objects, f"{LOGS}/1.json", lines(record()) + b"{half a line\n")
    with pytest.raises(DataError, match=r"/1.json:2: invalid JSON in an invocation log"):
        fetch(store, objects, tmp_path)
    put(objects, f"{LOGS}/1.json", b"")
    put(objects, f"{LOGS}/2.json.gz", b"\x1f\x8bbroken")
    with pytest.raises(DataError, match=r"/2.json.gz: This is no log of invocations"):
        fetch(store, objects, tmp_path)


def test_a_small_object_that_holds_much_is_refused(store, objects, tmp_path):
    put(objects, f"{LOGS}/1.json.gz", gzip.compress(bytes(140 * 2**20), compresslevel=1))
    with pytest.raises(DataError, match="it has more than 134,217,728 bytes"):
        fetch(store, objects, tmp_path)


def test_a_failed_fetch_leaves_no_file(store, objects, tmp_path):
    with pytest.raises(DataError, match="0 records were found there"):
        put(objects, f"{LOGS}/1.json", b"{}")
        fetch(store, objects, tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()


EQUAL, OTHER = {"equals": {"team": "red"}}, {"notEquals": {"stage": "test"}}


@pytest.mark.parametrize(
    ("filters", "metadata", "expected"),
    [
        (None, {}, True),
        (EQUAL, {"team": "red"}, True),
        (EQUAL, {"team": "blue"}, False),
        (EQUAL, {}, False),
        (OTHER, {"stage": "test"}, False),
        (OTHER, {"stage": "live"}, True),
        (OTHER, {}, True),
        ({"andAll": [EQUAL, OTHER]}, {"team": "red", "stage": "live"}, True),
        ({"andAll": [EQUAL, OTHER]}, {"team": "red", "stage": "test"}, False),
        ({"orAll": [EQUAL, OTHER]}, {"team": "red", "stage": "test"}, True),
        ({"orAll": [EQUAL, OTHER]}, {"team": "blue", "stage": "test"}, False),
    ],
)
def test_filters_say_which_records_are_used(filters, metadata, expected):
    assert matches(filters, metadata) is expected


def test_filtered_records_keep_their_metadata_for_the_reward(store, objects, tmp_path):
    put(
        objects,
        f"{LOGS}/1.json",
        lines(
            record(requestId="a", requestMetadata={"team": "red"}),
            record(requestId="b", requestMetadata={"team": "blue"}),
            record(requestId="c"),
        ),
    )
    rows, notes = fetch(store, objects, tmp_path, filters=EQUAL)
    assert [(row["id"], row["metadata"]) for row in rows] == [("a", {"team": "red"})]
    assert notes == ["2 of 3 logged calls were left out: by the filters."]


def test_what_our_own_server_logs_is_training_data(store, objects, tmp_path):
    with store.session() as session:
        logging = {"s3Config": {"bucketName": "bucket", "keyPrefix": "logs"}}
        session.add(Setting(key=SETTING, value=logging))
    log = InvocationLog(store=store, objects=objects, folder=tmp_path, account="123456789012")
    for number in range(3):
        log.record(
            Invocation(
                operation="Converse",
                model_id="m",
                region="us-east-1",
                request_id=f"r{number}",
                input=ASKED,
                output=SAID,
                input_tokens=1,
                output_tokens=1,
                metadata={"team": "red"},
                caller="me",
                started=datetime(2026, 1, 2, 3, tzinfo=UTC),
            )
        )
    log.flush()
    rows, notes = fetch(store, objects, tmp_path, filters=EQUAL, use_response=True)
    assert [row["id"] for row in rows] == ["r0", "r1", "r2"]
    assert {row["reference_answer"] for row in rows} == {"four"}
    assert notes == []
