"""JSON answers: F1 of leaves against a slow count, schemas, malformed text, and hostile nesting."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ready_steps import grade, sample
from tunestone.errors import RewardError
from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.json_match import match_fields, score_json
from tunestone.rewards.ready.structured import Json

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}
values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.sampled_from("xyz"), child),
    max_leaves=8,
)


def slow_leaves(value, path=()):
    """Set of (path, kind and value of the leaf), by plain recursion."""
    if isinstance(value, dict) and value:
        return set().union(*(slow_leaves(child, (*path, key)) for key, child in value.items()))
    if isinstance(value, list) and value:
        return set().union(*(slow_leaves(child, (*path, i)) for i, child in enumerate(value)))
    return {(path, json.dumps(value))}


def match(answer, reference, *, tolerance=0.0, strip=False, casefold=False):
    return match_fields(answer, reference, tolerance=tolerance, strip=strip, casefold=casefold)


@given(values, values)
def test_fields_are_the_f1_of_leaves(answer, reference):
    given_leaves, wanted = slow_leaves(answer), slow_leaves(reference)
    # Where paths of lists and objects differ in kind (0 and "0"), the slow sets differ as well.
    expected = 2 * len(given_leaves & wanted) / (len(given_leaves) + len(wanted))
    assert match(answer, reference) == pytest.approx(expected)
    assert match(reference, reference) == 1


def test_missing_and_surplus_fields_cost():
    reference = {"a": 1, "b": {"c": 2, "d": [3, 4]}}  # four leaves
    assert match({"a": 1}, reference) == 2 * 1 / (1 + 4)
    assert match({"a": 1, "b": {"c": 2, "d": [3, 4]}, "e": 5}, reference) == 2 * 4 / (5 + 4)
    assert match({"a": 1, "b": {"c": 2, "d": [4, 3]}}, reference) == 2 * 2 / (4 + 4)
    many = {f"k{n}": n for n in range(1000)} | reference
    assert match(many, reference) == 2 * 4 / (1004 + 4)  # answering everything does not pay


def test_leaves_agree_by_kind_and_options():
    assert match({"a": 1.05}, {"a": 1}, tolerance=0.1) == 1
    assert match({"a": 1.05}, {"a": 1}) == 0
    assert match({"a": 1.0}, {"a": 1}) == 1
    assert match({"a": True}, {"a": 1}, tolerance=1) == 0
    assert match({"a": "1"}, {"a": 1}) == 0
    assert match({"a": None}, {"a": 0}) == 0
    assert match({"a": []}, {"a": {}}) == 0
    assert match({"a": " x "}, {"a": "x"}) == 0
    assert match({"a": " x "}, {"a": "x"}, strip=True) == 1
    assert match({"a": "STRASSE"}, {"a": "straße"}, casefold=True) == 1
    assert match({"a": 1.3}, {"a": 1}, tolerance=0.3) == 1  # as floats 0.30000000000000004 apart
    assert match({"a": 10**400}, {"a": 1.5}, tolerance=1) == 0
    assert match(json.loads('{"a": 1e999}'), {"a": 1.5}, tolerance=1) == 0


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ('{"a": 1}', 1, 1),
        (' {"a": 1}\n', 1, 1),
        ('```json\n{"a": 1}\n```', 0, 1),
        ('So:\n```\n{"a": 1}\n```\nor\n```\n{"a": 2}\n```', 0, 1),
        ('So:\n```\n{"a": 2}\n```\nor\n```\n{"a": 1}\n```', 0, 0),
        ('It is {"a": 1}, not {"a": 2}.', 0, 1),
        ('Set {x} to {"a": 1}.', 0, 1),
        ('{"a": 2} {"a": 1}', 0, 0),
        ('{"a": 1', 0, 0),
        ("{'a': 1}", 0, 0),
        ('{"a": NaN}', 0, 0),
        ("", 0, 0),
        ("a: 1", 0, 0),
    ],
)
def test_where_the_object_stands(text, strict, lenient):
    assert score_json(text, {"a": 1}, style="strict")[0] == strict
    assert score_json(text, {"a": 1}, style="lenient")[0] == lenient


def test_a_list_is_looked_for_where_the_reference_is_one():
    assert score_json("Here: [1, 2]", [1, 2])[0] == 1
    assert score_json('As [1] says: {"a": 1}', {"a": 1})[0] == 1


def test_the_sub_scores_and_the_malformed_reward():
    reference = {"name": "Ann", "age": 3}
    assert score_json('{"name": "Ann", "age": -3}', reference, SCHEMA, malformed_reward=-0.5) == (
        -0.5,
        {"valid_json": 1.0, "valid_schema": 0.0, "fields": 0.5},
    )
    assert score_json('{"name": "Ann", "age": 4}', reference, SCHEMA) == (
        0.5, {"valid_json": 1.0, "valid_schema": 1.0, "fields": 0.5}
    )  # fmt: skip
    assert score_json("no", reference, SCHEMA, malformed_reward=-0.5) == (
        -0.5, {"valid_json": 0.0, "valid_schema": 0.0, "fields": 0.0}
    )  # fmt: skip
    assert score_json('{"name": "Bob"}', None, json.dumps(SCHEMA)) == (
        1.0, {"valid_json": 1.0, "valid_schema": 1.0}
    )  # fmt: skip
    assert score_json('{"name": "Ann", "age": 3}', json.dumps(reference))[0] == 1


@pytest.mark.parametrize(
    ("reference", "schema", "message"),
    [
        ("{", None, "the reference answer is not JSON: '{'."),
        ({}, {"type": "objekt"}, "the schema is not valid: 'objekt' is not valid"),
        ({}, 3, "the schema is not a JSON object: 3."),
        ({}, {"$ref": "#/$defs/none"}, "the schema refers to what it lacks"),
    ],
)
def test_unusable_references_and_schemas_are_refused(reference, schema, message):
    with pytest.raises(UnusableReferenceError, match="the") as caught:
        score_json("{}", reference, schema)
    assert message in str(caught.value)


def test_a_schema_elsewhere_is_not_fetched():
    asked = []

    class Schemas(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with ThreadingHTTPServer(("127.0.0.1", 0), Schemas) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        schema = {"$ref": f"http://127.0.0.1:{server.server_port}/schema.json"}
        with pytest.raises(UnusableReferenceError, match="the schema refers to what it lacks"):
            score_json("{}", None, schema)
        server.shutdown()
    assert asked == []


@pytest.mark.parametrize(
    "text",
    ["[" * 500_000, '{"a":' * 200_000, "{" * 1_000_000, "```" * 300_000, '{"a": "' * 100_000,
     '{"a": ' + "9" * 1_000_000 + "}",
     '{"a": ' + "[" * 900 + "1," * 100_000 + "1" + "]" * 900 + "}",
     '{"a": ' * 5_000 + "1" + "}" * 5_000],
    ids=["brackets", "nested", "braces", "fences", "strings", "digits", "deep-and-wide", "deep"],
)  # fmt: skip
def test_hostile_texts_are_read_quickly_and_without_an_error(text):
    start = time.perf_counter()
    for schema in (None, {"type": "object", "additionalProperties": {"type": "object"}}):
        assert score_json(text, {"a": 1}, schema)[0] == 0
    assert time.perf_counter() - start < 5


def test_a_recursive_schema_on_deep_nesting_is_an_invalid_answer():
    schema = {"type": "object", "additionalProperties": {"$ref": "#"}}
    depth = 400
    reward, metrics = score_json('{"a": ' * depth + "{}" + "}" * depth, None, schema)
    assert (reward, metrics["valid_json"]) == (metrics["valid_schema"], 1.0)


@given(st.text() | st.text(alphabet='{}[]":,a1`json\n '))
def test_arbitrary_text_is_read_without_an_error(text):
    for style in ("strict", "lenient"):
        assert 0 <= score_json(text, {"secret": 1}, style=style)[0] <= 1


def test_specs_are_checked_when_they_are_read():
    with pytest.raises(RewardError, match="neither a schema nor a reference"):
        Json(reference=None)
    with pytest.raises(RewardError, match="the schema is not valid: 'objekt' is not valid"):
        Json(schema={"type": "objekt"})


def test_the_grader_without_a_schema():
    grades = grade(
        Json(casefold=True),
        sample('{"name": "ann"}', reference_answer={"name": "Ann"}),
        sample('{"name": "ann"}', reference_answer="not JSON"),
    )
    assert grades[0].reward == 1.0
    assert (grades[1].reward, grades[1].flags) == (None, ("other_error",))


def test_the_grader_with_a_schema_runs_in_the_sandbox():
    hostile = {"properties": {"name": {"pattern": "^(a+)+$"}}}
    spec = Json(schema=hostile, reference=None, timeout_seconds=1)
    fine, hanging = grade(
        spec, sample('{"name": "aaa"}'), sample(json.dumps({"name": "a" * 60 + "!"}))
    )
    assert (fine.reward, fine.metrics["valid_schema"]) == (1.0, 1.0)
    assert (hanging.reward, hanging.flags) == (None, ("unresponsive_reward_error",))
    of_row = Json(schema="{{ item.form }}")
    row = {"reference_answer": {"name": "Ann"}, "form": SCHEMA}
    grades = grade(of_row, sample('{"name": "Ann"}', **row), sample('{"name": 1}', **row))
    assert [grade.reward for grade in grades] == [1.0, 0.0]
