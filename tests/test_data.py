"""Data files through the front door: what loads, and what each fault says."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunestone.data import find_overlap, fingerprint, load_prompts, write_rows
from tunestone.errors import DataError, StorageError
from tunestone.types import Prompt

ASK = {"role": "user", "content": "2 + 3?"}


@pytest.fixture
def load(tmp_path):
    """Write lines (dicts become JSON) to a file and load it."""

    def write_and_load(*lines):
        path = tmp_path / "train.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return load_prompts(path)

    return write_and_load


def complaint(load, *lines) -> str:
    """The DataError's text without the folder, so that it starts with file and line."""
    with pytest.raises(DataError) as caught:
        load(*lines)
    assert caught.value.code == "data_error"
    return str(caught.value).replace(str(Path(caught.value.path).parent) + "/", "")


def row_with(**changes):
    return {"messages": [ASK], **changes}


# --- What loads -------------------------------------------------------------------------------


def test_bedrocks_shape(load, tmp_path):
    reference = {"final_answer": "5", "steps": None}
    [prompt] = load(
        {
            "id": "sum-1",
            "messages": [{"role": "system", "content": "Add."}, ASK],
            "reference_answer": reference,
            "task_id": 7,
            "domain": "math",
        }
    )
    assert prompt == Prompt(
        id="sum-1",
        messages=({"role": "system", "content": "Add."}, ASK),
        row={"reference_answer": reference, "task_id": 7, "domain": "math"},
        tools=(),
        source=f"{tmp_path / 'train.jsonl'}:1",
    )


def test_openais_shape(load):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    [prompt] = load(
        {
            "messages": [{"role": "developer", "content": "Judge."}, ASK],
            "tools": [tool],
            "compliant": "yes",
            "explanation": None,
        }
    )
    assert prompt.id == "row-1"
    assert prompt.tools == (tool,)
    assert prompt.row == {"compliant": "yes", "explanation": None}


def test_a_conversation_with_a_tool_call(load):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
    ]
    [prompt] = load({"messages": messages})
    assert prompt.messages[1] == {"role": "assistant", "tool_calls": [call], "content": None}
    assert prompt.messages[2] == messages[2]


def test_text_blocks_become_one_string(load):
    blocks = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    [prompt] = load({"messages": [{"role": "user", "content": blocks}]})
    assert prompt.messages == ({"role": "user", "content": "One.\nTwo."},)


def test_ids_may_be_strings_numbers_null_or_absent(load):
    rows = [row_with(id="a"), row_with(id=7), row_with(id=1.5), row_with(id=None), row_with()]
    assert [prompt.id for prompt in load(*rows)] == ["a", "7", "1.5", "row-4", "row-5"]


def test_blank_lines_are_skipped_but_counted(load, tmp_path):
    prompts = load("", json.dumps(row_with()), "  \t", "", json.dumps(row_with()), "")
    assert [prompt.id for prompt in prompts] == ["row-2", "row-5"]
    assert prompts[1].source == f"{tmp_path / 'train.jsonl'}:5"


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "windows.jsonl"
    line = json.dumps(row_with(reference_answer="5 €"), ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line + b"\r\n")
    assert [prompt.row["reference_answer"] for prompt in load_prompts(path)] == ["5 €", "5 €"]


def test_other_line_separators_inside_a_string_do_not_end_the_row(load):
    content = "a\u2028b\x85c"
    line = json.dumps({"messages": [{"role": "user", "content": content}]}, ensure_ascii=False)
    assert load(line)[0].messages[0]["content"] == content


def test_twenty_thousand_rows(tmp_path):
    path = tmp_path / "many.jsonl"
    rows = (
        row_with(messages=[{"role": "user", "content": f"{i} + 1?"}], reference_answer=str(i + 1))
        for i in range(20_000)
    )
    write_rows(path, rows)
    prompts = load_prompts(path)
    assert len(prompts) == 20_000
    assert prompts[-1].id == "row-20000"
    assert prompts[-1].row == {"reference_answer": "20000"}


# --- What the file may get wrong --------------------------------------------------------------


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError) as caught:
        load_prompts(tmp_path / "trian.jsonl")
    assert str(caught.value) == (
        f"{tmp_path / 'trian.jsonl'}: the file does not exist. "
        "Check the path. Did you mean `train.jsonl`?"
    )
    assert caught.value.line is None


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(DataError, match=r"this is a folder, not a file\. Name one JSONL file"):
        load_prompts(tmp_path)


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_prompts(path)
    assert str(caught.value) == (
        f'{path}: the file is empty. Write one JSON object per line, each with a "messages" list.'
    )


def test_broken_utf8_is_named_with_its_byte_offset(tmp_path):
    path = tmp_path / "latin.jsonl"
    good = json.dumps(row_with()).encode()
    path.write_bytes(good + b"\n" + b'{"messages": "caf\xe9"}\n')
    with pytest.raises(DataError) as caught:
        load_prompts(path)
    # {"messages": "caf is 17 bytes long, so the bad one has offset 17
    assert str(caught.value) == (
        f"{path}:2: byte 0xe9 at offset 17 of the line is not valid UTF-8. Save the file as UTF-8."
    )
    assert caught.value.line == 2


def test_invalid_json_is_named_with_its_column(load):
    assert complaint(load, row_with(), '{"messages": [}') == (
        "train.jsonl:2: invalid JSON at column 15: Expecting value. "
        "Write one whole JSON object per line."
    )


@pytest.mark.parametrize(
    "lines", [[json.dumps([row_with(), row_with()])], ["", "[", json.dumps(row_with()), "]"]]
)
def test_a_json_array_is_recognised(load, lines):
    assert complaint(load, *lines).endswith(
        ": the file holds a JSON array, not JSONL. "
        "Write one object per line, without the array's brackets and commas."
    )


def test_numbers_that_are_not_json_are_refused(load):
    text = complaint(load, '{"messages": [{"role": "user", "content": "x"}], "score": NaN}')
    assert text.startswith("train.jsonl:1: invalid JSON: NaN is not a JSON number;")


def test_json_nested_too_deeply_is_refused(load):
    assert complaint(load, row_with(), "[" * 100_000).startswith("train.jsonl:2: invalid JSON: ")


def test_half_a_surrogate_pair_is_refused(load):
    row = r'{"messages": [{"role": "user", "content": "\ud83d"}]}'
    assert complaint(load, row).startswith(r"train.jsonl:1: a \ud8xx escape without its second")
    [prompt] = load(row.replace(r"\ud83d", r"\ud83d\ude00"))
    assert prompt.messages[0]["content"] == "😀"


# --- What a row may get wrong -----------------------------------------------------------------

ROLES = "system, developer, user, assistant, tool"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (["x"], "the row is a list, not an object. Write one whole JSON object per line."),
        (3, "the row is a number, not an object."),
        ({"reference_answer": "5"}, "`messages` is missing. Add"),
        ({"mesages": [ASK]}, "`messages` is missing. Rename `mesages` to `messages`."),
        ({"messages": []}, "`messages` is empty. Add at least one user turn."),
        ({"messages": None}, "`messages` is null, not a list. Make it a list of turns."),
        ({"messages": "2 + 3?"}, "`messages` is a string, not a list."),
        ({"messages": ["2 + 3?"]}, "`messages[0]` is a string, not an object. Write"),
        (row_with(id=True), "`id` is a boolean. Use a string or a number, or leave `id` out"),
        (row_with(id=""), "`id` is empty."),
        (row_with(id={}), "`id` is an object."),
        (row_with(tools={}), "`tools` is an object, not a list. Make it a list of tools."),
        (row_with(tools=[{"type": "web"}]), '`tools[0].type` is not "function". Write'),
        (
            row_with(tools=[{"type": "function", "function": {"description": "x"}}]),
            "`tools[0].function.name` is missing. Write",
        ),
        (
            row_with(tools=[{"type": "function", "function": {"name": "f", "description": 1}}]),
            "`tools[0].function.description` is a number, not a string.",
        ),
        (
            row_with(tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]),
            "`tools[0].function.parameters` is a list, not an object.",
        ),
    ],
)
def test_a_bad_row(load, row, expected):
    text = complaint(load, row_with(), row)
    assert text.startswith("train.jsonl:2: ")
    assert expected in text


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"content": "x"}, f"`messages[1].role` is missing. Use one of {ROLES}."),
        (
            {"role": "usr", "content": "x"},
            f'`messages[1].role` is "usr", which is not a known role. Use one of {ROLES}. '
            "Did you mean `user`?",
        ),
        ({"role": "human", "content": "x"}, "Did you mean `user`?"),
        ({"role": "gpt", "content": "x"}, "Did you mean `assistant`?"),
        ({"role": "User", "content": "x"}, "Did you mean `user`?"),
        ({"role": 3, "content": "x"}, "`messages[1].role` is 3, which is not a known role."),
        ({"role": "user"}, "`messages[1].content` is missing. Give the text of the turn."),
        ({"role": "tool", "content": None}, "`messages[1].content` is missing."),
        ({"role": "user", "content": []}, "`messages[1].content` is missing."),
        ({"role": "user", "content": " \n"}, "`messages[1].content` is blank. Write what"),
        ({"role": "user", "content": 5}, "`messages[1].content` is a number. Use a string or"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            '`messages[1].content[0]` has type "image_url", but prompts are text only. '
            "Remove the block or describe it in words.",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, 'type "input_audio", but'),
        ({"role": "user", "content": [{"text": "x"}]}, "[0]` is not a text block. Write the block"),
        ({"role": "user", "content": ["x"]}, "`messages[1].content[0]` is not a text block."),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "`messages[1].content[0].text` is null, not a string.",
        ),
        (
            {"role": "system", "content": "Late."},
            "`messages[1]` is a system turn, which may only come first. Move its text",
        ),
        (
            {"role": "assistant", "content": "5"},
            "the last message is an assistant turn, but the assistant's answer is what is trained. "
            "Put the answer into `reference_answer`; the prompt must end with the user's turn.",
        ),
        (
            {"role": "assistant", "tool_calls": []},
            "`messages[1].tool_calls` is not a list of calls. Write",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {}}]},
            "`messages[1].tool_calls[0].function.name` is missing. Write",
        ),
    ],
)
def test_a_bad_turn(load, turn, expected):
    text = complaint(load, {"messages": [ASK, turn]})
    assert text.startswith("train.jsonl:1: ")
    assert expected in text


def test_a_prompt_needs_a_user_turn(load):
    text = complaint(load, {"messages": [{"role": "system", "content": "Add."}]})
    assert text.startswith("train.jsonl:1: `messages` has no user turn. Add")


def test_a_duplicate_id_names_both_lines(load):
    assert complaint(load, row_with(id=7), row_with(), row_with(id="7")) == (
        "train.jsonl:3: the id '7' is already used on line 1. "
        "Give each row its own `id`, or leave `id` out of all rows."
    )
    text = complaint(load, row_with(id="row-2"), row_with())
    assert "the id 'row-2' is already used on line 1" in text


# --- Overlap ----------------------------------------------------------------------------------


def prompt_of(identity, text, **changes):
    return Prompt(id=identity, messages=({"role": "user", "content": text},), **changes)


def test_overlap_compares_messages_only():
    train = [prompt_of("t1", "a"), prompt_of("t2", "b", row={"x": 1}), prompt_of("t3", "b")]
    heldout = [prompt_of("h1", "b"), prompt_of("h2", "c"), prompt_of("t1", "a ")]
    assert find_overlap(train, heldout) == [("t2", "h1"), ("t3", "h1")]
    assert find_overlap(train, []) == []


def test_overlap_ignores_the_order_of_keys_and_sees_roles():
    turned = Prompt(id="h", messages=({"content": "a", "role": "user"},))
    spoken = Prompt(id="h", messages=({"role": "developer", "content": "a"},))
    assert find_overlap([prompt_of("t", "a")], [turned]) == [("t", "h")]
    assert find_overlap([prompt_of("t", "a")], [spoken]) == []


# --- Writing ----------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # No half surrogates: they are refused, as tested above.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from("pqr"), json_values), min_size=1, max_size=4))
def test_what_is_written_loads_again_untouched(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("written") / "rows.jsonl"
    write_rows(path, [row_with(**row) for row in rows])
    assert [dict(prompt.row) for prompt in load_prompts(path)] == rows


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": 1}])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the row cannot be written as JSON"):
        write_rows(path, [{"a": 2}, {"a": {1, 2}}])
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*Use strings, finite numbers"):
        write_rows(path, [{"a": float("nan")}])
    assert path.read_text() == '{"a": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_writing_replaces_what_was_there(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": 1}, {"a": 2}])
    write_rows(path, [{"ä": "€"}])
    assert path.read_bytes() == '{"ä": "€"}\n'.encode()


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_writing_into_a_folder_that_is_none(tmp_path, parent):
    (tmp_path / "file").write_text("")
    path = tmp_path / parent / "rows.jsonl"
    with pytest.raises(StorageError, match=re.escape(f"{path}: the file cannot be written: N")):
        write_rows(path, [{"a": 1}])


def test_fingerprint_is_the_files_sha256(tmp_path):
    path = tmp_path / "big.jsonl"
    content = b"0123456789" * 100_000
    path.write_bytes(content)
    assert fingerprint(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match="the file does not exist"):
        fingerprint(tmp_path / "none")
