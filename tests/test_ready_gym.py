"""reasoning-gym's scorers: right answers of real datasets, entries in every place, missing ones."""

import json

import pytest
import reasoning_gym

from ready_steps import grade, sample
from tunestone.errors import RewardError
from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.gym import ReasoningGym, read_entry
from tunestone.rewards.ready.sandboxed import load_program

NAMES = ["leg_counting", "spell_backward", "number_sorting", "countdown"]


def entry_of(name: str) -> dict:
    entry = reasoning_gym.create_dataset(name, seed=7, size=1)[0]
    return json.loads(json.dumps(entry))  # as it comes out of a data file


def score(text, entry, dataset="", style="answer_tag"):
    program = load_program(
        {"scorer": "reasoning_gym", "options": {"dataset": dataset, "style": style}}
    )
    return program({"text": text, "arguments": {"entry": entry}})


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_answer_has_the_full_reward_and_others_have_less(name):
    entry = entry_of(name)
    answer = entry["answer"] or entry["metadata"]["expression"]
    right = score(f"So.\n<answer>{answer}</answer>", entry)
    assert right == {"reward": 1.0, "metrics": {"formatted": 1.0}}
    for text in ("", str(answer), "<answer></answer>", "<answer>none</answer>", entry["question"]):
        assert score(text, entry)["reward"] < 0.5


def test_only_the_last_tag_counts_and_the_whole_text_can():
    entry = entry_of("leg_counting")
    right = entry["answer"]
    assert score(f"<answer>{right}</answer><answer>-1</answer>", entry)["reward"] < 0.5
    assert score(f" {right}\n", entry, style="whole")["reward"] == 1.0
    assert score(f"<answer>{right}</answer>", entry, dataset="leg_counting")["reward"] == 1.0


def test_an_unknown_dataset_is_named_with_the_nearest():
    with pytest.raises(RewardError, match=r"no dataset 'leg_count'\. Did you mean leg_counting\?"):
        score("1", {}, dataset="leg_count")
    with pytest.raises(UnusableReferenceError, match=r"'leg_count'\. Did you mean leg_counting\?"):
        score("1", {"metadata": {"source_dataset": "leg_count"}})


def test_entries_are_found_in_every_place():
    entry = {"question": "?", "answer": "1", "metadata": {"source_dataset": "leg_counting"}}
    assert read_entry({"reasoning_gym": entry, "answer": "other"}) == entry
    assert read_entry({**entry, "difficulty": 3}) == entry
    assert read_entry({"reasoning_gym": json.dumps(entry)}) == entry
    assert read_entry({**entry, "metadata": json.dumps(entry["metadata"])}) == entry


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no reasoning-gym entry: answer and metadata missing"),
        ({"answer": "1"}, "no reasoning-gym entry: metadata missing"),
        ({"reasoning_gym": "{"}, "reasoning_gym of the row is a text but not JSON"),
        ({"reasoning_gym": []}, "reasoning_gym of the row is not an object"),
        ({"answer": "1", "metadata": 3}, "metadata of the row is not an object"),
    ],
)
def test_rows_without_an_entry_are_refused(row, message):
    with pytest.raises(UnusableReferenceError, match=message):
        read_entry(row)


def test_the_grader_in_the_sandbox():
    entry = entry_of("leg_counting")
    text = f"<answer>{entry['answer']}</answer>"
    grades = grade(
        ReasoningGym(),
        sample(text, reasoning_gym=entry),
        sample("<answer>-1</answer>", **entry),
        sample(text, answer="1", metadata={}),
        sample(text, answer="1", metadata={"source_dataset": "leg_count"}),
    )
    assert grades[0].reward == 1.0
    assert grades[1].reward is not None and grades[1].reward < 0.5
    assert [grade.flags for grade in grades[2:]] == [("other_error",)] * 2
    assert grades[3].error == "reasoning-gym has no dataset 'leg_count'. Did you mean leg_counting?"


def test_what_a_model_writes_cannot_reach_out_of_the_sandbox(tmp_path):
    # n_queens evaluates the answer as Python.
    entry = entry_of("n_queens")
    target = tmp_path / "written"
    text = f"<answer>[__import__('pathlib').Path({str(target)!r}).write_text('x')]</answer>"
    grades = grade(ReasoningGym(), sample(text, reasoning_gym=entry))
    assert not grades[0].reward
    assert not target.exists()


def test_a_wrong_dataset_is_refused_when_it_is_opened():
    with pytest.raises(RewardError, match="leg_counting") as caught:
        grade(ReasoningGym(dataset="leg_count"))
    assert "Traceback" not in str(caught.value)
