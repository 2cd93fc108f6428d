"""How near we come to what the machine can do, and how the cost of a step grows.

    .venv/bin/python benchmarks/limits.py --threads 2 [--model FOLDER] [--repeats 5] [--only scale]

Four parts, each written under its own key of benchmarks/results/vs_trl.json, by thread count:

    limits  sampling and training against memory bandwidth, matrix products and llama.cpp
    profile where the time of a training step goes
    scale   seconds a step against group size, prompt length, prompts a step and model size;
            drawn in docs/images/scale.png
    memory  resident memory over the steps of a run, and its peak against `microbatch_tokens`

llama.cpp is measured where the package llama-cpp-python is installed.
"""

import argparse
import importlib
import json

import measuring

PARTS = {
    "limits": "against_limits",
    "profile": "training_profile",
    "scale": "scale",
    "memory": "memory",
}
"""Key of the results -> module that has `measure(options)`."""


def main() -> None:
    """Set the threads, then load and run the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, action="append")
    options = parser.parse_args()
    measuring.set_threads(options.threads)  # the parts import torch, so they come after this
    for part in options.only or PARTS:
        results = importlib.import_module(PARTS[part]).measure(options)
        measuring.store(part, results, options)
        print(json.dumps({part: results}, indent=2))


if __name__ == "__main__":
    main()
