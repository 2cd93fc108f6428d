"""An engine that answers from a script, behind the same one-method protocol as the real one."""

from collections.abc import AsyncIterator, Callable

from tunestone.generation import Delta, Ended, GenerationEvent, GenerationRequest, Started

Script = Callable[[GenerationRequest], str]


class ScriptedEngine:
    """Answers each request with what `script` says, a word at a time; remembers what was asked."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.asked: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        self.asked.append(request)
        yield Started(request.id, prompt_tokens=7)
        for index in range(request.n):
            words = self._script(request).split(" ")
            shown = words if request.max_tokens is None else words[: request.max_tokens]
            for i, word in enumerate(shown):
                yield Delta(request.id, index, word if i == 0 else f" {word}", tokens=1)
            cut = len(shown) < len(words)
            yield Ended(request.id, index, "length" if cut else "stop", tokens=len(shown))
