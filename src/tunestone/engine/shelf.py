"""The models in memory: a few bases, and small adapters on them; the longest unused make room.

Bases are loaded in a thread, so that those being asked go on answering. What is in use is never
put away: a base that finds no place waits, and the scheduler lets nobody overtake it.
"""

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tunestone.core.grammar import Grammars
from tunestone.core.model import BaseModel, load_base
from tunestone.core.prepare import choose_sampler
from tunestone.engine.adapters import Adapter, read_adapter
from tunestone.engine.decoder import Decoder, PackedDecoder, PlainDecoder
from tunestone.engine.text import TokenBytes, hidden_tokens
from tunestone.errors import ModelError
from tunestone.generation import ModelRef
from tunestone.types import Prompt

_log = logging.getLogger("tunestone.engine")
_POSITIONS = 32_768  # of models that name no limit
_HELLO = Prompt(id="hello", messages=({"role": "user", "content": "Hello"},))


class NoPlaceError(Exception):
    """All adapters in memory are in use; the question has to wait."""


@dataclass(slots=True, eq=False)
class Loaded:
    """A base in memory, with everything that is made once for it."""

    source: str
    base: BaseModel
    decoder: Decoder
    grammars: Grammars
    token_bytes: TokenBytes
    hidden: frozenset[int]
    positions: int
    """Longest text, prompt and answer together."""
    longest_token: int
    """Characters of the longest in the vocabulary."""
    bytes_per_token: int
    """Of keys and values, all layers."""
    users: int = 0
    """Questions that are being answered."""


@dataclass(slots=True, eq=False)
class _Held:
    adapter: Adapter
    version: int
    users: int = 0


class Shelf:
    """At most `models` bases and `adapters` adapters; `on_arrival` is called from the thread."""

    def __init__(
        self, *, models: int, adapters: int, on_arrival: Callable[[], None] = lambda: None
    ) -> None:
        self._most_models = models
        self._most_adapters = adapters
        self._on_arrival = on_arrival
        self._bases: dict[str, Loaded] = {}  # the longest unused first
        self._adapters: dict[tuple[str, str], _Held] = {}
        self._loading: set[str] = set()
        self._arrivals: SimpleQueue[tuple[str, Loaded | Exception]] = SimpleQueue()

    @property
    def bases(self) -> list[Loaded]:
        """All bases in memory."""
        return list(self._bases.values())

    @property
    def adapters(self) -> list[str]:
        """Folders of all adapters in memory."""
        return [held.adapter.folder for held in self._adapters.values()]

    def find(self, source: str) -> Loaded | None:
        """The base, if it is in memory."""
        loaded = self._bases.pop(source, None)
        if loaded is not None:
            self._bases[source] = loaded
        return loaded

    def order(self, source: str) -> bool:
        """Have a base loaded; False when nothing can make room for it now."""
        if source in self._loading:
            return True
        if len(self._bases) + len(self._loading) >= self._most_models:
            idle = next((s for s, loaded in self._bases.items() if not loaded.users), None)
            if idle is None:
                return False
            self._put_away(idle)
        self._loading.add(source)
        threading.Thread(target=self._load, args=(source,), daemon=True).start()
        return True

    def arrivals(self) -> list[tuple[str, Exception | None]]:
        """Bases whose loading ended since the last call, with what went wrong."""
        news: list[tuple[str, Exception | None]] = []
        while not self._arrivals.empty():
            source, result = self._arrivals.get()
            self._loading.discard(source)
            if isinstance(result, Loaded):
                self._bases[source] = result
            news.append((source, result if isinstance(result, Exception) else None))
        return news

    def take(self, loaded: Loaded, model: ModelRef) -> Adapter | None:
        """Mark base and adapter as used, until `give_back`. The adapter is read if it is new.

        Raises ModelError for a broken adapter, NoPlaceError when all adapters are in use.
        """
        adapter = None
        if model.adapter:
            held = self._hold(loaded, model.adapter)
            held.users += 1
            adapter = held.adapter
        loaded.users += 1
        return adapter

    def give_back(self, loaded: Loaded, adapter: Adapter | None) -> None:
        """The end of a use."""
        loaded.users -= 1
        for held in self._adapters.values():
            if held.adapter is adapter:
                held.users -= 1

    def _hold(self, loaded: Loaded, folder: str) -> _Held:
        key = (loaded.source, folder)
        version = _version(Path(folder))
        held = self._adapters.pop(key, None)
        if held is not None and (held.version == version or held.users):
            self._adapters[key] = held
            return held
        if len(self._adapters) >= self._most_adapters:
            idle = next((k for k, other in self._adapters.items() if not other.users), None)
            if idle is None:
                raise NoPlaceError
            del self._adapters[idle]
        adapter = read_adapter(Path(folder), loaded.base.network)
        held = self._adapters[key] = _Held(adapter, version)
        return held

    def _put_away(self, source: str) -> None:
        del self._bases[source]
        self._adapters = {k: held for k, held in self._adapters.items() if k[0] != source}
        gc.collect()  # hooks and layers refer to each other; their memory is wanted now
        _log.info("%s was put away", source)

    def _load(self, source: str) -> None:
        try:
            result: Loaded | Exception = open_base(source)
        except Exception as error:  # noqa: BLE001 - it is raised again where the question is
            result = error
        self._arrivals.put((source, result))
        self._on_arrival()


def open_base(source: str) -> Loaded:
    """Load a base and choose how to run it. Raises ModelError or DownloadError."""
    base = load_base(source)
    base.network.requires_grad_(False).eval()
    settings = base.network.config
    positions = getattr(settings, "max_position_embeddings", None) or _POSITIONS
    _, why = choose_sampler(base, base.network, base.encode(_HELLO), longest=positions)
    if why:
        _log.info("%s answers question by question, which is slower: %s", source, why)
    vocabulary = base.network.get_output_embeddings().weight.shape[0]
    return Loaded(
        source=source,
        base=base,
        decoder=PlainDecoder(base) if why else PackedDecoder(base),
        grammars=Grammars(base.tokenizer, vocabulary=vocabulary, end_tokens=base.end_tokens),
        token_bytes=TokenBytes(base.tokenizer),
        hidden=hidden_tokens(base.tokenizer),
        positions=positions,
        longest_token=max(map(len, base.tokenizer.get_vocab())),
        bytes_per_token=_bytes_per_token(base),
    )


def _bytes_per_token(base: BaseModel) -> int:
    """Memory of a token's keys and values in all layers."""
    settings = base.network.config.get_text_config()
    heads = settings.num_attention_heads
    width = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    kv_heads = getattr(settings, "num_key_value_heads", None) or heads
    size = next(base.network.parameters()).element_size()
    return int(2 * settings.num_hidden_layers * kv_heads * width * size)


def _version(folder: Path) -> int:
    """Changes when an adapter is written anew. Raises ModelError when there is none."""
    try:
        return (folder / "adapter_model.safetensors").stat().st_mtime_ns
    except OSError:
        raise ModelError(
            f"There is no adapter in {folder}.", remedy="Check that the model still exists."
        ) from None
