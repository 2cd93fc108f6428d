"""A grammar compiled for trial, in a process of its own that may take so much and no more.

A schema of one line can ask for an automaton of a hundred million states (`multipleOf: 99999989`),
and nothing stops llguidance in the middle of it. So whoever holds answers to a grammar of somebody
else has it tried here first. Over bytes, not over the model's tokens, which would take longer
to read than most grammars take to compile.
"""

import resource
import subprocess
import sys

from llguidance import LLMatcher, LLTokenizer

from tunestone.errors import GrammarError

_SECONDS = 2
"""Of processor time: a busy machine does not fail a grammar that is good."""
_BYTES = 4 * 2**30


def try_out(text: str) -> None:
    """Raise GrammarError when a grammar in llguidance's notation takes too long or too much memory.

    What else is wrong with it is left for the compiler to say.
    """
    command = [sys.executable, "-m", "tunestone.core.grammar_trial"]
    trial = subprocess.run(command, input=text.encode(), stderr=subprocess.DEVNULL, check=False)
    if trial.returncode:
        raise GrammarError(
            f"The answer's format is too complex: it takes more than {_SECONDS} seconds or "
            f"{_BYTES // 2**30} GiB to prepare.",
            remedy="Simplify the schema: fewer patterns in allOf, smaller multipleOf.",
        )


def _compile(text: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    state = LLMatcher(LLTokenizer("byte"), text, log_level=0)
    if not state.is_error():
        state.compute_bitmask()


if __name__ == "__main__":
    _compile(sys.stdin.read())
