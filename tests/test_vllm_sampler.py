"""The vLLM sampler with a scripted vLLM: what it is given, and what is made of its answers.

The script draws with transformers from the weights it was handed, read back from the adapter's
folder, and tells log-probabilities that are off by a known amount. No vLLM and no GPU is needed.
"""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel

from steps import moved_policy, row_logprobs
from toy import run_to_end, toy_run
from tunestone.config import TrainConfig, resolve
from tunestone.core import prepare as prepare_module
from tunestone.core.learner import Group, Learner
from tunestone.core.model import Policy, load_base
from tunestone.core.sampler import Sampler, SamplingParams
from tunestone.core.vllm_sampler import VllmSampler, import_vllm, truncated
from tunestone.errors import ConfigError, WorldError
from tunestone.runlog import read_lines

PROMPTS = [[60, 61, 62], [60, 61, 70, 71]]
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
WARM = SamplingParams(max_tokens=6, temperature=0.7)


class ScriptedLLM:
    """Stands for vllm.LLM: draws with our own sampler, from a copy of the weights."""

    def __init__(self, **settings):
        self.settings = settings
        self.base = load_base(settings["model"])
        self.off = 0.0
        """Added to the log-probabilities it tells."""
        self.reason = None
        """Told for every completion instead of the true one."""
        self.asked = []
        self.adapters = []
        self.resets = 0

    def generate(self, prompts, sampling_params, *, use_tqdm, lora_request):
        self.asked += sampling_params
        base = load_base(self.settings["model"])
        network = self.base.network
        if lora_request is not None:
            self.adapters.append(lora_request)
            network = PeftModel.from_pretrained(base.network, lora_request.path).merge_and_unload()
        return [
            self._answer(Sampler(network, base), prompt["prompt_token_ids"], wanted)
            for prompt, wanted in zip(prompts, sampling_params, strict=True)
        ]

    def apply_model(self, change):
        def load_weights(pairs):  # like vLLM's, without the head that is tied to the embeddings
            found = self.base.network.load_state_dict(dict(pairs), strict=False)
            assert (found.missing_keys, found.unexpected_keys) == (["lm_head.weight"], [])

        change(SimpleNamespace(load_weights=load_weights))

    def reset_prefix_cache(self):
        self.resets += 1

    def _answer(self, sampler, prompt_T, wanted):
        params = SamplingParams(
            max_tokens=wanted.max_tokens,
            temperature=wanted.temperature,
            stop=tuple(wanted.stop or ()),
        )
        (completions_G,) = sampler.sample([prompt_T], wanted.n, params, seed=(wanted.seed,))
        return SimpleNamespace(outputs=[self._output(completion) for completion in completions_G])

    def _output(self, completion):
        pairs = zip(completion.tokens, completion.logprobs, strict=True)
        return SimpleNamespace(
            token_ids=list(completion.tokens),
            logprobs=[{t: SimpleNamespace(logprob=x + self.off)} for t, x in pairs],
            finish_reason=self.reason or completion.finish_reason,
        )


def scripted_vllm(llm=ScriptedLLM):
    """Stands for the module."""

    def request(name, number, path):
        return SimpleNamespace(name=name, number=number, path=path)

    return SimpleNamespace(
        LLM=llm,
        SamplingParams=lambda **wanted: SimpleNamespace(**wanted),
        lora=SimpleNamespace(request=SimpleNamespace(LoRARequest=request)),
    )


def make_sampler(policy, *, uses_tree=True) -> tuple[VllmSampler, ScriptedLLM]:
    sampler = VllmSampler(policy, scripted_vllm(), longest=64, uses_tree=uses_tree)
    return sampler, sampler._engine


def train_one_step(policy, groups_P) -> None:
    config = TrainConfig(learning_rate=1e-2)
    groups = [
        Group(prompt, completions, [1.0, -1.0])
        for prompt, completions in zip(PROMPTS, groups_P, strict=True)
    ]
    Learner(policy, config).update(groups, learning_rate=1e-2)


# --- what vLLM is given ----------------------------------------------------------------------


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_it_draws_from_the_policy_also_after_a_step(tiny_base, lora_rank):
    policy = moved_policy(tiny_base, lora_rank=lora_rank)
    sampler, _ = make_sampler(policy)
    before = sampler.sample(PROMPTS, 2, GREEDY)
    own = Sampler(tiny_base.network if lora_rank == 0 else policy.network, tiny_base)
    assert tokens_of(before) == tokens_of(own.sample(PROMPTS, 2, GREEDY))
    train_one_step(policy, sampler.sample(PROMPTS, 2, WARM))
    after = sampler.sample(PROMPTS, 2, GREEDY)
    assert tokens_of(after) == tokens_of(own.sample(PROMPTS, 2, GREEDY))
    assert tokens_of(after) != tokens_of(before)  # else the step would show nothing


def test_every_adapter_has_a_name_of_its_own_and_the_last_is_kept(tiny_base):
    sampler, engine = make_sampler(moved_policy(tiny_base))
    for _ in range(2):
        sampler.sample(PROMPTS, 1, GREEDY)
    first, second = engine.adapters
    assert (first.name, first.number, second.name, second.number) == ("policy-1", 1, "policy-2", 2)
    assert not Path(first.path).exists()  # disk does not fill up over a run
    assert Path(second.path).is_dir()


def test_weights_in_memory_empty_the_prefix_cache(tiny_base):
    policy = moved_policy(tiny_base, lora_rank=0)
    sampler, engine = make_sampler(policy)
    sampler.sample(PROMPTS, 1, GREEDY)
    assert (engine.resets, engine.adapters) == (1, [])
    assert "enable_lora" not in engine.settings


@pytest.mark.parametrize(("rank", "size"), [(4, 8), (8, 8), (12, 16), (300, 320)])
def test_the_rank_is_one_that_vllm_knows(tiny_base, rank, size):
    _, engine = make_sampler(Policy(tiny_base, lora_rank=rank))
    assert engine.settings["max_lora_rank"] == size


def test_every_prompt_has_a_seed_that_repeats(tiny_base):
    sampler, engine = make_sampler(moved_policy(tiny_base))
    same = [PROMPTS[0], PROMPTS[0]]
    once, again = (sampler.sample(same, 2, WARM, seed=(7, 3)) for _ in range(2))
    sampler.sample(same, 2, WARM, seed=(7, 4))
    seeds = [wanted.seed for wanted in engine.asked]
    assert once == again
    assert seeds[:2] == seeds[2:4]
    assert len(set(seeds)) == 4


def test_end_tokens_and_stop_strings_are_handed_on(tiny_base):
    sampler, engine = make_sampler(moved_policy(tiny_base))
    sampler.sample(PROMPTS, 1, SamplingParams(max_tokens=4, stop=("ab",)))
    (wanted, _) = engine.asked
    assert wanted.stop_token_ids == sorted(tiny_base.end_tokens)
    assert (wanted.stop, wanted.detokenize, wanted.ignore_eos) == (["ab"], True, False)


# --- what is made of its answers -------------------------------------------------------------


def tokens_of(groups):
    return [[completion.tokens for completion in group] for group in groups]


@pytest.mark.parametrize("uses_tree", [True, False])
def test_entropies_and_log_probabilities_are_those_of_the_policy(tiny_base, uses_tree):
    policy = moved_policy(tiny_base)
    sampler, _ = make_sampler(policy, uses_tree=uses_tree)
    groups = sampler.sample(PROMPTS, 3, WARM, seed=(1,))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for completion in group:
            plain = row_logprobs(policy.network, prompt, completion.tokens, WARM.temperature)
            assert completion.logprobs == pytest.approx([x.item() for x in plain], abs=1e-4)
            assert completion.entropies == pytest.approx(
                entropies(policy.network, prompt, completion.tokens, WARM.temperature), abs=1e-4
            )


def entropies(network, prompt, tokens, temperature):
    logits = network(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0] / temperature
    logprobs = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return (-(logprobs.exp() * logprobs).sum(dim=-1)).tolist()


def test_many_tokens_are_scored_in_parts(tiny_base, monkeypatch):
    sampler, _ = make_sampler(moved_policy(tiny_base))
    whole = sampler.sample(PROMPTS, 3, WARM, seed=(1,))
    monkeypatch.setattr("tunestone.core.vllm_sampler._SCORED_AT_ONCE", 7)
    monkeypatch.setattr("tunestone.core.vllm_sampler._CHUNK", 2)
    for one, other in zip(whole, sampler.sample(PROMPTS, 3, WARM, seed=(1,)), strict=True):
        for left, right in zip(one, other, strict=True):
            assert left.tokens == right.tokens
            assert left.logprobs == pytest.approx(right.logprobs, abs=1e-5)
            assert left.entropies == pytest.approx(right.entropies, abs=1e-5)


def test_the_first_ratio_is_the_importance_weight_up_to_the_cap():
    # ours - drawn: 0.3 stays; log 8 is cut to log 2; a token vLLM found likelier keeps its own.
    drawn, ours = [-1.0, -3.0, -0.5], [-0.7, -3.0 + math.log(8), -0.9]
    kept = truncated(drawn, ours)
    ratios = [math.exp(x - y) for x, y in zip(ours, kept, strict=True)]
    assert ratios == pytest.approx([math.exp(0.3), 2.0, math.exp(-0.4)])


def test_the_mismatch_shows_in_the_metrics(tiny_base):
    policy = moved_policy(tiny_base)
    sampler, engine = make_sampler(policy)
    engine.off = -0.1
    groups = sampler.sample(PROMPTS, 2, WARM)
    groups_P = [Group(p, g, [1.0, -1.0]) for p, g in zip(PROMPTS, groups, strict=True)]
    metrics = Learner(policy, TrainConfig(temperature=0.7)).update(groups_P, learning_rate=1e-4)
    # Every token's ratio begins at e^0.1: (e^0.1 - 1) - 0.1 = 0.00517 nats each.
    assert metrics["kl_sampling"] == pytest.approx(math.expm1(0.1) - 0.1, rel=1e-2)


def test_greedy_keeps_the_policys_own_log_probabilities(tiny_base):
    policy = moved_policy(tiny_base)
    sampler, engine = make_sampler(policy)
    engine.off = -0.5
    ((completion,), _) = sampler.sample(PROMPTS, 1, GREEDY)
    plain = row_logprobs(policy.network, PROMPTS[0], completion.tokens, 1.0)
    assert completion.logprobs == pytest.approx([x.item() for x in plain], abs=1e-4)


def test_a_stop_string_ends_the_text_before_it(tiny_base):
    policy = moved_policy(tiny_base)
    sampler, _ = make_sampler(policy)
    ((plain,), _) = sampler.sample(PROMPTS, 1, GREEDY)
    stop = plain.text[3]
    params = SamplingParams(max_tokens=12, temperature=0.0, stop=(stop,))
    ((completion,), _) = sampler.sample(PROMPTS, 1, params)
    assert completion.text == plain.text[: plain.text.index(stop)]
    assert completion.finish_reason == "stop"


def test_a_completion_that_vllm_gave_up_is_an_error(tiny_base):
    sampler, engine = make_sampler(moved_policy(tiny_base))
    engine.reason = "abort"
    with pytest.raises(WorldError, match="vLLM ended a completion with 'abort'"):
        sampler.sample(PROMPTS, 1, GREEDY)


def test_a_run_that_asks_for_vllm_trains_with_it(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(prepare_module, "import_vllm", scripted_vllm)
    run = toy_run(tmp_path, tiny_folder, max_steps=2, sampler="vllm")
    report = run_to_end(run)
    assert report["steps"] == 2
    # The script reads back what the policy is: only rounding is left between the two.
    assert all(record["kl_sampling"] < 1e-6 for record in read_lines(run.metrics))


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=4, top_k=5),
        SamplingParams(max_tokens=4, top_p=0.9),
        SamplingParams(max_tokens=4, grammar={"type": "json_object"}),
    ],
)
def test_what_vllm_would_draw_otherwise_is_refused(tiny_base, params):
    sampler, _ = make_sampler(moved_policy(tiny_base))
    with pytest.raises(ConfigError, match="draws from the whole distribution"):
        sampler.sample(PROMPTS, 1, params)


def test_a_model_that_vllm_cannot_serve_names_the_way_out(tiny_base):
    def fails(**settings):
        raise ValueError("Free memory on device cuda:0 is less than desired")

    with pytest.raises(ConfigError, match="Free memory on device") as caught:
        VllmSampler(
            Policy(tiny_base, lora_rank=4), scripted_vllm(fails), longest=64, uses_tree=True
        )
    assert 'sampler = "shared"' in caught.value.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused():
    with pytest.raises(ConfigError, match="needs a GPU"):
        import_vllm()


def test_without_vllm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'tunestone\[gpu\]'"):
        import_vllm()


@pytest.mark.parametrize(
    "setting", ["top_k=5", "top_p=0.9", 'response_format={type="json_object"}']
)
def test_impossible_settings_are_refused_at_submission(setting):
    with pytest.raises(ConfigError, match="draws from the whole distribution"):
        resolve(assignments=["sampler=vllm", setting])
