"""Which entries of the journal are no longer needed: objects that were overwritten or deleted.

One walk from the newest entry to the oldest, with the set of keys whose earlier content nobody will
see; then one walk forward that drops deletions of what no kept entry makes. A copy needs its
source as it was, so that key is taken out of the set again. Buckets that ever had versions, and
everything that is not about objects (IAM, bucket settings), are kept whole: they are small.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree

from tunestone.api.local_aws.journal import Entry

Key = tuple[str, str]
"""(bucket, key)."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What an entry does to objects; `keys` is empty when it is about something else."""

    keys: tuple[Key, ...] = ()
    kind: str = ""
    """`put`, `delete`, `detail` (tags and the like), `begin`, `part`, `complete`, `abort`."""
    upload: str = ""
    source: Key | None = None
    """What a copy reads."""


@dataclass(slots=True)
class _Past:
    """What is known of the entries after the one we are at."""

    gone: set[Key] = field(default_factory=set)
    """Keys whose earlier content is replaced or deleted later."""
    ended: set[str] = field(default_factory=set)
    """Uploads that came to nothing that is still there."""


def compact(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that still matter, in order: replaying them gives the same objects."""
    versioned = {_bucket(entry) for entry in entries if _is_versioning(entry)}
    past = _Past()
    kept: list[tuple[Entry, _Change]] = []
    for entry in reversed(entries):
        change = _Change() if _bucket(entry) in versioned else _read(entry)
        if _still_matters(change, past):
            kept.append((entry, change))
    return _without_idle_deletions(reversed(kept))


def _still_matters(change: _Change, past: _Past) -> bool:
    if change.upload and change.kind != "complete":
        if change.kind == "abort":
            past.ended.add(change.upload)
        matters = change.upload not in past.ended
    elif change.kind == "delete":
        matters = not set(change.keys) <= past.gone
        past.gone.update(change.keys)
    elif change.keys:
        matters = change.keys[0] not in past.gone
        if change.kind != "detail":
            past.gone.update(change.keys)
        if not matters and change.upload:
            past.ended.add(change.upload)
    else:
        return True
    if matters and change.source is not None:
        past.gone.discard(change.source)
    return matters


def _without_idle_deletions(pairs: Iterable[tuple[Entry, _Change]]) -> list[Entry]:
    there: set[Key] = set()
    kept = []
    for entry, change in pairs:
        if change.kind == "delete":
            if there.isdisjoint(change.keys):
                continue
            there.difference_update(change.keys)
        else:
            there.update(change.keys)
        kept.append(entry)
    return kept


def _read(entry: Entry) -> _Change:
    headers = {name.lower(): value for name, value in entry.headers}
    if "/s3/aws4_request" not in headers.get("authorization", ""):
        return _Change()
    query = _query(entry)
    bucket, key = _place(entry)
    if not key:
        return _read_bulk(entry, bucket) if "delete" in query else _Change()
    keys = ((bucket, key),)
    source = _source(headers.get("x-amz-copy-source", ""))
    upload = (query.get("uploadId") or [entry.upload_id])[0]
    if upload:
        kinds = {"PUT": "part", "DELETE": "abort", "POST": "complete"}
        kind = "begin" if "uploads" in query else kinds[entry.method]
        return _Change(keys, kind, upload=upload, source=source)
    if query.keys() - {"x-id"}:
        return _Change(keys, "detail")
    return _Change(keys, "delete" if entry.method == "DELETE" else "put", source=source)


def _read_bulk(entry: Entry, bucket: str) -> _Change:
    """A deletion of many keys; one whose list cannot be read here is kept as it is."""
    try:
        elements = ElementTree.fromstring(entry.body).iter()
    except ElementTree.ParseError:
        return _Change()
    found = [element.text or "" for element in elements if element.tag.endswith("Key")]
    return _Change(tuple((bucket, key) for key in found), "delete")


def _source(header: str) -> Key | None:
    if not header:
        return None
    bucket, _, key = unquote(header.partition("?")[0]).lstrip("/").partition("/")
    return bucket, key


def _bucket(entry: Entry) -> str:
    return _place(entry)[0]


def _place(entry: Entry) -> Key:
    bucket, _, key = unquote(entry.target.partition("?")[0]).removeprefix("/").partition("/")
    return bucket, key


def _is_versioning(entry: Entry) -> bool:
    headers = {name.lower() for name, _ in entry.headers}
    return "versioning" in _query(entry) or "x-amz-bucket-object-lock-enabled" in headers


def _query(entry: Entry) -> dict[str, list[str]]:
    return parse_qs(entry.target.partition("?")[2], keep_blank_values=True)
