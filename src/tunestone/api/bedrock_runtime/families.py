"""The bodies of InvokeModel, by the family of the model that is asked.

Nova's is Converse's but for `schemaVersion` and the place of `topK` and `reasoningConfig`; OpenAI's
is that of our own `/v1/chat/completions`, read and answered by the same code.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from tunestone.api.bedrock.errors import ValidationException
from tunestone.api.bedrock_runtime.asking import Asking
from tunestone.api.bedrock_runtime.blocks import content_blocks, stop_reason, usage
from tunestone.api.bedrock_runtime.converse_stream import converse_events
from tunestone.api.bedrock_runtime.dialogue import check_members, to_request
from tunestone.api.inference.answers import Answers, Part
from tunestone.api.openai.chat import ChatChunks, chat_head, render_chat
from tunestone.api.openai.chat_body import ChatBody, chat_request
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.wording import parse_question
from tunestone.generation import GenerationRequest

Json = dict[str, Any]

_NOVA_EXTRAS = ("topK", "reasoningConfig")
"""Members of Nova's `inferenceConfig` that Converse has among the additional fields."""


class Question(Protocol):
    """What InvokeModel needs of a family."""

    given: Json
    """The body as it came."""
    request: GenerationRequest
    """What the engine is asked."""

    def render(self, answers: Answers) -> Json:
        """The body of the answer."""
        ...

    def chunks(self, parts: AsyncGenerator[Part, None]) -> AsyncGenerator[Json, None]:
        """The family's chunks of a stream."""
        ...


class NovaQuestion:
    """Nova's messages, version 1."""

    def __init__(self, given: Json, request: GenerationRequest) -> None:
        self.given = given
        self.request = request

    def render(self, answers: Answers) -> Json:
        """See Question."""
        (answer,) = answers.answers
        content = content_blocks(answer, self.request.id)
        cache = {"cacheReadInputTokenCount": 0, "cacheWriteInputTokenCount": 0}
        return {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": stop_reason(self.request, answer),
            "usage": {**usage(answers.prompt_tokens, answers.tokens), **cache},
            "metrics": {},
        }

    async def chunks(self, parts: AsyncGenerator[Part, None]) -> AsyncGenerator[Json, None]:
        """See Question. Each is one event of ConverseStream under its name."""

        async def finish(answers: Answers) -> Json:
            return self.render(answers)

        async with aclosing(converse_events(self.request.id, parts, finish)) as events:
            async for kind, content in events:
                yield {kind: content}


class ChatQuestion:
    """OpenAI's chat completions."""

    def __init__(self, asking: Asking, given: Json, body: ChatBody) -> None:
        """Raises OpenAIError for a body that cannot be answered."""
        self.given = given
        self.request = chat_request(body, asking.target, f"chatcmpl-{asking.request_id}")
        self._body = body
        self._head = chat_head(body, asking.target, self.request.id)

    def render(self, answers: Answers) -> Json:
        """See Question."""
        return render_chat(self._body, self._head, answers)

    async def chunks(self, parts: AsyncGenerator[Part, None]) -> AsyncGenerator[Json, None]:
        """See Question."""
        chunks = ChatChunks(self._body, {**self._head, "object": "chat.completion.chunk"})
        async with aclosing(chunks.chunks(parts)) as written:
            async for chunk in written:
                yield chunk


def read_nova(asking: Asking, given: Json) -> NovaQuestion:
    """Raises ValidationException for a body that is not Nova's."""
    body = dict(given)
    version = body.pop("schemaVersion", "messages-v1")
    if version != "messages-v1":
        raise ValidationException(
            "Malformed input request: #/schemaVersion: only messages-v1 is known here."
        )
    config, further = body.get("inferenceConfig", {}), {}
    if isinstance(config, dict):
        further = {name: config[name] for name in _NOVA_EXTRAS if name in config}
        config = {name: value for name, value in config.items() if name not in further}
    if "reasoningConfig" in body:
        further["reasoningConfig"] = body.pop("reasoningConfig")
    unknown = set(body) - {"system", "messages", "inferenceConfig", "toolConfig"}
    if unknown:
        raise ValidationException(
            f"Malformed input request: #: extraneous key [{min(unknown)}] is not permitted, please "
            "reformat your input and try again."
        )
    body |= {"inferenceConfig": config, "additionalModelRequestFields": further}
    return NovaQuestion(given, to_request(asking, check_members("Converse", body)))


def read_chat(asking: Asking, given: Json) -> ChatQuestion:
    """Raises ValidationException for a body that is none of chat completions."""
    value = {key: one for key, one in given.items() if key not in ("model", "stream")}
    try:
        body = parse_question({**value, "model": asking.model_id}, ChatBody, unknown="argument")
        return ChatQuestion(asking, given, body)
    except OpenAIError as error:
        raise ValidationException(
            f"Malformed input request: {error.message} The body of this model is that of OpenAI's "
            "chat completions."
        ) from error
