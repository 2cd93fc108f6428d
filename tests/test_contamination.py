"""Leaks between training and held-out data, exactly and nearly."""

from tunestone.contamination import find_contamination
from tunestone.types import Prompt

LONG = (
    "On Monday the baker sold 3 loaves, and 5 more after lunch; on Tuesday nobody came, so he went "
    "home early and slept. How many loaves did the baker sell in these two days?"
)


def prompts(name: str, *texts: str) -> list[Prompt]:
    """Prompts named after their place."""
    return [Prompt(f"{name}{i}", ({"role": "user", "content": t},)) for i, t in enumerate(texts)]


def test_equal_and_near_prompts_are_told_apart() -> None:
    training = prompts("t", "Something else entirely, with words of its own.", LONG)
    heldout = prompts(
        "h",
        LONG,
        f"{LONG} Say only the number.",
        LONG.replace("5 more", "6 more"),  # another task
        "Nothing in common with any of these others.",
    )
    found = find_contamination(training, heldout)
    assert (found["training_prompts"], found["equal"], found["near"]) == (2, 1, 1)
    exact, near = found["cases"]
    assert exact == {"heldout": "h0", "training": "t1", "similarity": 1.0}
    assert (near["heldout"], near["training"]) == ("h1", "t1")
    assert 0.7 <= near["similarity"] < 1


def test_pairs_within_one_side_are_no_leak() -> None:
    twice = [LONG, f"{LONG} Say only the number."]
    assert find_contamination(prompts("t", *twice), prompts("h", "Other words here."))["near"] == 0
    assert find_contamination(prompts("t", "Other words here."), prompts("h", *twice))["near"] == 0
    assert find_contamination([], prompts("h", LONG))["cases"] == []


def test_the_likest_training_prompt_is_named() -> None:
    longer = f"{LONG} And tell me how you came to think so."
    training = prompts("t", longer, f"{LONG} Say.")
    (case,) = find_contamination(training, prompts("h", f"{LONG} Say it."))["cases"]
    assert case["training"] == "t1"
