"""A judge held against people: accuracy, kappa, tables, pairs, and what fails."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from judge_server import Said, say, serve_judge
from tunestone.errors import DataError, RewardError
from tunestone.rewards.judges.agreement import measure_agreement, read_labelled, render_agreement
from tunestone.rewards.judges.judge import Judge
from tunestone.rewards.sandbox import Mechanism
from tunestone.rewards.spec import Context, failed
from tunestone.types import Grade, Prompt, Sample


class Scripted:
    """Gives the listed rewards or grades, in order."""

    def __init__(self, *given):
        self.given = given

    def grade(self, samples):
        assert len(samples) == len(self.given)
        return [g if isinstance(g, Grade) else Grade(g) for g in self.given]


def samples_of(*prompts):
    return [Sample(Prompt(p, ({"role": "user", "content": p},)), "text") for p in prompts]


def measure(given, labels, **options):
    prompts = options.pop("prompts", [f"p{i}" for i in range(len(given))])
    return measure_agreement(Scripted(*given), samples_of(*prompts), labels, **options)


def test_right_or_wrong_by_hand():
    # people 1 1 1 0 0, judge 1 1 0 0 1: 3 of 5. By chance 0.6 * 0.6 + 0.4 * 0.4 = 0.52:
    # (0.6 - 0.52) / 0.48 = 1/6
    report = measure([1.0, 1.0, 0.0, 0.0, 1.0], [1, 1, 1, 0, 0])
    assert (report.rows, report.failed, report.compared) == (5, 0, "reward")
    assert report.accuracy == 0.6
    assert report.kappa == pytest.approx(1 / 6)
    assert report.kappa_interval[0] < 1 / 6 < report.kappa_interval[1]
    assert report.accuracy_interval == pytest.approx((0.2307, 0.8824), abs=1e-4)  # Wilson, 3 of 5
    assert report.levels == (0, 1)
    assert report.confusion == ((1, 1), (1, 2))  # rows: people 0, 1; columns: judge 0, 1
    assert report.bias == 0


def test_scores_of_1_to_5_are_compared_with_the_sub_score():
    grades = [Grade((s - 1) / 4, metrics={"score": s}) for s in (1, 2, 5)]
    report = measure(grades, [1, 2, 3])
    assert report.compared == "score"
    # The hand computation of tests/test_stats.py: 4/7 and 2/3.
    assert report.kappa == pytest.approx(4 / 7)
    assert report.weighted_kappa == pytest.approx(2 / 3)
    assert report.bias == pytest.approx(2 / 3)  # (0 + 0 + 2) / 3
    assert report.levels == (1, 2, 3, 5)
    assert report.confusion == ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0))


def test_finely_graded_rewards_are_rounded_to_the_nearest_label():
    # 0.5 lies in the middle of 0 and 1: the lower one.
    report = measure([0.73, 0.2, 0.5, 0.51], [1, 0, 0, 1])
    assert (report.accuracy, report.kappa) == (1, 1)
    assert report.bias == pytest.approx((-0.27 + 0.2 + 0.5 - 0.49) / 4)  # of what was given


def test_labels_may_be_names():
    report = measure([1.0, 0.0, 0.0], ["good", "good", "bad"], values={"good": 1, "bad": 0})
    assert report.accuracy == pytest.approx(2 / 3)
    with pytest.raises(
        RewardError, match=r"'good' has no value; there are values for \['fine'\]"
    ) as caught:
        measure([1.0], ["good"], values={"fine": 1})
    assert "--value NAME=NUMBER" in caught.value.remedy


def test_what_fails_is_counted_and_left_out():
    lost = failed("no", "model_grader_refusal_error")
    garbled = failed("what?", "model_grader_parse_error")
    report = measure([1.0, lost, 0.0, lost, garbled], [1, 0, 0, 0, 0])
    assert (report.rows, report.failed) == (5, 3)
    assert report.failures == {"model_grader_refusal_error": 2, "model_grader_parse_error": 1}
    assert report.accuracy == 1  # of two
    with pytest.raises(
        RewardError, match=r"any of the 2 rows\. The first error: no `tunestone grade`"
    ):
        measure([lost, lost], [1, 0])


def test_a_warning_flag_is_no_failure():
    warned = Grade(1.0, flags=("model_grader_refusal_error",))
    assert measure([warned, 0.0], [1, 0]).failures == {}


def test_kappa_is_undefined_where_everything_is_alike():
    report = measure([1.0, 1.0], [1, 1])
    assert (report.accuracy, report.kappa, report.weighted_kappa) == (1, None, None)
    json.dumps(report.as_dict(), allow_nan=False)


def test_pairs_of_one_prompt_are_compared_by_order():
    # p: people a > b, a > c, b = c; the judge has a > b, a = c. q stands alone.
    report = measure(
        [0.9, 0.1, 0.9, 0.3], [1, 0, 0, 1], prompts=["p", "p", "p", "q"], relative=True
    )
    assert (report.pairs, report.pair_agreement) == (2, 0.75)
    assert (report.accuracy, report.kappa, report.confusion) == (None, None, ())


def test_a_reward_without_the_wanted_sub_score_is_told():
    with pytest.raises(RewardError, match=r"sub-score 'score', but this reward has no sub-scores"):
        measure([1.0, 0.0], [5, 1])
    grades = [Grade(0.5, metrics={"clarity": 3}), Grade(0.5, metrics={"clarity": 1})]
    assert measure(grades, [3, 1], metric="clarity").accuracy == 1


def test_the_text_says_what_was_found():
    lost = failed("no", "model_grader_refusal_error")
    text = render_agreement(measure([1.0, 1.0, 0.0, 0.0, 1.0, lost], [1, 1, 1, 0, 0, 0]))
    lines = text.splitlines()
    assert lines[0] == "5 of 6 rows graded, compared by reward"
    assert lines[1] == "  not graded, and left out below: model_grader_refusal_error 1"
    assert "accuracy                   0.60  (95 %: 0.23 to 0.88)" in lines
    assert any(line.startswith("Cohen's kappa              0.17  (95 %: ") for line in lines)
    assert "pairs ordered alike (0)    not defined for these rows" in lines
    assert [line.split() for line in lines[-2:]] == [["0", "1", "1"], ["1", "1", "2"]]


# --- Reading labelled rows ------------------------------------------------------------------


def write(folder: Path, *rows):
    path = folder / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(content, completion, label, **more):
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "completion": completion, "label": label, **more}


def test_answers_to_one_prompt_are_recognised_and_labels_stay_hidden(tmp_path):
    path = write(
        tmp_path,
        row("q", "a", 5, reference_answer="r"),
        row("q", "b", True, reference_answer="r", id="mine"),
        row("q", "c", "good", reference_answer="another"),
    )
    samples, labels = read_labelled(path)
    assert labels == [5.0, 1.0, "good"]
    assert [s.text for s in samples] == ["a", "b", "c"]
    ids = [s.prompt.id for s in samples]
    assert ids[0] == ids[1] != ids[2]
    assert [dict(s.prompt.row) for s in samples] == [
        {"reference_answer": "r"},
        {"reference_answer": "r"},
        {"reference_answer": "another"},
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"messages": [{"role": "user", "content": "q"}], "completion": "a"}, "needs a `label`"),
        (row("q", "a", None), "needs a `label`"),
        (row("q", "a", " "), "needs a `label`"),
        (row("q", "a", [1]), "needs a `label`"),
        (row("q", None, 1), "no completion"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, bad, message):
    path = write(tmp_path, row("q", "a", 1), bad)
    with pytest.raises(DataError, match=f"labelled.jsonl:2: .*{message}"):
        read_labelled(path)


def test_several_completions_under_one_label_are_refused(tmp_path):
    several = {"messages": [{"role": "user", "content": "q"}], "completions": ["a", "b"]}
    with pytest.raises(DataError, match=r"labelled.jsonl:1: .*several completions, but one label"):
        read_labelled(write(tmp_path, {**several, "label": 1}))


# --- All together ---------------------------------------------------------------------------


def test_a_judge_is_measured_end_to_end(tmp_path):
    """The judge scores by the number of exclamation marks and declines on one row."""

    def answer(asked):
        text = asked.user.rpartition("<<< answer")[2]
        return Said(refusal="no") if "bomb" in text else say(reasoning="", score=text.count("!"))

    rows = [("a!", 1), ("b!!!!!", 5), ("bomb", 1), ("c!!!", 4), ("d!!", 2)]
    path = write(tmp_path, *(row("q", text, label) for text, label in rows))
    with serve_judge(answer) as served, ExitStack() as stack:
        spec = Judge(model="m", endpoint={"base_url": f"{served.url}/v1"})
        grader = spec.open(Context(tmp_path, Mechanism("none", "")), stack)
        report = measure_agreement(grader, *read_labelled(path))
    assert (report.rows, report.failed, report.compared) == (5, 1, "score")
    assert report.accuracy == 0.75
    # 1 1, 5 5, 3 4, 2 2: squared distances mean 1/4. Variances 35/16 and 40/16, means 11/4 and
    # 12/4: expected 35/16 + 40/16 + 1/16 = 76/16. 1 - (4/16) / (76/16) = 72/76
    assert report.weighted_kappa == pytest.approx(72 / 76)
    assert (report.pairs, report.pair_agreement) == (6, 1.0)
    assert report.bias == -0.25
