"""Tokens one by one -> text in pieces that never have to be taken back.

A character of several bytes can be spread over several tokens, and a stop string over even more:
what may still become either of them is held back until it is clear.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

_LOOK_BACK = 8  # tokens whose text still decides how the next one is written
_BROKEN = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how sentencepiece names a byte
_MARKS = frozenset(
    {
        *("<think>", "</think>", "[THINK]", "[/THINK]"),
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"),
        *("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"),
    }
)
"""Special tokens that belong to the text: they mark reasoning and tool calls."""


def hidden_tokens(tokenizer: Any) -> frozenset[int]:
    """Special tokens that are no part of a text."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(t for t, kind in added if kind.special and kind.content not in _MARKS)


class TextStream:
    """Decodes the tokens of one answer; only whole characters come out.

    All pieces together are what decoding all tokens at once gives, `hidden` ones left out.
    """

    def __init__(self, tokenizer: Any, hidden: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that were given out

    def push(self, token: int) -> str:
        """Text that is certain now."""
        if token in self._hidden:
            return ""
        self._window.append(token)
        text = self._decode()
        # An unfinished character shows as up to three replacement marks.
        broken = min(3, len(text) - len(text.rstrip(_BROKEN)))
        new = text[self._shown : len(text) - broken]
        self._shown = max(self._shown, len(text) - broken)
        if not broken and len(self._window) > 2 * _LOOK_BACK:
            self._window = self._window[-_LOOK_BACK:]
            self._shown = len(self._decode())
        return new

    def flush(self) -> str:
        """What was held back, at the end."""
        text = self._decode()
        new, self._shown = text[self._shown :], len(text)
        return new

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(self._window)
        return text


class StopFilter:
    """Lets text through up to the first stop string, and holds back what may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = ""
        """The stop string that was met; empty as long as none was."""

    def push(self, text: str) -> str:
        """Text that may be shown. After `found` is set, nothing more may be pushed."""
        text = self._held + text
        met = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if met:
            position, self.found = min(met, key=lambda pair: pair[0])
            self._held = ""
            return text[:position]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, at the end of an answer without a stop string."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class TokenBytes:
    """The bytes each token of a tokenizer stands for, also where they are no whole character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = set(tokenizer.added_tokens_decoder)
        decoder = str(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))
        self._bytewise = "ByteLevel" in decoder
        self._of_letter = _byte_letters() if self._bytewise else {}

    def of(self, token: int) -> bytes:
        """Bytes of one token; none where the tokenizer knows no such token."""
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if token in self._added:
            return str(piece).encode()
        if self._bytewise:
            return bytes(self._of_letter[letter] for letter in piece if letter in self._of_letter)
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return str(piece).replace("\u2581", " ").encode()  # sentencepiece's mark for a blank


def _byte_letters() -> dict[str, int]:
    """Letters that byte-level tokenizers write bytes as (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + i): byte for i, byte in enumerate(others)}
