"""Who is answered when: questions join and leave between any two tokens.

Each step takes in what fits (rows and memory of keys and values, reserved for the longest answer,
so nothing that began must ever be thrown out), and then advances every base that has work by one
forward: a piece of the prompts that are being read, and a token of every answer. Waiting questions
are served in their order; only those whose base is just being loaded, or whose grammar is being
compiled, are overtaken.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tunestone.core.grammar import Grammars, Matcher
from tunestone.engine.adapters import Adapter
from tunestone.engine.answer import Answer
from tunestone.engine.cache import room_for
from tunestone.engine.checks import check_request, longest_answer
from tunestone.engine.decoder import Piece, Reading
from tunestone.engine.drawing import TokenChooser, draw, show_chances
from tunestone.engine.prompts import Encoded, encode_request
from tunestone.engine.shelf import Loaded, NoPlaceError, Shelf
from tunestone.engine.text import TextStream
from tunestone.errors import RequestError, TunestoneError
from tunestone.generation import (
    Failed,
    GenerationEvent,
    GenerationRequest,
    Started,
    TokenLogprob,
)

_log = logging.getLogger("tunestone.engine")
_PROMPT_TOKENS_PER_STEP = 256  # longer prompts are read in pieces, so that answers flow on
_RATE_SECONDS = 10.0
_COMPILERS = 4


@dataclass(slots=True, eq=False)
class _Question:
    """A request that is being answered."""

    request: GenerationRequest
    loaded: Loaded
    adapter: Adapter | None
    reading: Reading
    answers: list[Answer]
    max_tokens: int
    reserved_bytes: int
    thinking: bool
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)

    @property
    def echoes(self) -> bool:
        """Whether log-probabilities of the prompt are wanted."""
        return self.request.echo and self.request.logprobs is not None


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits; `prompt` and `matchers` once its base was there to make them."""

    request: GenerationRequest
    prompt: Encoded | None = None
    matchers: "Future[list[Matcher]] | None" = None
    """One for each answer, where they are held to a grammar."""


class Scheduler:
    """Everything between a request and its events; knows no pipes. Not to be shared by threads."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        rows: int,
        cache_bytes: int,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` is called from a thread when there may be work again: a grammar is compiled."""
        self._shelf = shelf
        self._wake = wake
        self._compiling = ThreadPoolExecutor(_COMPILERS, thread_name_prefix="grammars")
        self._most_rows = rows
        self._most_bytes = cache_bytes
        self._waiting: list[_Waiting] = []
        self._questions: list[_Question] = []
        self._rows = 0
        self._bytes = 0
        self._drawn = 0
        self._read = 0
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def has_work(self) -> bool:
        """Whether a step would do something now; questions that wait for a load are no work."""
        return bool(self._questions)

    def submit(self, request: GenerationRequest) -> list[GenerationEvent]:
        """Take a request in; what is wrong with it whatever the model is told at once."""
        try:
            check_request(request, most_rows=self._most_rows)
        except RequestError as error:
            return [_failed(request, error)]
        self._waiting.append(_Waiting(request))
        return []

    def cancel(self, request_id: str) -> None:
        """Nobody waits for the answers any more."""
        for waiting in self._waiting:
            if waiting.request.id == request_id and waiting.matchers is not None:
                waiting.matchers.cancel()
        self._waiting = [w for w in self._waiting if w.request.id != request_id]
        for question in [q for q in self._questions if q.request.id == request_id]:
            self._leave(question)

    def step(self) -> list[GenerationEvent]:
        """Take in what fits, then one forward per base that has work."""
        events = self._fail_unloadable()
        events += self._admit()
        by_base: dict[str, list[_Question]] = {}
        for question in self._questions:
            by_base.setdefault(question.loaded.source, []).append(question)
        for questions in by_base.values():
            try:
                events += self._advance(questions[0].loaded, questions)
            except Exception as error:  # noqa: BLE001 - the batch is lost, the engine is not
                events += self._lose(questions, error)
        return events

    def _lose(self, questions: list[_Question], error: Exception) -> list[GenerationEvent]:
        loaded = questions[0].loaded
        _log.error("A forward of %s failed", loaded.source, exc_info=error)
        loaded.decoder.reset()
        lost = [question for question in self._questions if question in questions]
        for question in lost:
            for answer in question.answers:
                answer.row = None
            self._leave(question)
        return [_failed(question.request, error) for question in lost]

    def stats(self) -> dict[str, object]:
        """What the engine is doing."""
        now = time.monotonic()
        self._forget_before(now - _RATE_SECONDS)
        return {
            "models": [loaded.source for loaded in self._shelf.bases],
            "adapters": self._shelf.adapters,
            "rows": self._rows,
            "running": len(self._questions),
            "waiting": len(self._waiting),
            "tokens_drawn": self._drawn,
            "prompt_tokens_read": self._read,
            "tokens_per_second": sum(n for _, n in self._recent) / _RATE_SECONDS,
            "cache_bytes": self._bytes,
            "cache_bytes_limit": self._most_bytes,
        }

    # --- who comes in ---------------------------------------------------------------------

    def _fail_unloadable(self) -> list[GenerationEvent]:
        events: list[GenerationEvent] = []
        for source, error in self._shelf.arrivals():
            if error is None:
                _log.info("%s is in memory", source)
                continue
            bug = None if isinstance(error, TunestoneError) else error
            _log.warning("%s could not be loaded: %s", source, error, exc_info=bug)
            lost = [w for w in self._waiting if w.request.model.source == source]
            events += [_failed(w.request, error) for w in lost]
            self._waiting = [w for w in self._waiting if w not in lost]
        return events

    def _admit(self) -> list[GenerationEvent]:
        events: list[GenerationEvent] = []
        left: list[_Waiting] = []
        for i, waiting in enumerate(self._waiting):
            source = waiting.request.model.source
            loaded = self._shelf.find(source)
            if loaded is None:
                left.append(waiting)
                if self._shelf.order(source):
                    continue
                left += self._waiting[i + 1 :]
                break
            if not self._has_matchers(waiting, loaded):
                left.append(waiting)
                continue
            try:
                if not self._begin(waiting, loaded):
                    left += self._waiting[i:]
                    break
            except Exception as error:  # noqa: BLE001 - a bad request, or a bug it met: it alone fails
                if not isinstance(error, TunestoneError):
                    _log.exception("A request could not be begun")
                events.append(_failed(waiting.request, error))
        self._waiting = left
        return events

    def _has_matchers(self, waiting: _Waiting, loaded: Loaded) -> bool:
        """Whether its grammar is compiled, or there is none; if not, a thread begins with it."""
        request = waiting.request
        if request.grammar is None:
            return True
        if waiting.matchers is None:
            waiting.matchers = self._compiling.submit(_make_matchers, loaded.grammars, request)
            waiting.matchers.add_done_callback(lambda made: self._wake())
        return waiting.matchers.done()

    def _begin(self, waiting: _Waiting, loaded: Loaded) -> bool:
        """Let a question in; False when it has to wait. Raises RequestError."""
        request = waiting.request
        prompt = waiting.prompt = waiting.prompt or encode_request(
            loaded.base.tokenizer,
            request,
            positions=loaded.positions,
            longest_token=loaded.longest_token,
        )
        tokens = prompt.tokens
        most = longest_answer(request, len(tokens), loaded, self._most_bytes)
        room = len(tokens) + request.n * room_for(len(tokens) + most)
        needed = room * loaded.bytes_per_token
        if self._rows + request.n > self._most_rows or self._bytes + needed > self._most_bytes:
            return False
        matchers = waiting.matchers.result() if waiting.matchers else [None] * request.n
        try:
            adapter = self._shelf.take(loaded, request.model)
        except NoPlaceError:
            return False
        reading = loaded.decoder.open(tokens, adapter, request.n)
        answers = [
            Answer(
                request,
                index,
                chooser=TokenChooser(request, index, matcher),
                stream=TextStream(loaded.base.tokenizer, loaded.hidden),
                end_tokens=loaded.base.end_tokens,
                max_tokens=most,
            )
            for index, matcher in enumerate(matchers)
        ]
        self._questions.append(
            _Question(request, loaded, adapter, reading, answers, most, needed, prompt.thinking)
        )
        self._rows += request.n
        self._bytes += needed
        return True

    def _leave(self, question: _Question) -> None:
        for answer in question.answers:
            self._drop_row(question, answer)
        self._questions.remove(question)
        self._shelf.give_back(question.loaded, question.adapter)
        self._rows -= len(question.answers)
        self._bytes -= question.reserved_bytes

    # --- one forward ----------------------------------------------------------------------

    def _advance(self, loaded: Loaded, questions: list[_Question]) -> list[GenerationEvent]:
        reading = self._next_pieces(loaded, questions)
        going = [(q, a) for q in questions for a in q.answers if a.row is not None]
        of_pieces, of_rows = loaded.decoder.forward(
            [piece for _, piece in reading],
            [answer.row for _, answer in going if answer.row is not None],
            [answer.tokens[-1] for _, answer in going],
        )
        events: list[GenerationEvent] = []
        logits = [of_rows] if going else []
        for (question, piece), logits_CV in zip(reading, of_pieces, strict=True):
            self._read += piece.count
            if question.echoes:
                _add_prompt_logprobs(question, piece, logits_CV)
            if question.reading.is_complete:
                events += self._start(question)
                new = [answer for answer in question.answers if answer.row is not None]
                going += [(question, answer) for answer in new]
                logits += [logits_CV[-1:].expand(len(new), -1)] if new else []
        if going:
            events += self._draw(loaded, going, torch.cat(logits))
        return events

    def _next_pieces(
        self, loaded: Loaded, questions: Iterable[_Question]
    ) -> list[tuple[_Question, Piece]]:
        """What to read of prompts in this step: at most some tokens, those of the first first."""
        pieces: list[tuple[_Question, Piece]] = []
        left = _PROMPT_TOKENS_PER_STEP
        for question in questions:
            missing = len(question.reading.tokens) - question.reading.read
            if loaded.decoder.reads_whole:
                count = missing if left > 0 else 0
            else:
                count = min(missing, left)
            if count:
                pieces.append((question, Piece(question.reading, count, question.echoes)))
                left -= count
        return pieces

    def _start(self, question: _Question) -> list[GenerationEvent]:
        """The prompt was read: its answers get their rows."""
        request, reading = question.request, question.reading
        events: list[GenerationEvent] = [
            Started(
                request.id,
                len(reading.tokens),
                tuple(question.prompt_logprobs),
                thinking=question.thinking,
            )
        ]
        if question.max_tokens == 0:
            for answer in question.answers:
                events += answer.end_at_once()
            self._leave(question)
            return events
        for index, answer in enumerate(question.answers):
            answer.row = question.loaded.decoder.start(reading, index)
        return events

    def _draw(
        self, loaded: Loaded, going: list[tuple[_Question, Answer]], logits_BV: Tensor
    ) -> list[GenerationEvent]:
        tokens_B = draw(logits_BV, [answer.chooser for _, answer in going])
        events: list[GenerationEvent] = []
        for b, (question, answer) in enumerate(going):
            logprob = None
            if question.request.logprobs is not None:
                logprob = show_chances(
                    logits_BV[b : b + 1],
                    tokens_B[b : b + 1],
                    top=question.request.logprobs,
                    of=loaded.token_bytes,
                )[0]
            if question not in self._questions:
                continue  # another of its answers failed
            events += answer.take(tokens_B[b], logprob)
            if answer.chooser.error is not None:
                events.append(_failed(question.request, answer.chooser.error))
                self._leave(question)
            elif answer.ended:
                self._drop_row(question, answer)
                if all(other.ended for other in question.answers):
                    self._leave(question)
        self._drawn += len(tokens_B)
        self._forget_before(time.monotonic() - _RATE_SECONDS)
        self._recent.append((time.monotonic(), len(tokens_B)))
        return events

    def _drop_row(self, question: _Question, answer: Answer) -> None:
        if answer.row is not None:
            question.loaded.decoder.drop(answer.row)
            answer.row = None

    def _forget_before(self, moment: float) -> None:
        while self._recent and self._recent[0][0] < moment:
            self._recent.popleft()


def _make_matchers(grammars: Grammars, request: GenerationRequest) -> list[Matcher]:
    grammar = request.grammar or {}
    return [grammars.matcher(grammar) for _ in range(request.n)]


def _add_prompt_logprobs(question: _Question, piece: Piece, logits_CV: Tensor) -> None:
    """Logits of a piece tell how likely the tokens after each of its own were."""
    tokens = question.reading.tokens
    first = question.reading.read - piece.count + 1
    following = tokens[first : first + piece.count]
    if not question.prompt_logprobs:
        question.prompt_logprobs.append(None)
    if following:
        question.prompt_logprobs += show_chances(
            logits_CV[: len(following)],
            following,
            top=question.request.logprobs or 0,
            of=question.loaded.token_bytes,
        )


def _failed(request: GenerationRequest, error: Exception) -> Failed:
    if isinstance(error, TunestoneError):
        return Failed(request.id, error.code, str(error))
    return Failed(request.id, "internal_error", f"{type(error).__name__}: {error}")
