"""`python -m tunestone.engine`: started by the server, talks on standard input and output."""

import argparse
import logging
import os
import sys

import torch

from tunestone.core.prepare import available_threads
from tunestone.engine.server_loop import serve


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m tunestone.engine", description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all cores")
    parser.add_argument("--models", type=int, default=2, help="bases in memory")
    parser.add_argument("--adapters", type=int, default=16, help="adapters in memory")
    parser.add_argument("--rows", type=int, default=64, help="answers drawn at the same time")
    parser.add_argument("--cache-mib", type=int, default=0, help="keys and values; 0: by memory")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    torch.set_num_threads(options.threads or available_threads())
    # Whatever a library prints must not fall between our lines.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(
        sys.stdin.buffer,
        sink,
        models=options.models,
        adapters=options.adapters,
        rows=options.rows,
        cache_bytes=options.cache_mib * 2**20,
    )


if __name__ == "__main__":
    main()
