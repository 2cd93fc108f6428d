"""What an alert does: note, stop, pause or roll back, and a resumed run repeats all of it."""

import json
from pathlib import Path

import pytest

from job_bench import Bench
from planted import alerts, planted_run
from test_resume import assert_same_weights
from toy import run_to_end, without_times
from tunestone.core.checkpoint import load_checkpoint
from tunestone.core.loop_state import LoopState
from tunestone.runlog import RunFolder, checkpoint_path, checkpoint_steps, read_lines

ROLLING = {"max_steps": 40, "eval_every": 2, "on_alert": {"grader_errors": "rollback"}}


def rates(run: RunFolder) -> list[float]:
    """The learning rate of each step."""
    return [record["learning_rate"] for record in read_lines(run.metrics)]


def kinds(run: RunFolder) -> list[str]:
    return [event["kind"] for event in read_lines(run.events)]


def test_by_default_an_alert_is_noted_with_its_evidence(tmp_path: Path, tiny_folder: Path) -> None:
    run = planted_run(tmp_path, tiny_folder, "constant", max_steps=6)
    said: list[str] = []
    report = run_to_end(run, say=said.append)
    assert (report["steps"], report["stopped"]) == (6, None)
    (alert,) = report["alerts"]
    assert alert == {k: v for k, v in alerts(run)["no_signal"].items() if k != "kind"}
    assert (alert["code"], alert["step"], alert["window"]) == ("no_signal", 5, [1, 5])
    assert (alert["value"], alert["threshold"], alert["action"]) == (0.0, 0.1, "note")
    assert len(alert["examples"]) == 3
    samples = {(s["prompt_id"], s["index"]): s for s in read_lines(run.samples) if s["step"] == 5}
    for example in alert["examples"]:
        sample = samples[example["prompt_id"], example["index"]]
        assert (example["text"], example["reward"]) == (sample["text"], 0.5)
    assert [line for line in said if line.startswith("Alert (no_signal): In 100 % of the groups")]


def test_stop_ends_as_early_stopping_does(tmp_path: Path, tiny_folder: Path) -> None:
    settings = {"max_steps": 9, "on_alert": {"no_signal": "stop"}}
    run = planted_run(tmp_path, tiny_folder, "constant", **settings)
    report = run_to_end(run)
    assert (report["steps"], report["best_step"]) == (5, 0)
    assert report["stopped"] == "alert no_signal"
    assert (run.adapter / "model.safetensors").is_file()
    (run.path / "report.json").unlink()
    assert run_to_end(run)["steps"] == 5  # it is not taken back by resuming


def test_pause_leaves_a_checkpoint_from_which_the_run_goes_on(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """A fifth of the completions cannot be graded: five steps make it a sign."""
    settings = {"max_steps": 8, "eval_every": 4}
    paused = planted_run(
        tmp_path / "paused", tiny_folder, "flaky", **settings, on_alert={"grader_errors": "pause"}
    )
    report = run_to_end(paused)
    assert (report["steps"], report["stopped"]) == (5, "paused by the alert grader_errors")
    assert checkpoint_steps(paused.checkpoints)[-1] == 5
    report = run_to_end(paused)
    assert (report["steps"], report["stopped"]) == (8, None)
    assert [alert["step"] for alert in report["alerts"]] == [5]
    undisturbed = planted_run(tmp_path / "undisturbed", tiny_folder, "flaky", **settings)
    run_to_end(undisturbed)
    assert_same_weights(paused.adapter, undisturbed.adapter)


def test_rollback_returns_to_before_the_window_and_halves_the_rate(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """The reward is above 0.95 from about step 18 on; that stands for what one would not want."""
    settings = {"max_steps": 24, "eval_every": 3, "on_alert": {"reward_saturated": "rollback"}}
    run = planted_run(tmp_path, tiny_folder, "meant", **settings)
    run_to_end(run)
    alert = alerts(run)["reward_saturated"]
    (event,) = [event for event in read_lines(run.events) if event["kind"] == "rolled_back"]
    at, back = event["step"], event["to_step"]
    assert at == alert["step"] < 24
    assert alert["window"] == [at - 4, at]
    assert back == (at - 5) // 3 * 3  # the newest of every third step before the window
    assert rates(run) == [1e-2] * at + [5e-3] * (24 - at)
    then, now = (load_checkpoint(run.checkpoints, step) for step in (back, at))
    if then is not None:  # it may have become needless by the end
        assert all(then.tensors[name].equal(now.tensors[name]) for name in then.tensors)
    assert now.state["loop"]["rollbacks"] == [[back, at]]
    assert now.state["loop"]["best_step"] <= back
    abandoned = set(range(back + 1, at))
    assert abandoned.isdisjoint(checkpoint_steps(run.checkpoints))
    assert [record["step"] for record in read_lines(run.metrics)] == list(range(1, 25))


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> RunFolder:
    """A run with one alert after the other; it ends at the fourth."""
    folder = tmp_path_factory.mktemp("rolled")
    run = planted_run(folder, tiny_folder, "flaky", **ROLLING)
    run_to_end(run)
    return run


def test_after_three_rollbacks_the_run_is_stopped(rolled_back: RunFolder) -> None:
    """Alerts after 5, 10, 15 and 20 steps. Their windows begin where the last one ended: before
    them there are the base and its copies."""
    run = rolled_back
    events = [e for e in read_lines(run.events) if e["kind"] in {"alert", "rolled_back"}]
    told = [(e["kind"], e["step"], e.get("to_step")) for e in events]
    assert told == [
        *(("alert", 5, None), ("rolled_back", 5, 0)),
        *(("alert", 10, None), ("rolled_back", 10, 5)),
        *(("alert", 15, None), ("rolled_back", 15, 10)),
        ("alert", 20, None),
    ]
    assert rates(run) == [1e-2] * 5 + [5e-3] * 5 + [2.5e-3] * 5 + [1.25e-3] * 5
    report = run.report()
    assert report["stopped"] == "alert grader_errors after 3 rollbacks"
    assert report["steps"] == 20
    state = load_checkpoint(run.checkpoints, 20).state["loop"]
    assert state["rollbacks"] == [[0, 5], [5, 10], [10, 15]]


def test_what_led_astray_is_not_drawn_again(rolled_back: RunFolder) -> None:
    """The policy is the base again after step 5, but prompts and draws go on."""
    lines = [s for s in read_lines(rolled_back.samples) if s["index"] == 0]
    asked = [[s["prompt_id"] for s in lines if s["step"] == step] for step in (1, 6)]
    assert asked[0] != asked[1]
    said = [[s["text"] for s in lines if s["step"] == step] for step in (1, 6)]
    assert not set(said[0]) & set(said[1])


def test_a_run_that_is_stopped_again_and_again_rolls_back_with_the_same_bits(
    tmp_path: Path, tiny_folder: Path, rolled_back: RunFolder
) -> None:
    run = planted_run(tmp_path, tiny_folder, "flaky", **ROLLING)
    for until in (3, 5, 6, 9, 13):
        run_to_end(run, stop_requested=lambda n=until: len(read_lines(run.metrics)) >= n - 1)
        assert len(read_lines(run.metrics)) == until
    # As after a kill: what came after the newest checkpoint is done again.
    with run.metrics.open("a") as log:
        log.write(json.dumps({"step": 14, "reward_mean": 0.0}) + "\n")
    run_to_end(run)
    theirs, ours = (list(map(without_times, read_lines(r.metrics))) for r in (rolled_back, run))
    assert ours == theirs
    theirs, ours = ([s | {"error": ""} for s in read_lines(r.samples)] for r in (rolled_back, run))
    assert ours == theirs  # but for the folder's name in the tracebacks
    assert_same_weights(run.adapter, rolled_back.adapter)
    assert_same_weights(
        checkpoint_path(run.checkpoints, 20), checkpoint_path(rolled_back.checkpoints, 20)
    )
    told, again = ([a["step"] for a in r.report()["alerts"]] for r in (rolled_back, run))
    assert again == told == [5, 10, 15, 20]


def test_the_gravest_action_is_done(tmp_path: Path, tiny_folder: Path) -> None:
    """Both signs come at step 5; a stop makes the rollback needless."""
    actions = {"no_signal": "rollback", "grader_errors": "stop"}
    run = planted_run(tmp_path, tiny_folder, "flaky_and_constant", max_steps=9, on_alert=actions)
    report = run_to_end(run)
    assert {alert["code"] for alert in report["alerts"]} == set(actions)
    assert (report["steps"], report["stopped"]) == (5, "alert grader_errors")
    assert "rolled_back" not in kinds(run)


def test_checkpoints_are_kept_for_a_rollback_and_no_others() -> None:
    """A window of 5 steps, a checkpoint every 2: an alert after step 11 may look at 7 to 11."""
    state = LoopState()
    for step in (0, 2, 4, 6, 8, 10):
        state.step, state.best_step = step, 2
        state.note_checkpoint(5)
    assert state.ways_back == [(2, 2), (6, 2), (8, 2), (10, 2)]  # the best; before 7; since
    assert state.needed == {2, 6, 8, 10}
    assert state.checkpoints_before(7) == [6, 2]
    assert state.checkpoints_before(1) == [2]  # the oldest there is
    state.step = 11
    state.return_to(
        {
            "step": 6,
            "best_step": 2,
            "best_reward": 0.5,
            "ranking": [[2, 0.5], [4, 0.4]],
            "stale": 1,
        },
        kept=[2, 6, 8, 10],
    )
    assert (state.rollbacks, state.ways_back) == ([(6, 11)], [(2, 2), (6, 2)])
    assert (state.ranking, state.best_reward, state.stale) == ([(2, 0.5)], 0.5, 1)
    assert [n for n in range(1, 13) if state.is_abandoned(n)] == [7, 8, 9, 10, 11]
    state.note_checkpoint(5)  # weights of step 6: the course is 2 .. 6, 12
    assert state.ways_back == [(2, 2), (6, 2), (11, 2)]
    assert (state.rolled_back, state.rate_factor) == (True, 0.5)


def test_a_job_is_paused_by_its_alert_and_goes_on_when_resumed(
    tmp_path: Path, tiny_folder: Path
) -> None:
    bench = Bench(tmp_path, tiny_folder)
    bench.supervisor.start()
    try:
        settings = {"max_steps": 7, "patience": 0, "on_alert": {"reward_saturated": "pause"}}
        job_id = bench.add_job(reward="constant", settings=settings)
        job = bench.wait(job_id, lambda job: job.state == "paused")
        assert job.progress["step"] == 5
        assert job.wish == ""
        bench.supervisor.resume(job_id)
        assert bench.wait(job_id).state == "succeeded"
        assert bench.job(job_id).progress["step"] == 7
    finally:
        bench.supervisor.shutdown()
