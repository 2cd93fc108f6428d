"""Sampling with shared prefixes against transformers' `generate` and against plain rows."""

import dataclasses

import pytest
import torch

from steps import moved_policy, row_logprobs
from tiny import write_tiny_model
from tunestone.core import sampler as sampler_module
from tunestone.core.model import fast_view, load_base
from tunestone.core.sampler import Sampler, SamplingParams

TRUNK = list(range(30, 50))
PROMPTS = {
    "shared trunk, unequal lengths": [[*TRUNK, 1], [*TRUNK, 2, 3, 4], [*TRUNK, 5, 6]],
    "nothing shared": [[1, 2, 3], [60], [7, 8, 9, 10, 11, 12]],
    "one is the beginning of another": [[*TRUNK, 9], TRUNK, [*TRUNK, 9, 8]],
    "one is the beginning, another shares nothing": [[4, 5, 6], [4, 5], [200, 201]],
    "a single one": [TRUNK],
    "the same twice": [TRUNK, [9, 9], TRUNK],
}
each_set = pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
NEVER = 10_000
WARM = SamplingParams(max_tokens=24, temperature=0.8)


def greedy(max_tokens, stop=()):
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, stop=stop)


def tokens_of(groups):
    return [[completion.tokens for completion in group] for group in groups]


def generated(base, prompt, max_tokens):
    """What transformers draws greedily after one prompt, the end token included."""
    output = base.network.generate(
        torch.tensor([prompt]),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=sorted(base.end_tokens),
        pad_token_id=base.pad_token,
    )
    return tuple(output[0, len(prompt) :].tolist())


def with_ends(base, *tokens):
    """The model as if these were its end tokens; `NEVER` for none that it could draw."""
    return dataclasses.replace(base, end_tokens=frozenset(tokens))


# --- greedy equals generate -----------------------------------------------------------------


@each_set
@pytest.mark.parametrize("group_size", [1, 3])
def test_greedy_tokens_equal_generate(tiny_base, prompts, group_size):
    # 40 tokens: the cache of answers grows twice, from 16 to 32 to 64.
    groups = Sampler(tiny_base.network, tiny_base).sample(prompts, group_size, greedy(40))
    for prompt, group in zip(prompts, groups, strict=True):
        expected = generated(tiny_base, prompt, 40)
        assert len(set(expected)) > 4  # a model that repeats itself would prove little
        assert [completion.tokens for completion in group] == [expected] * group_size


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_greedy_tokens_equal_generate_for_all_models_and_their_views(tmp_path, architecture):
    base = load_base(str(write_tiny_model(tmp_path, architecture=architecture)))
    prompts = PROMPTS["one is the beginning, another shares nothing"]
    expected = [[generated(base, prompt, 20)] * 2 for prompt in prompts]
    for network in (base.network, fast_view(base.network)[0]):
        assert tokens_of(Sampler(network, base).sample(prompts, 2, greedy(20))) == expected


@each_set
def test_rows_that_end_leave_and_the_others_go_on(tiny_base, prompts):
    # Take as end tokens what some rows draw at different times.
    free = [generated(with_ends(tiny_base, NEVER), prompt, 30) for prompt in prompts]
    base = with_ends(tiny_base, free[0][4], free[-1][11])
    expected = [generated(base, prompt, 30) for prompt in prompts]
    groups = Sampler(base.network, base).sample(prompts, 2, greedy(30))
    assert tokens_of(groups) == [[tokens] * 2 for tokens in expected]
    assert len({len(tokens) for tokens in expected}) == len({tuple(p) for p in prompts})
    for group, tokens in zip(groups, expected, strict=True):
        reason = "stop" if tokens[-1] in base.end_tokens else "length"
        assert [completion.finish_reason for completion in group] == [reason] * 2
        assert len(tokens) == 30 or reason == "stop"


def test_a_row_may_end_with_its_first_token_and_with_its_last(tiny_base):
    prompts = PROMPTS["shared trunk, unequal lengths"]
    free = [generated(with_ends(tiny_base, NEVER), prompt, 20) for prompt in prompts]
    first = free[0][0]
    assert first not in free[1]
    last = next(t for t in range(4, 20) if free[1][t] not in free[1][:t])
    base = with_ends(tiny_base, first, free[1][last])
    groups = Sampler(base.network, base).sample(prompts, 1, greedy(last + 1))
    assert tokens_of(groups) == [[generated(base, prompt, last + 1)] for prompt in prompts]
    assert tokens_of(groups)[:2] == [[(first,)], [free[1][: last + 1]]]
    assert [group[0].finish_reason for group in groups[:2]] == ["stop", "stop"]


def test_one_token_at_most(tiny_base):
    prompts = PROMPTS["nothing shared"]
    groups = Sampler(tiny_base.network, tiny_base).sample(prompts, 2, greedy(1))
    assert tokens_of(groups) == [[generated(tiny_base, prompt, 1)] * 2 for prompt in prompts]
    assert {c.finish_reason for group in groups for c in group} == {"length"}


# --- the numbers that are kept --------------------------------------------------------------


@each_set
def test_kept_logprobs_and_entropies_are_those_of_plain_rows(tiny_base, prompts):
    policy = moved_policy(tiny_base)
    groups = Sampler(policy.view, tiny_base).sample(prompts, 3, WARM, seed=(1,))
    for prompt, group in zip(prompts, groups, strict=True):
        for answer in group:
            with torch.no_grad():  # under the network that is trained, not the merged view
                tokens = torch.tensor([[*prompt, *answer.tokens]])
                logits = policy.network(input_ids=tokens).logits[0] / WARM.temperature
                drawn = row_logprobs(policy.network, prompt, answer.tokens, WARM.temperature)
            assert answer.logprobs == pytest.approx([float(x) for x in drawn], abs=1e-4)
            probabilities_TV = logits[len(prompt) - 1 : -1].softmax(dim=-1).double()
            entropies_T = -(probabilities_TV * probabilities_TV.log()).sum(dim=-1)
            assert answer.entropies == pytest.approx(entropies_T.tolist(), abs=1e-4)
            assert len(answer.logprobs) == len(answer.entropies) == len(answer.tokens)


def test_greedy_keeps_the_logprobs_of_temperature_one(tiny_base):
    answer = Sampler(tiny_base.network, tiny_base).sample([TRUNK], 1, greedy(8))[0][0]
    with torch.no_grad():
        expected = row_logprobs(tiny_base.network, TRUNK, answer.tokens, 1.0)
    assert answer.logprobs == pytest.approx([float(x) for x in expected], abs=1e-4)


# --- randomness -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_completions(tiny_base):
    prompts = PROMPTS["shared trunk, unequal lengths"]
    sampler = Sampler(tiny_base.network, tiny_base)
    first = sampler.sample(prompts, 3, WARM, seed=(4, 2))
    torch.manual_seed(99)  # the process's own random state has no part in it
    assert sampler.sample(prompts, 3, WARM, seed=(4, 2)) == first
    others = tokens_of(sampler.sample(prompts, 3, WARM, seed=(4, 3)))
    assert all(a != b for a, b in zip(tokens_of(first), others, strict=True))
    assert all(len(set(group)) == 3 for group in tokens_of(first))


def test_a_prompt_draws_the_same_in_other_company(tiny_base):
    sampler = Sampler(tiny_base.network, tiny_base)
    for company in PROMPTS.values():
        together = sampler.sample([[3, 4, 5], *company], 2, WARM, seed=(7,))[0]
        alone = sampler.sample([[3, 4, 5]], 2, WARM, seed=(7,))[0]
        assert [c.tokens for c in together] == [c.tokens for c in alone]


@pytest.mark.parametrize("at_once", [1, 4, 7])
def test_completions_do_not_depend_on_how_many_rows_run_at_once(tiny_base, monkeypatch, at_once):
    prompts = [p for some in PROMPTS.values() for p in some]
    sampler = Sampler(tiny_base.network, tiny_base)
    whole = sampler.sample(prompts, 2, WARM, seed=(5,))
    monkeypatch.setattr(sampler_module, "_ROWS_AT_ONCE", at_once)
    assert tokens_of(sampler.sample(prompts, 2, WARM, seed=(5,))) == tokens_of(whole)


def test_completions_do_not_depend_on_when_others_leave(tiny_base):
    prompts = PROMPTS["one is the beginning of another"]
    endless = with_ends(tiny_base, NEVER)
    free = tokens_of(Sampler(tiny_base.network, endless).sample(prompts, 4, WARM, seed=(8,)))
    ends = {free[0][0][3], free[1][2][7], free[2][1][12]}
    base = with_ends(tiny_base, *ends)
    found = tokens_of(Sampler(tiny_base.network, base).sample(prompts, 4, WARM, seed=(8,)))
    for group, free_group in zip(found, free, strict=True):
        for tokens, free_tokens in zip(group, free_group, strict=True):
            stops = [t for t, token in enumerate(free_tokens) if token in ends]
            assert tokens == free_tokens[: stops[0] + 1 if stops else None]
    assert len({len(tokens) for group in found for tokens in group}) >= 4


def test_more_rows_than_run_at_once(tiny_base):
    # 130 x 2 = 260 rows need two rounds of at most 256; 300 rows of one prompt stay together.
    prompts = [[*TRUNK, p] for p in range(130)]
    assert len(prompts) * 2 > sampler_module._ROWS_AT_ONCE
    sampler = Sampler(tiny_base.network, tiny_base)
    groups = sampler.sample(prompts, 2, greedy(3))
    assert [len(group) for group in groups] == [2] * 130
    for p in (0, 127, 128, 129):
        assert tokens_of(groups)[p] == [generated(tiny_base, prompts[p], 3)] * 2
    assert [len(group) for group in sampler.sample([TRUNK], 300, greedy(2))] == [300]


# --- stop strings ---------------------------------------------------------------------------


class ScriptedTokenizer:
    """Decodes each token to given bytes, all others to `x`: so we know what was written."""

    def __init__(self, script):
        self._script = script

    def decode(self, tokens, **_):
        written = b"".join(self._script.get(token, b"x") for token in tokens)
        return written.decode("utf-8", errors="replace")

    def batch_decode(self, rows, **_):
        return [self.decode(row) for row in rows]


def scripted(base, *pieces):
    """The model whose greedy answer to TRUNK is written `pieces`, then a lot of `x`."""
    tokens = generated(with_ends(base, NEVER), TRUNK, 20)
    script = dict(zip(tokens, pieces, strict=False))
    assert len(set(tokens[: len(pieces)])) == len(pieces)
    return dataclasses.replace(base, tokenizer=ScriptedTokenizer(script)), tokens


@pytest.mark.parametrize(
    ("stop", "count", "text"),
    [
        (("c",), 3, "ab"),
        (("bc",), 3, "a"),  # over two tokens
        (("bcde",), 4, "a"),  # begins and ends inside a token
        (("d",), 4, "abc"),  # the rest of the token is dropped from the text, not from the row
        (("zzz", "e"), 4, "abcd"),
        (("e", "b"), 2, "a"),
    ],
)
def test_a_stop_string_ends_the_row_and_is_cut_from_the_text(tiny_base, stop, count, text):
    base, tokens = scripted(tiny_base, b"a", b"b", b"c", b"def")
    answer = Sampler(base.network, base).sample([TRUNK], 1, greedy(8, stop))[0][0]
    assert answer.tokens == tokens[:count]
    assert len(answer.logprobs) == count
    assert answer.text == text
    assert answer.finish_reason == "stop"


def test_without_its_stop_string_a_row_goes_on(tiny_base):
    base, tokens = scripted(tiny_base, b"a", b"b", b"c")
    answer = Sampler(base.network, base).sample([TRUNK], 1, greedy(6, ("ac", "cb")))[0][0]
    assert answer.tokens == tokens[:6]
    assert answer.text.startswith("abc")
    assert answer.finish_reason == "length"


def test_only_the_row_with_the_stop_string_ends(tiny_base):
    base, _ = scripted(tiny_base, b"a", b"b", b"STOP")
    prompts = [[1, 2, 3], TRUNK]
    groups = Sampler(base.network, base).sample(prompts, 2, greedy(9, ("STOP",)))
    free = generated(tiny_base, [1, 2, 3], 9)
    assert [c.tokens for c in groups[0]] == [free] * 2
    assert [c.text for c in groups[1]] == ["ab"] * 2
    assert [len(c.tokens) for c in groups[1]] == [3, 3]


def test_a_stop_character_of_several_tokens_ends_the_row(tiny_base):
    # The euro sign is three bytes, E2 82 AC, and so three tokens of a byte-level tokenizer.
    base, tokens = scripted(tiny_base, b"a", b"\xe2", b"\x82", b"\xac", b"b")
    answer = Sampler(base.network, base).sample([TRUNK], 1, greedy(8, ("€",)))[0][0]
    assert answer.text == "a"
    assert answer.tokens == tokens[:4]
    assert answer.finish_reason == "stop"


def test_text_leaves_special_tokens_out(tiny_base):
    # At temperature 2 the end token comes about once in 264 draws, so in some of 100 answers.
    end = tiny_base.tokenizer.eos_token_id
    assert tiny_base.end_tokens == {end}
    hot = SamplingParams(max_tokens=24, temperature=2.0)
    drawn = Sampler(tiny_base.network, tiny_base).sample([TRUNK], 100, hot, seed=(3,))[0]
    ended = [answer for answer in drawn if answer.finish_reason == "stop"]
    assert ended
    for answer in ended:
        assert answer.tokens[-1] == end
        assert answer.tokens.count(end) == 1
        assert "<|end|>" not in answer.text
        assert "<|end|>" in tiny_base.tokenizer.decode(answer.tokens)
