"""The last fenced block of a completion: where a model puts the code it stands by.

No pydantic in here: the sandbox's workers import it.
"""

import re
from collections.abc import Iterable

# Possessive, so that a line of a million letters is read once.
_FENCE = re.compile(r"^[ \t]{0,3}```[ \t]*+([^\s`]*+)[^\n`]*+$\n?", re.MULTILINE)


def find_last_block(text: str, languages: Iterable[str]) -> str | None:
    """The content of the last fenced block in one of these languages, or in none named.

    White space is kept, for it means something in Python. None when there is no such block, and
    when the last fence is never closed: a completion that was cut off has not given its answer.
    """
    known = {"", *languages}
    fences = list(_FENCE.finditer(text))
    if len(fences) % 2:
        return None
    for opening, closing in reversed(list(zip(fences[::2], fences[1::2], strict=True))):
        if opening[1].lower() in known:
            return text[opening.end() : closing.start()]
    return None
