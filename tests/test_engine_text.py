"""Text that comes token by token: whole characters, no part of a stop string, exact bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import SPECIALS, tiny_tokenizer
from tunestone.engine.text import StopFilter, TextStream, TokenBytes, hidden_tokens

TOKENIZER = tiny_tokenizer()
HIDDEN = hidden_tokens(TOKENIZER)


def streamed(tokens) -> list[str]:
    """The pieces, one per token, and what was held back at the end."""
    stream = TextStream(TOKENIZER, HIDDEN)
    return [*(stream.push(token) for token in tokens), stream.flush()]


def encoded(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text(max_size=60))
def test_pieces_make_up_the_text_and_are_whole_characters(text):
    pieces = streamed(encoded(text))
    assert "".join(pieces) == text
    assert pieces[-1] == "" or "\ufffd" in text


@given(st.lists(st.integers(0, 260), max_size=80))
def test_pieces_make_up_what_decoding_at_once_gives_for_any_tokens(tokens):
    kept = [token for token in tokens if token not in HIDDEN]
    assert "".join(streamed(tokens)) == TOKENIZER.decode(kept)


def test_a_character_comes_with_its_last_byte():
    # The euro sign is E2 82 AC, an emoji F0 9F 98 80: one token per byte here.
    assert streamed(encoded("a€b😀")) == ["a", "", "", "€", "b", "", "", "", "😀", ""]


def test_an_unfinished_character_comes_at_the_end_as_a_replacement_mark():
    assert streamed(encoded("€")[:2]) == ["", "", "\ufffd"]


def test_special_tokens_are_no_text_but_marks_of_reasoning_and_tools_are():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|channel|>", "<|user|>"]})
    hidden = hidden_tokens(tokenizer)
    stream = TextStream(tokenizer, hidden)
    ids = [tokenizer.convert_tokens_to_ids(t) for t in ("<|channel|>", "<|user|>", "<|pad|>")]
    assert [stream.push(token) for token in ids] == ["<|channel|>", "", ""]
    # The end token of an answer is never pushed, so `<|end|>` is only seen as gpt-oss's mark.
    assert tokenizer.convert_tokens_to_ids(SPECIALS[0]) not in hidden


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text("abc", max_size=3), max_size=12),
)
def test_a_stop_string_cuts_the_text_wherever_the_pieces_part(stops, pieces):
    text = "".join(pieces)
    found = [text.find(stop) for stop in stops if stop in text]
    gate, shown = StopFilter(stops), ""
    for piece in pieces:
        shown += gate.push(piece)
        assert not any(stop in shown for stop in stops)
        # What is shown is final: it never reaches into a stop string that is still to come.
        assert text.startswith(shown)
        if gate.found:
            break
    else:
        shown += gate.flush()
    assert bool(gate.found) == bool(found)
    assert shown == text[: min(found, default=len(text))]


def test_only_what_may_begin_a_stop_string_is_held_back():
    gate = StopFilter(["STOP", "\n\n"])
    assert [gate.push(piece) for piece in ("one ST", "EP S", "T", "\n", "OP")] == [
        "one ",
        "STEP ",
        "",
        "ST",
        "\nOP",
    ]
    assert [gate.push(piece) for piece in ("STO", "P and more")] == ["", ""]
    assert gate.found == "STOP"


def test_bytes_of_byte_level_tokens():
    of = TokenBytes(TOKENIZER)
    assert [of.of(token) for token in encoded("é\n")] == [b"\xc3", b"\xa9", b"\n"]
    assert of.of(TOKENIZER.eos_token_id) == b"<|end|>"
    assert of.of(263) == b""  # the model has more rows than the tokenizer has tokens


@pytest.mark.parametrize(
    ("piece", "expected"),
    [("\u2581the", b" the"), ("<0xE2>", b"\xe2"), ("é", b"\xc3\xa9"), ("<0xyz>", b"<0xyz>")],
)
def test_bytes_of_sentencepiece_tokens(piece, expected):
    class Sentencepiece:
        def __init__(self):
            self.added_tokens_decoder = {}

        def convert_ids_to_tokens(self, token):
            return piece

    assert TokenBytes(Sentencepiece()).of(7) == expected
