"""AWS's binary event stream, the writing half: botocore only reads it.

A message is a prelude (its whole length, the length of its headers, their CRC-32), headers, a
payload and the CRC-32 of everything before it; all numbers big-endian. Of the kinds of header
values only strings are written: Bedrock uses no other.

Source: the format as botocore's `eventstream.py` decodes it.
"""

import json
import struct
from binascii import crc32
from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "application/vnd.amazon.eventstream"
"""Of the whole answer."""
_STRING = 7
_FRAME_BYTES = 16
"""Prelude with its CRC, and the CRC at the end."""


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message. Raises ValueError for a header longer than its length field can say."""
    written = b"".join(_encode_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", _FRAME_BYTES + len(written) + len(payload), len(written))
    message = prelude + struct.pack("!I", crc32(prelude)) + written + payload
    return message + struct.pack("!I", crc32(message))


def encode_event(kind: str, content: Mapping[str, Any]) -> bytes:
    """An event with its JSON content, such as `messageStop`."""
    headers = {
        ":event-type": kind,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    return encode_message(headers, _json_bytes(content))


def encode_exception(kind: str, content: Mapping[str, Any]) -> bytes:
    """An error in the middle of a stream, such as `modelStreamErrorException`."""
    headers = {
        ":exception-type": kind,
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    return encode_message(headers, _json_bytes(content))


def _encode_header(name: str, value: str) -> bytes:
    name_bytes, value_bytes = name.encode(), value.encode()
    if len(name_bytes) > 0xFF or len(value_bytes) > 0x7FFF:
        raise ValueError(f"the header {name!r} is too long for an event stream")
    return b"".join(
        (
            struct.pack("!B", len(name_bytes)),
            name_bytes,
            struct.pack("!BH", _STRING, len(value_bytes)),
            value_bytes,
        )
    )


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
