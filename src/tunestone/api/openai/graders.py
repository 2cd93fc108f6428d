"""Graders over the API: which are taken, what they become here, and `alpha/graders`.

A grader that comes over the wire must not name what is on this machine: no paths, no environment
variables, no addresses to call. So only OpenAI's types, Lambda functions by ARN and the ready
graders are taken, and of these no field that does so. A model grader asks this server itself when
it knows the model, else the endpoint of the server's own OPENAI_BASE_URL and OPENAI_API_KEY.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, get_args

from anyio import CapacityLimiter, to_thread
from starlette.responses import JSONResponse, Response

from tunestone.api.access.keys import OWN_KEY
from tunestone.api.http import Call, Route
from tunestone.api.inference.targets import resolve_target
from tunestone.api.openai.bodies import parse, read_object
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.schemas import RunGrader, ValidateGrader
from tunestone.api.services import Services
from tunestone.errors import RewardError, TunestoneError
from tunestone.rewards.grader import parse_spec
from tunestone.rewards.spec import Context, Spec
from tunestone.types import Grade, GradeFlag, Prompt, Sample

COMBINING = ("multi", "weighted")
ASKING = ("score_model", "label_model", "judge")
"""Types that ask a model."""
READY = (
    "number",
    "math",
    "choice",
    "json",
    "code",
    "sql",
    "regex",
    "format_tags",
    "length",
    "repetition",
    "reasoning_gym",
)
"""Ours, beyond OpenAI's."""
TYPES = ("string_check", "text_similarity", "python", *COMBINING, *ASKING, "lambda", *READY)
"""Types that are taken; `label_model` only inside another."""
_LAMBDA_FIELDS = frozenset(
    {
        "type",
        "name",
        "lambda",
        "function",
        "batch_size",
        "concurrency",
        "timeout_seconds",
        "wrap_reference_answer",
    }
)
_REFUSED_FIELDS = {"sql": ("database",), **dict.fromkeys(ASKING, ("endpoint",))}
_MOST = {"timeout_seconds": 900, "test_seconds": 120, "memory_mib": 10_240, "concurrency": 64}
"""Largest values over the API; beyond them one grader could keep the machine from all others."""
_GRADER = "method.reinforcement.grader"
_LIMITER = CapacityLimiter(8)
"""Graders at work at once: one may take minutes, and threads are needed to answer others too."""
_PATIENCE_SECONDS = 900.0
"""How long a trainer waits for this server, its judge, when that was killed or is restarted."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a grader becomes here."""

    spec: dict[str, Any]
    """A reward spec as plain data."""
    notes: tuple[str, ...]
    """What a client should be told of it."""


async def validate(call: Call) -> Response:
    """`POST /fine_tuning/alpha/graders/validate`: opens the grader, which runs a Python source."""
    body = parse(await read_object(call.request), ValidateGrader)
    address = own_address(call)

    def check() -> None:
        reward = read_reward(call.services, body.grader, address, param="grader")
        _with_grader(call.services, reward, lambda grade: None)

    await to_thread.run_sync(check, limiter=_LIMITER)
    return JSONResponse({"grader": body.grader})


async def run(call: Call) -> Response:
    """`POST /fine_tuning/alpha/graders/run`: one grade, with everything that can be said of it."""
    body = parse(await read_object(call.request), RunGrader)
    address = own_address(call)

    def grade() -> dict[str, Any]:
        reward = read_reward(call.services, body.grader, address, param="grader")
        sample = _to_sample(body)
        found = _with_grader(call.services, reward, lambda grade: grade(sample))
        return render_run(body.grader, found)

    return JSONResponse(await to_thread.run_sync(grade, limiter=_LIMITER))


def read_reward(
    services: Services, grader: Mapping[str, Any], address: str, *, param: str = _GRADER
) -> Reward:
    """Check a grader and make it a reward spec. `address` is this server's own, for judges.

    Raises OpenAIError for what is refused or malformed.
    """
    try:
        if grader.get("type") == "label_model":
            raise RewardError(
                "a label_model grader stands only inside a multi grader.",
                remedy="Put it under `graders` of a multi.",
            )
        notes: list[str] = []
        spec = _localize(services, dict(grader), address, notes)
        _refuse_excess(parse_spec(spec))
    except RewardError as error:
        raise OpenAIError(
            400, f"Invalid grader: {error}", param=param, code="invalid_grader"
        ) from None
    return Reward(spec, tuple(dict.fromkeys(notes)))


def own_address(call: Call) -> str:
    """Where this server is reached from this machine: by the socket, not by what a header says."""
    host, port = call.request.scope["server"]
    scheme = "https" if call.services.settings.tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}/v1" if ":" in host else f"{scheme}://{host}:{port}/v1"


def render_run(grader: Mapping[str, Any], grade: Grade) -> dict[str, Any]:
    """The answer of `alpha/graders/run`. A grade that failed is 0 with its flags, as OpenAI's."""
    tokens = {name: _render_tokens(counts) for name, counts in grade.tokens.items()}
    parts = grader.get("graders", {})
    names = [parts.get("name", "")] if isinstance(parts.get("type"), str) else list(parts)
    return {
        "reward": 0.0 if grade.reward is None else grade.reward,
        "sub_rewards": {name: grade.metrics[name] for name in names if name in grade.metrics},
        "model_grader_token_usage_per_model": tokens,
        "metadata": {
            "name": grader.get("name", ""),
            "type": grader["type"],
            "execution_time": grade.seconds,
            "scores": dict(grade.metrics),
            "token_usage": sum(count["total_tokens"] for count in tokens.values()) or None,
            "sampled_model_name": None,
            "errors": _render_errors(grade),
        },
    }


def _render_errors(grade: Grade) -> dict[str, Any]:
    errors: dict[str, Any] = {flag: flag in grade.flags for flag in get_args(GradeFlag)}
    details = {
        "model_grader_server_error_details": "model_grader_server_error",
        "python_grader_runtime_error_details": "python_grader_runtime_error",
        "python_grader_server_error_type": "python_grader_server_error",
    }
    for name, flag in details.items():
        errors[name] = grade.error if errors[flag] else None
    # Not at OpenAI: the reason of the other kinds of error, which have no member of their own.
    return {**errors, "error_details": grade.error}


def _render_tokens(counts: Mapping[str, int]) -> dict[str, int]:
    prompt, completion = counts.get("prompt", 0), counts.get("completion", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cached_tokens": counts.get("cached", 0),
    }


def _with_grader(
    services: Services, reward: Reward, use: Callable[[Callable[[Sample], Grade]], Any]
) -> Any:
    """Open the grader for the time of one use."""
    context = Context(folder=services.folder, sandbox=services.settings.sandbox)
    with ExitStack() as stack:
        try:
            grader = parse_spec(reward.spec).open(context, stack)
        except RewardError as error:
            raise OpenAIError(
                400, f"Invalid grader: {error}", param="grader", code="invalid_grader"
            ) from None
        return use(lambda sample: grader.grade([sample])[0])


def _to_sample(body: RunGrader) -> Sample:
    row = dict(body.item)
    if body.reference_answer is not None:
        row.setdefault("reference_answer", body.reference_answer)
    turns, tools = row.pop("messages", None), row.pop("tools", None)
    prompt = Prompt(
        id=str(row.pop("id", "item")),
        messages=tuple(turn for turn in turns or () if isinstance(turn, dict)),
        row=row,
        tools=tuple(tool for tool in tools or () if isinstance(tool, dict)),
    )
    return Sample(prompt, body.model_sample)


def _localize(
    services: Services, grader: dict[str, Any], address: str, notes: list[str]
) -> dict[str, Any]:
    """The grader as it works here. Raises RewardError for what may not come over the wire."""
    kind = grader.get("type")
    if kind not in TYPES:
        raise RewardError(
            f"there is no grader of type {kind!r} over this API.",
            remedy=f"There are: {', '.join(TYPES)}.",
        )
    for name in _REFUSED_FIELDS.get(kind, ()):
        if name in grader:
            raise RewardError(
                f"{kind}: `{name}` cannot be set over the API; the server decides it.",
                remedy="Remove it.",
            )
    if kind == "lambda":
        return _find_function(services, grader)
    if kind in ASKING:
        return _aim(services, grader, address, notes)
    if kind in COMBINING and isinstance(grader.get("graders"), dict):
        return {**grader, "graders": _localize_parts(services, grader["graders"], address, notes)}
    return grader


def _refuse_excess(spec: Spec) -> None:
    for name, most in _MOST.items():
        value = getattr(spec, name, 0)
        if value > most:
            kind = getattr(spec, "type", "")
            raise RewardError(
                f"{kind}: `{name}` is {value}; over the API it is at most {most}.",
                remedy="Set it lower.",
            )
    for part in getattr(spec, "graders", {}).values():
        _refuse_excess(part)


def _localize_parts(
    services: Services, parts: dict[str, Any], address: str, notes: list[str]
) -> dict[str, Any]:
    if isinstance(parts.get("type"), str):  # a lone grader in place of the map
        return _localize(services, parts, address, notes)
    return {
        name: _localize(services, part, address, notes) if isinstance(part, dict) else part
        for name, part in parts.items()
    }


def _find_function(services: Services, grader: dict[str, Any]) -> dict[str, Any]:
    """A Lambda by its ARN: with local AWS a function deployed here, else one on AWS."""
    from tunestone.api.local_aws.rewards import reward_for_arn

    refused = sorted(set(grader) - _LAMBDA_FIELDS)
    if refused:
        raise RewardError(
            f"lambda: `{refused[0]}` cannot be set over the API.",
            remedy='Write {"type": "lambda", "lambda": {"function": ARN}}.',
        )
    plain = parse_spec(grader).model_dump(exclude_unset=True)
    arn = str(plain.pop("function"))
    # AWS's sample for open-weight models reads a string reference answer as {"text": ...}.
    wrap = plain.pop("wrap_reference_answer", True)
    return {**reward_for_arn(services, arn, wrap_reference_answer=wrap), **plain}


def _aim(
    services: Services, grader: dict[str, Any], address: str, notes: list[str]
) -> dict[str, Any]:
    """A model grader with the endpoint where its model is."""
    name = grader.get("model")
    if not isinstance(name, str):
        return grader
    elsewhere = os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")
    is_tuned = name.startswith(("ft:", "arn:"))
    if elsewhere and not is_tuned and name not in services.settings.base_models:
        return grader
    try:
        target = resolve_target(services, name)
    except TunestoneError as error:
        raise RewardError(f"{grader['type']}: {error.message}", remedy=error.remedy) from error
    if target.note:
        notes.append(f"Grader: {target.note}")
    key = {"api_key_env": OWN_KEY} if OWN_KEY in os.environ else {}
    place = {"base_url": address, "patience_seconds": _PATIENCE_SECONDS, **key}
    return {**grader, "endpoint": place}


ROUTES = (
    Route(
        "openai",
        "fine_tuning.alpha.graders.validate",
        "POST",
        "/fine_tuning/alpha/graders/validate",
        validate,
        "write",
        ValidateGrader,
    ),
    Route(
        "openai",
        "fine_tuning.alpha.graders.run",
        "POST",
        "/fine_tuning/alpha/graders/run",
        run,
        "write",
        RunGrader,
    ),
)
