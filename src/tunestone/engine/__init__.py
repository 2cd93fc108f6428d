"""The process that answers: base, tuned and checkpoint models, for all dialects.

Requests join and leave between tokens; one copy of a base serves all adapters on it, in the same
forward. From the wire inwards: `server_loop` (lines), `scheduler` (who, when), `shelf` (which
models are in memory), `decoder` (one forward), `cache` (keys and values), `adapters` (LoRA per
token), `drawing` (logits to tokens), `answer` and `text` (tokens to what may be shown).

What we left out: paged memory, shared prefixes between requests, speculative decoding, quantised
weights. Bigger servers have them (vLLM, SGLang); this one is to be read.
"""
