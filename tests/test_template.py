"""Templates: what an expression finds, what is refused when parsed, what fails on one sample."""

import json
import string
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunestone.errors import RewardError
from tunestone.rewards.template import (
    SampleParseError,
    Template,
    UnknownVariableError,
    VariableError,
    item_view,
    sample_view,
)
from tunestone.types import Prompt, Sample

ITEM = {
    "answer": "42",
    "number": 7,
    "share": 0.5,
    "nothing": None,
    "right": True,
    "two words": "yes",
    "a-b": "dash",
    "a\n.b": "lines",
    "": "empty",
    "nested": {"list": [{"name": "first"}, {"name": "last"}], "über": "ü"},
}


def sample(text="", *, truncated=False, tools=(), **row):
    prompt = Prompt(
        id="row-1", messages=({"role": "user", "content": "Say it."},), row=row, tools=tools
    )
    return Sample(prompt, text, truncated)


def render(source, text=""):
    return Template.parse(source).render(ITEM, sample_view(sample(text)))


def resolve(source, text=""):
    return Template.parse(source).resolve(ITEM, sample_view(sample(text)))


def fault(source, text=""):
    with pytest.raises(VariableError) as caught:
        render(source, text)
    return str(caught.value)


def refusal(source):
    with pytest.raises(RewardError) as caught:
        Template.parse(source)
    return str(caught.value)


def tool_call(**call):
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ""),
        ("no expression", "no expression"),
        ("{{ item.answer }}", "42"),
        ("{{item.answer}}", "42"),
        ("{{\n item.answer\t}}", "42"),
        ("is {{item.answer}} or {{ sample.output_text }}?", "is 42 or hi?"),
        ('{"answer": {{item.number}}}', '{"answer": 7}'),
        ('{"a": {"b": {}}}', '{"a": {"b": {}}}'),  # closing braces alone are text
        ("{{item.share}} {{item.nothing}} {{item.right}}", "0.5 null true"),
        ("{{ item[\"two words\"] }}{{item['a-b']}}{{item.a-b}}", "yesdashdash"),
        ("{{ item.nested.list[0].name }} {{item.nested.list[-1].name}}", "first last"),
        ("{{ item.nested.über }}", "ü"),
        ('{{ item["a\n.b"] }}{{ item[""] }}', "linesempty"),
        ("{{ item.nested }}", '{"list": [{"name": "first"}, {"name": "last"}], "über": "ü"}'),
    ],
)
def test_an_expression_is_replaced_by_its_value(source, expected):
    assert render(source, "hi") == expected


def test_a_lone_expression_resolves_to_the_value_itself():
    assert resolve("{{ item.number }}") == 7
    assert resolve("{{ item.nothing }}") is None
    assert resolve("{{ item.nested.list }}") == [{"name": "first"}, {"name": "last"}]
    assert resolve("{{ sample.output_json.x[1] }}", '{"x": [1, 2.5]}') == 2.5
    assert resolve(" {{ item.number }}") == " 7"
    assert resolve("{{ item.number }}{{ item.number }}") == "77"
    assert resolve("7") == "7"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a {{ answer }}", "template: '{{ answer }}' (character 3) has no known namespace"),
        ("{{ items.a }}", "has no known namespace: 'items'. Did you mean 'item'?"),
        ("{{ item }}", "(character 1) names no variable of item. Write {{ item.NAME }}"),
        ("{{ item.a", "template: '{{ item.a' (character 1) is never closed by }}."),
        ("{{ item.a }} {{ }}", "template: '{{ }}' (character 14) is not a variable."),
        ("{{ item.a | upper }}", "is not a variable"),
        ("{{ item.a() }}", "is not a variable"),
        ("{{ item.a + 1 }}", "is not a variable"),
        ("{{ item..a }}", "is not a variable"),
        ("{{ item[a] }}", "is not a variable"),
        ("{{ item.a[0 }}", "is not a variable"),
        ("{{ item.a[1234567890] }}", "is not a variable"),
        ("{{{ item.a }}}", "is not a variable"),
        ("{% if item.a %}{{", "is never closed"),
    ],
)
def test_what_is_no_expression_is_refused_when_parsed(source, message):
    assert message in refusal(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{item.anwser}}", "item.anwser does not exist; did you mean 'answer'?"),
        ("{{item.nested.zzz}}", "item.nested.zzz does not exist; there is 'list', 'über'"),
        ("{{item.nested.list[2].name}}", "list[2] does not exist; item.nested.list has 2 entries"),
        ("{{item.nested.list[-3]}}", "item.nested.list has 2 entries"),
        ("{{item.nested.list.name}}", "item.nested.list is a list, which takes an index such as"),
        ("{{item.nested[0]}}", "item.nested is an object, whose keys are strings"),
        ("{{item.answer.x}}", "item.answer.x does not exist; item.answer is a string"),
        ("{{item.answer[0]}}", "item.answer is a string"),
        ("{{item.number.x}}", "item.number is a number"),
        ("{{item.right.x}}", "item.right is a boolean"),
        ("{{item.nothing.x}}", "item.nothing is null"),
        ("{{sample.output_txt}}", "did you mean 'output_text'?"),
        ("{{sample.output_tools[0].function.name}}", "sample.output_tools has 0 entries"),
    ],
)
def test_an_unknown_variable_is_named_with_what_there_is(source, message):
    with pytest.raises(UnknownVariableError, match=r".") as caught:
        render(source)
    assert message in str(caught.value)
    assert caught.value.flag == "invalid_variable_error"


def test_long_lists_of_names_are_cut():
    item = {f"key {number}": 0 for number in range(20)}
    with pytest.raises(UnknownVariableError) as caught:
        Template.parse("{{ item.zzz }}").render(item, {})
    assert str(caught.value).endswith("'key 10', 'key 11', ...")


def test_the_item_is_the_row_and_what_the_model_was_asked():
    tools = ({"type": "function", "function": {"name": "add"}},)
    asked = [{"role": "user", "content": "Say it."}]
    assert item_view(sample(reference_answer="4")) == {
        "reference_answer": "4",
        "messages": asked,
        "id": "row-1",
    }
    assert item_view(sample(tools=tools))["tools"] == list(tools)
    assert render_row("{{item.messages[0].content}} {{item.id}}") == "Say it. row-1"


def render_row(source):
    return Template.parse(source).render(item_view(sample()), {})


@pytest.mark.parametrize(
    "text",
    ['{"a": [1]}', ' {"a": [1]}\n', '```json\n{"a": [1]}\n```', '```\n{"a": [1]}```\n'],
)
def test_output_json_is_the_answer_parsed(text):
    assert render("{{ sample.output_json.a[0] }}", text) == "1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the answer is no JSON: Expecting value"),
        ("The answer is 4.", "the answer is no JSON"),
        ('Here it is: {"a": 1}', "the answer is no JSON"),
        ("NaN", "the answer is no JSON: NaN is not in the standard"),
        ("9" * 5_000, "the answer is no JSON"),  # Python reads at most 4,300 digits
        ("```", "the answer is no JSON"),
        ("[" * 100_000, "the answer is JSON that is nested too deeply"),
    ],
)
def test_an_answer_that_is_no_json_is_a_parse_error(text, reason):
    with pytest.raises(SampleParseError, match=reason) as caught:
        render("{{ sample.output_json.a }}", text)
    assert caught.value.flag == "sample_parse_error"


def test_the_answer_is_parsed_only_where_a_template_asks_for_it():
    assert render("{{ sample.output_text }}", "no JSON") == "no JSON"
    assert "output_json" in sample_view(sample("no JSON"))


def test_tool_calls_have_the_chat_shape():
    text = "I add." + tool_call(name="add", arguments={"a": 1, "b": "ü"}) + tool_call(name="stop")
    assert sample_view(sample(text))["output_tools"] == [
        {
            "id": "call_0",
            "type": "function",
            "function": {"name": "add", "arguments": '{"a": 1, "b": "ü"}'},
        },
        {"id": "call_1", "type": "function", "function": {"name": "stop", "arguments": "{}"}},
    ]
    assert render("{{sample.output_tools[0].function.name}}", text) == "add"


def test_arguments_that_are_a_string_already_stay_it():
    text = tool_call(name="add", arguments='{"a": 1}')
    assert render("{{sample.output_tools[0].function.arguments}}", text) == '{"a": 1}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<tool_call>{", "sample.output_tools: tool call 0 has no </tool_call>"),
        ("<tool_call>add(1)</tool_call>", "tool call 0 is no JSON"),
        (tool_call(name="a") + tool_call(nom="b"), "tool call 1 is no JSON object with a `name`"),
        ("<tool_call>[]</tool_call>", "tool call 0 is no JSON object with a `name`"),
        ("<tool_call>" * 100_000, "tool call 0 has no </tool_call>"),
    ],
)
def test_a_broken_tool_call_is_a_parse_error(text, reason):
    assert reason in fault("{{ sample.output_tools[0].function.name }}", text)


def test_choices_have_the_chat_shape():
    def choice(text, **options):
        [found] = sample_view(sample(text, **options))["choices"]
        return found

    plain = {"role": "assistant", "content": "Hi."}
    assert choice("Hi.") == {"index": 0, "message": plain, "finish_reason": "stop"}
    assert choice("Hi.", truncated=True)["finish_reason"] == "length"
    called = choice(tool_call(name="add"))
    assert called["finish_reason"] == "tool_calls"
    assert called["message"]["tool_calls"][0]["function"]["name"] == "add"
    broken = choice("<tool_call>")
    assert broken["finish_reason"] == "stop"
    assert "tool_calls" not in broken["message"]


# --- properties

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(string.ascii_letters + string.digits + "_-", min_size=1)


STEPS = [".answer", ".nested", ".nested.list", ".nested.list[-1]", "[0]", "[-2]", "[12]", ".name"]
STEPS += [
    '["two words"]',
    "['a-b']",
    ".zzz",
    ".über",
    ".output_text",
    ".output_json",
    ".choices[0]",
]
NAMED = st.tuples(
    st.sampled_from(["item", "item", "sample", "items"]),
    st.lists(st.sampled_from([*STEPS, "[", "x", ".", " "]), min_size=1, max_size=2).map("".join),
    st.sampled_from(["{{{{{}{}}}}}", "{{{{ {}{}\n}}}}", "{{{{{}{}}}}}}}", "{{{{{}{}"]),
).map(lambda drawn: drawn[2].format(*drawn[:2]))
SOURCES = st.lists(NAMED | st.sampled_from(["{", "}}", "7", " is "]), max_size=3).map("".join)


def read_slowly(source):
    """Texts and (namespace, steps) of a template, character by character; None: not a template."""
    parts, rest = [], source
    while "{{" in rest:
        text, _, rest = rest.partition("{{")
        namespace, rest = take_while(rest.lstrip(), lambda c: c.isalnum() or c == "_")
        steps = []
        while rest[:1] in (".", "["):
            step, rest = take_step(rest)
            if step is None:
                return None
            steps.append(step)
        rest = rest.lstrip()
        if namespace not in ("item", "sample") or not steps or not rest.startswith("}}"):
            return None
        parts += [text, (namespace, steps)]
        rest = rest[2:]
    return [*parts, rest]


def take_while(text, accepts):
    end = next((i for i, character in enumerate(text) if not accepts(character)), len(text))
    return text[:end], text[end:]


def take_step(text):
    if text[0] == ".":
        name, rest = take_while(text[1:], lambda c: c.isalnum() or c in "_-")
        return name or None, rest
    if text[1:2] in ("'", '"'):
        key, _, rest = text[2:].partition(text[1])
        return (key if rest.startswith("]") else None), rest[1:]
    digits, _, rest = text[1:].partition("]")
    unsigned = digits.removeprefix("-")
    is_index = "]" in text and set(unsigned) <= set("0123456789") and 1 <= len(unsigned) <= 9
    return (int(digits) if is_index else None), rest


def render_slowly(parts, namespaces):
    """The rendered text; None where a variable has no value."""
    rendered = ""
    for part in parts:
        value = part
        if isinstance(part, tuple):
            value = namespaces[part[0]]
            for step in part[1]:
                if not isinstance(value, list if isinstance(step, int) else Mapping):
                    return None
                try:
                    value = value[step]
                except (LookupError, SampleParseError):
                    return None
        rendered += value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return rendered


@settings(max_examples=1_000)
@given(SOURCES | st.text(st.sampled_from("{} itemsaple.[]\"'0-\n_x"), max_size=60) | st.text())
def test_any_text_is_read_and_rendered_as_a_slow_reader_does(source):
    parts, view = read_slowly(source), sample_view(sample(source))
    if parts is None:
        with pytest.raises(RewardError):
            Template.parse(source)
        return
    template = Template.parse(source)
    expected = render_slowly(parts, {"item": ITEM, "sample": view})
    if expected is None:
        with pytest.raises(VariableError):
            template.render(ITEM, view)
    else:
        assert template.render(ITEM, view) == expected


@given(st.text())
def test_any_answer_is_parsed_or_a_parse_error(text):
    view = sample_view(sample(text))
    for name in view:
        try:
            json.dumps(view[name])
        except SampleParseError as error:
            assert name in str(error)


@given(JSON, st.data())
def test_every_path_through_a_value_finds_what_is_there(value, data):
    """Walk a random way into the value, writing down each step, and let the template follow."""
    item, path = {"root": value}, "item.root"
    while isinstance(value, dict | list) and value and data.draw(st.booleans()):
        if isinstance(value, list):
            index = data.draw(st.integers(-len(value), len(value) - 1))
            value, path = value[index], f"{path}[{index}]"
        else:
            key = data.draw(st.sampled_from(sorted(value)))
            if '"' in key and "'" in key:
                return  # cannot be written; there are no escapes
            quote = "'" if '"' in key else '"'
            value, path = value[key], f"{path}[{quote}{key}{quote}]"
    template = Template.parse("{{ " + path + " }}")
    assert template.resolve(item, {}) == value
    expected = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    assert template.render(item, {}) == expected


@given(st.lists(NAMES, min_size=1, max_size=4), st.text().filter(lambda text: "{" not in text))
def test_names_after_dots_and_text_around_them_come_back(names, text):
    value = text
    for name in reversed(names):
        value = {name: value}
    source = f"{text}{{{{item.{'.'.join(names)}}}}}{text}"
    assert Template.parse(source).render(value, {}) == text * 3
