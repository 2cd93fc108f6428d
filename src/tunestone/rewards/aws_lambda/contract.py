"""What a Bedrock reward function is sent and what it answers; no wire and no processes in here.

The event is a JSON array with one object per sample: `id`, `messages` (the prompt's turns, then the
sampled text as the last `assistant` turn), `metadata`, and `reference_answer` both at the top level
and under `metadata`, because AWS's guides and AWS's sample handlers disagree about its place.

    metadata    every other key of the data row, and `tools` when the row has them; not `messages`
                and not the row's `id`, which are above it already. A row that has an object named
                `metadata` of its own, as AWS's Codeforces notebook writes it, finds its keys here
                too; the row's other keys win
    id          `<id of the row>:<k>` for the k-th completion of that row in this call: a row has
                several completions, and a handler's results are told apart by their ids alone

The answer is a JSON array of `{"id", "aggregate_reward_score", "metrics_list"?}`, in any order;
other keys are let be. A metric of type `Reward` becomes the series `reward/NAME`, one of type
`Metric` (or of no type) becomes `NAME`; a metric that is not one is left out and the grade carries
the warning flag `other_error`. A score that is a string, a boolean, null or NaN is an error of its
sample: the service takes numbers, and a reward that only works here is worth nothing. For the same
reason `{"statusCode", "body"}`, the habit of web handlers, is not unpacked.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestone.rewards.spec import failed
from tunestone.types import Grade, GradeFlag, Sample

_SHOWN = 3
"""How many stray results an error names; the rest are counted."""


class ResponseError(ValueError):
    """An answer, or one result of it, that cannot be read. The message says what it is."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reward function's answer says about the samples it was asked for."""

    grades: list[Grade]
    """One per id that was asked for, in that order."""
    strays: tuple[str, ...] = ()
    """Results that belong to no sample: unknown ids, none at all, no objects. They are named in the
    error of every sample that has no result, and spoil no sample that has one."""
    missing: int = 0
    """How many samples have no result."""

    def warn_of_strays(self) -> None:
        """Warn of results too many, when no sample lacks one in whose error they are named."""
        if self.strays and not self.missing:
            warnings.warn(
                f"the reward answered for {len(self.grades)} samples and more: "
                f"{_list_strays(self.strays)}",
                RuntimeWarning,
                stacklevel=2,
            )


def name_samples(samples: Sequence[Sample]) -> list[str]:
    """An id for each sample, unique among them: `<id of the prompt>:<which completion of it>`."""
    seen: Counter[str] = Counter()
    names = []
    for sample in samples:
        names.append(f"{sample.prompt.id}:{seen[sample.prompt.id]}")
        seen[sample.prompt.id] += 1
    return names


def build_event(
    samples: Sequence[Sample], ids: Sequence[str], *, wrap_reference_answer: bool = False
) -> list[dict[str, Any]]:
    """The event: one object per sample, in order. It shares the rows' values; do not change them.

    `wrap_reference_answer` makes a string at the top level into `{"text": string}`, as AWS's sample
    for open-weight models reads it; the one under `metadata` stays as the row has it.
    """
    return [
        _build_item(sample, key, wrap_reference_answer)
        for sample, key in zip(samples, ids, strict=True)
    ]


def _build_item(sample: Sample, key: str, wrap: bool) -> dict[str, Any]:
    prompt = sample.prompt
    nested = prompt.row.get("metadata")
    metadata = {**(nested if isinstance(nested, Mapping) else {}), **prompt.row}
    if prompt.tools:
        metadata["tools"] = [dict(tool) for tool in prompt.tools]
    messages = [dict(message) for message in prompt.messages]
    messages.append({"role": "assistant", "content": sample.text})
    item = {"id": key, "messages": messages, "metadata": metadata}
    if "reference_answer" in prompt.row:
        answer = prompt.row["reference_answer"]
        item["reference_answer"] = {"text": answer} if wrap and isinstance(answer, str) else answer
    return item


def parse_response(value: Any, ids: Sequence[str]) -> Reading:
    """Read a Lambda's answer (decoded JSON) to an event with these ids.

    Raises ResponseError when the answer as a whole is none: an error payload, or not an array.
    """
    if isinstance(value, Mapping) and "errorMessage" in value:
        raise ResponseError(describe_error_payload(value))
    return read_results(value, ids, _read_result)


def describe_error_payload(payload: Mapping[str, Any]) -> str:
    """Lambda's report of an exception (`errorMessage`, `errorType`, `stackTrace`) for people."""
    reason = str(payload.get("errorMessage") or "no message")
    if payload.get("errorType"):
        reason = f"{payload['errorType']}: {reason}"
    trace = payload.get("stackTrace")
    if not isinstance(trace, list) or not trace:
        return reason
    frames = "\n".join(str(frame).rstrip("\n") for frame in trace)
    return f"Traceback (most recent call last):\n{frames}\n{reason}"


def read_results(
    results: Any, ids: Sequence[str], read: Callable[[Mapping[str, Any]], Grade]
) -> Reading:
    """Match an array of results to the ids asked for; `read` makes a grade of one result.

    A missing or twice-given id, and a result on which `read` raises ResponseError, is an error of
    its sample that names the id. Raises ResponseError when `results` is not an array.
    """
    if not isinstance(results, list):
        raise ResponseError(
            f"the answer is {describe_json(results)}; expected an array with one result per sample"
        )
    found: dict[str, list[Mapping[str, Any]]] = {key: [] for key in ids}
    strays = []
    for place, result in enumerate(results):
        key = result.get("id") if isinstance(result, Mapping) else None
        if isinstance(key, str) and key in found:
            found[key].append(result)
        else:
            strays.append(_describe_stray(result, place))
    return Reading(
        [_read_one(key, found[key], strays, read) for key in ids],
        strays=tuple(strays),
        missing=sum(not given for given in found.values()),
    )


def _read_one(
    key: str,
    results: Sequence[Mapping[str, Any]],
    strays: Sequence[str],
    read: Callable[[Mapping[str, Any]], Grade],
) -> Grade:
    if not results:
        instead = f"; in its place: {_list_strays(strays)}" if strays else ""
        return failed(f"the answer has no result for the id {key!r}{instead}", "other_error")
    if len(results) > 1:
        return failed(f"the answer has {len(results)} results for the id {key!r}", "other_error")
    try:
        return read(results[0])
    except ResponseError as error:
        return failed(f"the result for the id {key!r}: {error}", "other_error")


def _list_strays(strays: Sequence[str]) -> str:
    """The first few by name, the others as a number."""
    more = len(strays) - _SHOWN
    return ", ".join(strays[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _describe_stray(result: Any, place: int) -> str:
    if not isinstance(result, Mapping):
        return f"result {place} is {describe_json(result)}"
    if "id" not in result:
        return f"result {place} has no id"
    return f"unknown id {result['id']!r}"


def _read_result(result: Mapping[str, Any]) -> Grade:
    if "aggregate_reward_score" not in result:
        raise ResponseError(f"no aggregate_reward_score, only {', '.join(map(str, result))}")
    reward = read_number(result["aggregate_reward_score"], "aggregate_reward_score")
    items = result.get("metrics_list") or []
    if not isinstance(items, list):
        items = [items]
    metrics, flags = collect_metrics(_name_metric(item) for item in items)
    return Grade(reward=reward, metrics=metrics, flags=flags)


def _name_metric(item: Any) -> tuple[Any, Any]:
    """(name of the series, value) of one item of `metrics_list`; (None, None) when it is none."""
    if not isinstance(item, Mapping):
        return None, None
    name = item.get("name", item.get("metric"))  # the second in one of AWS's published handlers
    kind = item.get("type", "Metric")
    if not isinstance(name, str) or kind not in ("Reward", "Metric"):
        return None, None
    return f"reward/{name}" if kind == "Reward" else name, item.get("value")


def collect_metrics(
    pairs: Iterable[tuple[Any, Any]],
) -> tuple[dict[str, float], tuple[GradeFlag, ...]]:
    """Named numbers, and a warning flag when a pair is none: a bad sub-score costs no reward."""
    metrics: dict[str, float] = {}
    flags: tuple[GradeFlag, ...] = ()
    for name, value in pairs:
        number = _as_number(value)
        if isinstance(name, str) and name and number is not None:
            metrics[name] = number
        else:
            flags = ("other_error",)
    return metrics, flags


def read_number(value: Any, what: str) -> float:
    """A finite JSON number as a float. Raises ResponseError: `what` must be one, got ..."""
    number = _as_number(value)
    if number is None:
        raise ResponseError(f"{what} must be a finite number, got {describe_json(value)}")
    return number


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def describe_json(value: Any) -> str:
    """What kind of JSON value it is, with its content when that is short."""
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in list(value)[:8])
        return f"an object with {keys}" if keys else "an empty object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return f"the string {value[:60]!r}" + ("..." if len(value) > 60 else "")
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    return f"the number {value}" if isinstance(value, float) else "a number too large"
