"""One GPU: ours against TRL, each with its own sampler and with vLLM.

    python benchmarks/gpu.py [--models 0.5B 1.5B] [--sides ours 'TRL, generate'] [--steps 5]
    python benchmarks/gpu.py --cpu-smoke      the same code with a tiny model on the CPU: no figures

Needs torch, transformers and peft, and no network. The 0.5B and 1.5B models are Llamas of Qwen2.5's
sizes with random weights, made on the spot; the embedded model takes part where it is in the cache.
Every side of every model runs in a process of its own, so what one takes or breaks does not touch
the next; what is not installed is said in the table. All sides train LoRA of rank 16 on all linear
layers over bf16 weights, with 8 prompts x 8 completions of fixed lengths, no gradient
checkpointing; the first step is dropped. Prints a table and writes benchmarks/results/gpu.json.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
CACHE = os.environ.get("TUNESTONE_CACHE", Path.home() / ".cache" / "tunestone")
EMBEDDED = Path(CACHE) / "smollm2-135m"
LORA_RANK, LEARNING_RATE = 16, 1e-5
NEEDS = {
    "ours": (),
    "ours, vLLM": ("vllm",),
    "TRL, generate": ("trl",),
    "TRL, vLLM": ("trl", "vllm"),
}
SHAPES = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    | {"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    | {"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936},
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 264},
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts and completions of exactly so many tokens."""

    prompt_tokens: int
    completion_tokens: int
    prompts: int
    group: int

    @property
    def name(self) -> str:
        """As in the table."""
        return f"p{self.prompt_tokens} c{self.completion_tokens} g{self.group}"

    @property
    def completions(self) -> int:
        """Of one step."""
        return self.prompts * self.group


FULL = (Workload(64, 128, 8, 8), Workload(512, 128, 8, 8))
SMOKE = (Workload(12, 4, 2, 2),)
Step = dict[str, float]
"""Seconds by phase and in `total`; `tokens` that were generated, where it can be told."""


# --- the parent ------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure everything that is asked for, print the table, and return its rows."""
    options = _parse(arguments)
    if not torch.cuda.is_available() and not options.cpu_smoke:
        raise SystemExit("There is no CUDA device here: nothing was measured. See --cpu-smoke.")
    rows = []
    with tempfile.TemporaryDirectory(prefix="tunestone-gpu-") as folder:
        for model in ["tiny"] if options.cpu_smoke else options.models:
            path = _model_folder(model, Path(folder))
            for side in options.sides:
                for row in _measure(side, path, options):
                    rows.append({"model": model, "side": side, **row})
                    print(_line(rows[-1]), file=sys.stderr, flush=True)
    print(_table(rows))
    output = options.output or (None if options.cpu_smoke else RESULTS)
    if output:
        report = {"workloads": _pairs(rows), "measurements": rows, "machine": _machine()}
        output.write_text(json.dumps(report, indent=2) + "\n")
    return rows


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["0.5B", "1.5B", "embedded"]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--sides", nargs="+", choices=list(NEEDS), default=list(NEEDS))
    parser.add_argument("--steps", type=int, default=5, help="measured ones, after the first")
    parser.add_argument("--timeout", type=int, default=900, help="seconds a side may take")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--cpu-smoke", action="store_true")
    return parser.parse_args(arguments)


def _model_folder(model: str, scratch: Path) -> Path | None:
    """Where the model lies, made on the spot if need be; None: the embedded one is not here."""
    if model == "embedded":
        return EMBEDDED if (EMBEDDED / "config.json").is_file() else None
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    has_embedded = (EMBEDDED / "tokenizer.json").is_file() and model != "tiny"
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED) if has_embedded else _byte_tokenizer()
    config = LlamaConfig(
        **SHAPES[model],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = LlamaForCausalLM(config).to(torch.bfloat16)
    network.save_pretrained(scratch / model)
    tokenizer.save_pretrained(scratch / model)
    del network
    torch.cuda.empty_cache()
    return scratch / model


def _byte_tokenizer() -> Any:
    """One token per byte: any text can be encoded, and nothing has to be fetched."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )


def _measure(
    side: str, model: Path | None, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A row for each workload: figures, or `problem`, why there are none."""
    workloads = SMOKE if options.cpu_smoke else FULL
    missing = [name for name in NEEDS[side] if importlib.util.find_spec(name) is None]
    problem = "not in the cache" if model is None else ""
    if missing:
        problem = f"not installed: {', '.join(missing)}"
    for workload in workloads:
        if problem:
            yield {"workload": workload.name, "problem": problem}
            continue
        job = {"side": side, "model": str(model), "steps": options.steps, **asdict(workload)}
        yield {"workload": workload.name, **_in_child(job, options.timeout)}


def _in_child(job: dict[str, Any], timeout: int) -> dict[str, Any]:
    """What `--child` found out, or the problem that it had."""
    with tempfile.TemporaryDirectory(prefix="tunestone-gpu-side-") as folder:
        answer, log = Path(folder) / "answer.json", Path(folder) / "log.txt"
        command = [sys.executable, __file__, "--child", json.dumps({**job, "folder": folder})]
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "VLLM_DO_NOT_TRACK": "1",
        }
        with log.open("w") as file:
            try:
                subprocess.run(
                    command, stdout=file, stderr=file, env=environment, timeout=timeout, check=False
                )
            except subprocess.TimeoutExpired:
                return {"problem": f"not done after {timeout} s"}
        if answer.is_file():
            found: dict[str, Any] = json.loads(answer.read_text())
            return found
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return {"problem": f"failed: {lines[-1] if lines else 'without a word'}"[:300]}


# --- the child: one side, one workload -------------------------------------------------------


def child(job: dict[str, Any]) -> None:
    """Run the steps of one side and leave the answer in the job's folder."""
    names = {field.name for field in dataclasses.fields(Workload)}
    workload = Workload(**{name: job[name] for name in names})
    run = _run_trl if job["side"].startswith("TRL") else _run_ours
    steps = run(job, workload, with_vllm=job["side"].endswith("vLLM"))[1:]
    answer = json.dumps(_summary(steps, workload))
    (Path(job["folder"]) / "answer.json").write_text(answer)


def _run_ours(job: dict[str, Any], workload: Workload, *, with_vllm: bool) -> list[Step]:
    _stand_in_for_missing()
    sys.path.insert(0, str(ROOT / "src"))
    from tunestone.core.advantage import group_normalised
    from tunestone.core.learner import Group, Learner
    from tunestone.core.model import Policy, load_base
    from tunestone.core.sampler import SamplingParams

    base = load_base(job["model"])
    base = dataclasses.replace(base, end_tokens=frozenset())  # every completion gets its length
    policy = Policy(base, lora_rank=LORA_RANK)
    sampler = _our_sampler(policy, workload, with_vllm=with_vllm)
    learner = Learner(policy, _our_settings(workload))
    params = SamplingParams(max_tokens=workload.completion_tokens)
    texts = prompt_texts(base.tokenizer, workload, job["steps"] + 1)
    rows = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    steps = []
    _reset_peak()
    for step in range(job["steps"] + 1):
        seconds: Step = {}
        prompts = rows[step * workload.prompts : (step + 1) * workload.prompts]
        with _timed(seconds, "total"):
            with _timed(seconds, "sample"):
                groups = sampler.sample(prompts, workload.group, params, seed=(0, step))
            rewards_PG = torch.tensor([[reward(c.text) for c in group] for group in groups])
            advantages = group_normalised(rewards_PG).tolist()
            with _timed(seconds, "learn"):
                learner.update(
                    [Group(p, g, a) for p, g, a in zip(prompts, groups, advantages, strict=True)],
                    learning_rate=LEARNING_RATE,
                )
        seconds["tokens"] = sum(len(c.tokens) for group in groups for c in group)
        steps.append(seconds)
    return steps


def _our_sampler(policy: Any, workload: Workload, *, with_vllm: bool) -> Any:
    from tunestone.core.sampler import Sampler

    if not with_vllm:
        return Sampler(policy.view, policy.base)
    from tunestone.core.vllm_sampler import VllmSampler, import_vllm

    longest = workload.prompt_tokens + workload.completion_tokens
    return VllmSampler(policy, import_vllm(), longest=longest, uses_tree=True)


def _our_settings(workload: Workload) -> Any:
    """A TrainConfig, or what the learner reads of one where there is no pydantic."""
    settings: dict[str, Any] = {
        "algorithm": "dapo",
        "kl_coefficient": 0.0,
        "learning_rate": LEARNING_RATE,
        "updates_per_batch": 1,
        "max_completion_tokens": workload.completion_tokens,
        "mask_truncated": False,
        "microbatch_tokens": 8192,
        "temperature": 1.0,
        "clip_low": 0.2,
        "clip_high": 0.28,
    }
    from tunestone.config import TrainConfig

    return TrainConfig(**settings)


def _stand_in_for_missing() -> None:
    """pydantic and llguidance check settings and hold answers to a grammar, which nothing here
    does; where one is missing, an empty module lets ours be imported."""
    if importlib.util.find_spec("pydantic") is None:
        config = types.ModuleType("tunestone.config")
        config.TrainConfig = types.SimpleNamespace  # type: ignore[attr-defined]
        sys.modules["tunestone.config"] = config
    if importlib.util.find_spec("llguidance") is None:
        for module, names in {
            "llguidance": ("LLMatcher", "LLTokenizer"),
            "llguidance.hf": ("from_tokenizer",),
            "llguidance.numpy": ("allocate_token_bitmask", "fill_next_token_bitmask"),
        }.items():
            sys.modules[module] = types.ModuleType(module)
            for name in names:
                setattr(sys.modules[module], name, None)


def _run_trl(job: dict[str, Any], workload: Workload, *, with_vllm: bool) -> list[Step]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    steps: list[Step] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        """A step from its beginning to its end, generation included."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            _wait()
            steps.append({"total": -time.perf_counter()})

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _wait()
            steps[-1]["total"] += time.perf_counter()
            steps[-1]["learn"] = steps[-1]["total"] - steps[-1].get("sample", 0.0)

    texts = prompt_texts(AutoTokenizer.from_pretrained(job["model"]), workload, job["steps"] + 1)
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=lambda completions, **_: [reward(text) for text in completions],
        args=_trl_settings(job, workload, with_vllm=with_vllm),
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        peft_config=LoraConfig(
            r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear", lora_dropout=0.0
        ),
        callbacks=[Clock()],
    )
    _time_generation(trainer, steps)
    _reset_peak()
    trainer.train()
    return steps


def _time_generation(trainer: Any, steps: list[Step]) -> None:
    """Count the seconds of TRL's generation into the step's `sample`, and its tokens, where this
    version lets one."""
    generate: Callable[..., Any] | None = getattr(trainer, "_generate", None)
    if generate is None:
        return

    def timed(*arguments: Any, **named: Any) -> Any:
        with _timed(steps[-1], "sample"):
            output = generate(*arguments, **named)
        steps[-1]["tokens"] = sum(map(len, output[1]))  # prompt ids, completion ids, ...
        return output

    trainer._generate = timed


def _trl_settings(job: dict[str, Any], workload: Workload, *, with_vllm: bool) -> Any:
    """TRL's fastest without gradient checkpointing; what this version does not know is left out."""
    from trl import GRPOConfig

    cuda, length = torch.cuda.is_available(), workload.completion_tokens
    endless = {"min_tokens": length, "ignore_eos": True}
    wanted = {
        "output_dir": job["folder"],
        "use_cpu": not cuda,
        "bf16": cuda,
        "gradient_checkpointing": False,
        "model_init_kwargs": {
            "dtype": "bfloat16" if cuda else "float32",
            "attn_implementation": "sdpa",
        },
        "per_device_train_batch_size": workload.completions,
        "gradient_accumulation_steps": 1,
        "num_generations": workload.group,
        "max_prompt_length": None,  # an older version would cut prompts
        "max_completion_length": length,
        "generation_kwargs": endless if with_vllm else {"min_new_tokens": length},
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "max_steps": job["steps"] + 1,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_vllm": with_vllm,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": 0.3,
        "vllm_max_model_length": workload.prompt_tokens + length,
    }
    known = {field.name for field in dataclasses.fields(GRPOConfig)}
    return GRPOConfig(**{name: value for name, value in wanted.items() if name in known})


def prompt_texts(tokenizer: Any, workload: Workload, steps: int) -> list[str]:
    """Random texts of exactly `prompt_tokens` tokens, a batch for each step."""
    rng, texts = random.Random(0), []
    while len(texts) < steps * workload.prompts:
        letters = "".join(rng.choice("abcdefghij klmnop qrstuvwxyz ") for _ in range(4000))
        tokens = tokenizer(letters, add_special_tokens=False)["input_ids"]
        text = tokenizer.decode(tokens[: workload.prompt_tokens])
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) == workload.prompt_tokens:
            texts.append(text)
    return texts


def reward(text: str) -> float:
    """In [0, 1), from the text alone: nearly every group has signal."""
    return zlib.crc32(text.encode(errors="replace")) / 2**32


@contextmanager
def _timed(seconds: Step, phase: str) -> Iterator[None]:
    _wait()
    start = time.perf_counter()
    yield
    _wait()
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _summary(steps: Sequence[Step], workload: Workload) -> dict[str, Any]:
    """Medians with low and high over the steps; memory in MiB, weights included."""
    tokens = workload.completions * workload.completion_tokens
    if any(step.get("tokens", tokens) != tokens for step in steps):
        return {"problem": f"generated other than {tokens} tokens a step"}
    seconds = [step["total"] for step in steps]
    median = statistics.median(seconds)
    share = {
        phase: statistics.median(step.get(phase, 0.0) / step["total"] for step in steps)
        for phase in ("sample", "learn")
    }
    cuda = torch.cuda.is_available()
    return {
        "seconds": {"median": median, "low": min(seconds), "high": max(seconds)},
        "completions_per_second": workload.completions / median,
        "tokens_per_second": tokens / median,
        "share": share,
        "peak_allocated_mib": torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
        "peak_reserved_mib": torch.cuda.max_memory_reserved() / 2**20 if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "CPU (smoke test: no figure)",
    }


# --- what is shown ---------------------------------------------------------------------------

COLUMNS = ("model", "workload", "side", "s/step (low-high)", "compl./s", "tokens/s")
COLUMNS += ("sample", "learn", "peak MiB", "reserved MiB")


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    return "\n".join([head, *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    cells = [row["model"], row["workload"], row["side"]]
    if "problem" in row:
        cells += [row["problem"]] + [""] * (len(COLUMNS) - len(cells) - 1)
    else:
        seconds = row["seconds"]
        cells += [
            f"{seconds['median']:.3f} ({seconds['low']:.3f}-{seconds['high']:.3f})",
            f"{row['completions_per_second']:.1f}",
            f"{row['tokens_per_second']:.0f}",
            *(f"{row['share'][phase]:.0%}" for phase in ("sample", "learn")),
            *(_mib(row[key]) for key in ("peak_allocated_mib", "peak_reserved_mib")),
        ]
    return f"| {' | '.join(cells)} |"


def _mib(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def _pairs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of ours beside each of TRL's on the same workload, in the words of vs_trl.json."""
    good = [row for row in rows if "problem" not in row]
    return [
        {
            "name": f"{ours['model']} {ours['workload']}: {ours['side']} / {trl['side']}",
            "ours_completions_per_second": ours["completions_per_second"],
            "trl_completions_per_second": trl["completions_per_second"],
            "ratio": ours["completions_per_second"] / trl["completions_per_second"],
            "ours_peak_mib": ours["peak_allocated_mib"],
            "trl_peak_mib": trl["peak_allocated_mib"],
        }
        for ours in good
        for trl in good
        if ours["side"].startswith("ours") and trl["side"].startswith("TRL")
        if (ours["model"], ours["workload"]) == (trl["model"], trl["workload"])
    ]


def _machine() -> dict[str, Any]:
    versions = {}
    for name in ("torch", "transformers", "peft", "trl", "vllm", "llama_cpp_python"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"gpu": device, "python": sys.version.split()[0], **versions}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        main()
