"""The pages of runs through their front door: JSON twins with numbers, pages, refusals."""

import fcntl
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from fake_run import PLANTED, write_run
from tunestone.errors import RunError
from tunestone.pages.app import build_pages, build_view
from tunestone.pages.library import FolderLibrary
from tunestone.pages.prompts import heldout_prompts
from tunestone.runlog import RunFolder, append_lines, read_json, read_lines, write_json

HERE = {"origin": "http://localhost"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`done` has a report; `going` has none: 4 steps of 30, without a tokenizer."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "done", steps=6, prompts=3, group=4)
    write_run(
        folder / "going",
        steps=4,
        of=30,
        prompts=2,
        group=4,
        report=False,
        tokenizer=False,
        created="2026-11-23T10:00:00",
    )
    return folder


@pytest.fixture(scope="module")
def client(runs: Path) -> TestClient:
    return TestClient(build_view(FolderLibrary([runs]), []), base_url="http://localhost")


@pytest.fixture
def training(runs: Path) -> Iterator[RunFolder]:
    """`going`, held as by a trainer."""
    run = RunFolder(runs / "going")
    with (run.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield run
    (run.path / "STOP").unlink(missing_ok=True)


def samples(runs: Path, step: int) -> list[dict]:
    return [s for s in read_lines(runs / "done" / "samples.jsonl") if s["step"] == step]


def test_the_list_tells_state_progress_and_gain(client: TestClient, runs: Path) -> None:
    going, done = client.get("/runs.json").json()["runs"]
    assert (going["name"], going["state"]["name"], going["result"]) == ("going", "unfinished", None)
    assert (going["step"], going["steps"], going["seconds_left"]) == (4, 30, None)
    report = read_json(runs / "done" / "report.json")
    assert done["state"] == {"name": "done", "text": "done"}
    assert done["result"]["base"] == report["base"]["accuracy"]
    assert done["result"]["relative_gain"] == report["relative_gain"]
    assert done["alerts"] == 1
    assert done["rewards"] == [m["reward_mean"] for m in read_lines(runs / "done/metrics.jsonl")]
    page = client.get("/runs").text
    assert page.count("<polyline") == 2
    assert f"{100 * report['relative_gain']:+.0f} %" in page


def test_the_time_left_follows_from_steps_and_validations(
    client: TestClient, training: RunFolder
) -> None:
    # A step takes 1 + 0.25 + 0.75 = 2 seconds; none of the 4 was validated; 26 are to come.
    going = client.get("/runs/going.json").json()
    assert going["run"]["state"]["name"] == "training"
    assert going["run"]["seconds_left"] == 52.0
    assert {"name": "time left", "text": "0:52"} in going["latest"]


def test_charts_hold_every_step_with_intervals(client: TestClient, runs: Path) -> None:
    charts = {c["id"]: c for c in client.get("/runs/done.json").json()["charts"]}
    reward = charts["reward"]["series"]
    metrics = read_lines(runs / "done" / "metrics.jsonl")
    assert [p[:2] for p in reward["training"]] == [[m["step"], m["reward_mean"]] for m in metrics]
    assert [p[0] for p in reward["validation"]] == [0, 5]
    # Step 1: three groups of four, each with a mean m; the band is 1.96 s / sqrt(3) around theirs.
    means = [sum(s["reward"] for s in samples(runs, 1)[i : i + 4]) / 4 for i in (0, 4, 8)]
    mean = sum(means) / 3
    spread = (sum((m - mean) ** 2 for m in means) / 2) ** 0.5
    low, high = reward["training"][0][2:]
    assert low == pytest.approx(mean - 1.959964 * spread / 3**0.5)
    assert high == pytest.approx(mean + 1.959964 * spread / 3**0.5)
    assert charts["errors"]["series"]["failed"] == [[s, float(s == 3)] for s in range(1, 7)]
    assert charts["errors"]["series"]["python_grader_runtime_error"] == [[3, 1]]
    assert charts["kl"]["shown"] is False
    assert list(charts["components"]["series"]) == ["right", "form"]


def test_settings_that_somebody_chose_come_first(client: TestClient) -> None:
    settings = client.get("/runs/done.json").json()["settings"]
    origins = [row["origin"] for row in settings]
    assert origins.index("default") == len(origins) - origins.count("default")
    (rate,) = [row for row in settings if row["name"] == "learning_rate"]
    assert (rate["value"], rate["origin"]) == (3e-4, "command line")
    assert rate["meaning"].startswith("Peak learning rate.")


def test_rollouts_show_groups_with_prompts(client: TestClient, runs: Path) -> None:
    data = client.get("/runs/done/rollouts.json?step=3").json()
    assert data["steps"] == [1, 2, 3, 4, 5, 6]
    assert (data["total"], data["found"]) == (12, 12)
    first = data["groups"][0]
    assert first["prompt"]["id"] == "train-0"
    assert first["prompt"]["turns"][0]["role"] == "system"
    rewards = [c["reward"] for c in first["completions"]]
    assert rewards[1:3] == [0.0, None]
    assert first["reward_mean"] == pytest.approx((rewards[0] + 0.0 + rewards[3]) / 3)
    assert "KeyError" in first["completions"][2]["error"]


def test_rollouts_are_filtered_sorted_and_searched(client: TestClient, runs: Path) -> None:
    def found(query: str) -> list[dict]:
        return client.get(f"/runs/done/rollouts.json?{query}").json()["completions"]

    everything = read_lines(runs / "done" / "samples.jsonl")
    (failed,) = found("step=all&outcome=failed")
    assert (failed["step"], failed["index"]) == (3, 2)
    right = found("step=2&sort=worst&least_reward=0.5")
    assert len(right) == sum(s["reward"] == 1.0 for s in samples(runs, 2))
    (planted,) = found("step=all&text=WINDOW.PLANTED")
    assert planted["text"] == PLANTED
    longest = found("step=all&sort=longest")
    assert longest[0]["length"] == max(len(s["tokens"]) for s in everything)
    surprises = [c["surprise"] for c in found("step=4&sort=surprising")]
    assert surprises == sorted(surprises, reverse=True)
    worst = max(-sum(s["logprobs"]) / len(s["logprobs"]) for s in samples(runs, 4))
    assert surprises[0] == pytest.approx(worst)
    assert all(c["length"] <= 14 for c in found("step=5&sort=best&most_tokens=14"))
    # 72 completions, 32 to a page: 32, 32, 8.
    assert len(found("step=all&page=3")) == 8


def test_tokens_are_coloured_by_their_probability(client: TestClient, runs: Path) -> None:
    data = client.get("/runs/done/rollouts.json?step=3").json()
    assert data["coloured_by"] == "tokens"
    for shown, line in zip(
        (c for g in data["groups"] for c in g["completions"]), samples(runs, 3), strict=True
    ):
        text = "".join(piece["text"] for piece in shown["pieces"])
        assert text == line["text"] + ("<|end|>" if line["finish_reason"] == "stop" else "")
        assert sum(p["logprob"] for p in shown["pieces"]) == pytest.approx(sum(line["logprobs"]))
        for piece in shown["pieces"]:
            nats = -piece["logprob"]
            assert piece["shade"] == sum(nats >= b for b in (0.05, 0.5, 1.5, 3.0, 6.0))


def test_without_a_tokenizer_texts_are_coloured_whole(client: TestClient) -> None:
    data = client.get("/runs/going/rollouts.json").json()
    assert data["coloured_by"] == "texts"
    (piece,) = data["groups"][0]["completions"][0]["pieces"]
    assert piece["text"] == data["groups"][0]["completions"][0]["text"]
    assert "No tokenizer is at hand" in client.get("/runs/going/rollouts").text


def test_a_prompt_is_followed_and_its_changes_are_those_of_equal_beginnings(
    client: TestClient, runs: Path
) -> None:
    data = client.get("/runs/done/prompt.json?id=train-0&colour=changes").json()
    assert [step["step"] for step in data["steps"]] == [1, 3, 6]
    lines = [s for s in read_lines(runs / "done/samples.jsonl") if s["prompt_id"] == "train-0"]
    checked = 0
    for step in data["steps"]:
        for shown in step["completions"]:
            line = next(
                s for s in lines if (s["step"], s["index"]) == (step["step"], shown["index"])
            )
            same = [
                o for o in lines if o["step"] < line["step"] and o["tokens"][0] == line["tokens"][0]
            ]
            first = shown["pieces"][0]
            if not same:
                assert first["change"] is None
                continue
            earliest = min(same, key=lambda other: other["step"])
            assert first["since"] == earliest["step"]
            assert first["change"] == pytest.approx(line["logprobs"][0] - earliest["logprobs"][0])
            checked += 1
    assert checked >= 2


def test_the_most_changed_stand_first(client: TestClient, runs: Path) -> None:
    lines = [s for s in read_lines(runs / "done/samples.jsonl") if s["step"] <= 6]

    def slow_mean(line: dict) -> float | None:
        """Of each token against the earliest completion that shares all up to it."""
        found = []
        for i in range(len(line["tokens"])):
            same = [
                other
                for other in lines
                if other["prompt_id"] == line["prompt_id"]
                and other["step"] < line["step"]
                and other["tokens"][: i + 1] == line["tokens"][: i + 1]
            ]
            if same:
                earliest = min(same, key=lambda other: other["step"])
                found.append(line["logprobs"][i] - earliest["logprobs"][i])
        return sum(found) / len(found) if found else None

    data = client.get("/runs/done/rollouts.json?step=6&sort=changed").json()
    shown = {(c["prompt_id"], c["index"]): c["change"] for c in data["completions"]}
    slow = {(s["prompt_id"], s["index"]): slow_mean(s) for s in samples(runs, 6)}
    assert shown == {key: value and pytest.approx(value) for key, value in slow.items()}
    known = [abs(change) for change in shown.values() if change is not None]
    assert 2 <= len(known) < len(shown) and data["comparable"] == len(known)
    assert known == sorted(known, reverse=True)
    assert list(shown.values())[len(known) :] == [None] * (len(shown) - len(known))
    assert data["coloured_by"] == "changes"
    page = client.get("/runs/done/rollouts?step=6&sort=changed").text
    assert f"changed {max(shown.values(), key=lambda c: abs(c or 0)):+.2f}" in page
    # Across all steps there is no such order, and without a tokenizer no colour of tokens.
    everywhere = client.get("/runs/done/rollouts.json?step=all&sort=changed").json()
    assert everywhere["wanted"]["sort"] == "best"
    bare = client.get("/runs/going/rollouts.json?sort=changed").json()
    assert (bare["coloured_by"], bare["found"]) == ("texts", 8)


def test_a_validation_prompt_is_followed(client: TestClient) -> None:
    data = client.get("/runs/done/validation.json?id=validation-3").json()
    assert [answer["step"] for answer in data["answers"]] == [0, 5]
    assert data["prompt"]["text"].endswith("now?")


def test_base_and_tuned_stand_side_by_side(client: TestClient, runs: Path) -> None:
    data = client.get("/runs/done/answers.json").json()
    base, tuned = (read_json(runs / "done" / f"{name}.json") for name in ("base", "tuned"))
    assert data["source"] == "heldout"
    gained = sum(t > b for b, t in zip(base["rewards"], tuned["rewards"], strict=True))
    assert (data["counts"]["gained"], data["counts"]["all"]) == (gained, 40)
    second = data["pairs"][1]
    assert second["prompt"]["id"] == "test-1"
    assert "".join(text for text, _ in second["tuned"]["pieces"]) == tuned["texts"][1] == PLANTED
    assert "".join(text for text, _ in second["base"]["pieces"]) == base["texts"][1]
    lost = client.get("/runs/done/answers.json?kind=lost").json()
    assert {pair["kind"] for pair in lost["pairs"]} <= {"lost"}


def test_without_tuned_json_the_validation_answers_are_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=5, prompts=1, group=2, tuned=False)
    client = TestClient(build_view(FolderLibrary([run.path]), []), base_url="http://localhost")
    data = client.get("/runs/run/answers.json").json()
    assert (data["source"], data["step"]) == ("validation", 5)
    first, last = (
        {
            line["prompt_id"]: line["text"]
            for line in read_lines(run.validation)
            if line["step"] == n
        }
        for n in (0, 5)
    )
    shown = {pair["prompt"]["id"]: pair for pair in data["pairs"]}
    assert {id_: pair["base"]["text"] for id_, pair in shown.items()} == first
    assert {id_: pair["tuned"]["text"] for id_, pair in shown.items()} == last


def test_a_run_validated_once_has_nothing_to_set_side_by_side(client: TestClient) -> None:
    assert client.get("/runs/going/answers.json").json()["source"] == "none"
    assert "no answers of both models yet" in client.get("/runs/going/answers").text


def test_runs_are_compared(client: TestClient) -> None:
    data = client.get("/compare.json?run=done&run=going").json()
    reward = data["charts"][0]
    assert reward["title"] == "Training reward"
    assert {key: len(points) for key, points in reward["series"].items()} == {"going": 4, "done": 6}
    alone = client.get("/compare.json?run=done").json()["charts"]
    assert all(chart["series"].keys() == {"done"} for chart in alone)


def test_votes_are_blind_counted_and_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1, prompts=1, group=2, heldout=6)
    client = TestClient(build_view(FolderLibrary([run.path]), []), base_url="http://localhost")
    base = read_json(run.path / "base.json")["texts"]
    tuned = read_json(run.path / "tuned.json")["texts"]
    sides = set()
    for _ in range(12):
        shown = client.get("/runs/run/vote.json").json()["shown"]
        assert "base" not in json.dumps({k: v for k, v in shown.items() if k != "prompt"})
        place = int(shown["prompt"]["id"].removeprefix("test-"))
        side = "left" if shown["left"] == tuned[place] else "right"
        assert {shown["left"], shown["right"]} == {base[place], tuned[place]}
        sides.add(side)
        form = {"pair": shown["pair"], "showing": shown["showing"], "choice": side}
        answer = client.post("/runs/run/vote", data=form, headers=HERE, follow_redirects=False)
        assert answer.status_code == 303
    assert sides == {"left", "right"}  # 1 in 2048 that twelve draws fall on one side
    again = client.post("/runs/run/vote", data=form, headers=HERE)
    assert (again.status_code, "has its vote already" in again.text) == (400, True)
    unsigned = {**form, "showing": "0123456789abcdef.00"}
    refused = client.post("/runs/run/vote", data=unsigned, headers=HERE)
    assert (refused.status_code, "an earlier start" in refused.text) == (400, True)
    shown = client.get("/runs/run/vote.json").json()["shown"]
    form = {"pair": shown["pair"], "showing": shown["showing"], "choice": "equal"}
    client.post("/runs/run/vote", data=form, headers=HERE)
    result = client.get("/runs/run/vote.json").json()["result"]
    assert (result["votes"], result["tuned"], result["base"], result["equal"]) == (13, 12, 0, 1)
    # Wilson for 12 of 12: lower end n / (n + z^2) = 12 / (12 + 3.8415).
    assert result["win_rate_ci95"] == [pytest.approx(12 / 15.8415, abs=1e-4), 1.0]
    votes = read_lines(run.path / "votes.jsonl")
    assert [vote["preferred"] for vote in votes] == ["tuned"] * 12 + [None]
    # Answers that are no longer the run's do not count, and cannot be voted on.
    record = read_json(run.path / "tuned.json")
    write_json(run.path / "tuned.json", {**record, "texts": ["something else"] * 6})
    assert client.get("/runs/run/vote.json").json()["result"]["votes"] == 0
    refused = client.post("/runs/run/vote", data=form, headers=HERE)
    assert (refused.status_code, "no longer" in refused.text) == (400, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://localhost", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://localhost"}, 303),
        ({"sec-fetch-site": "same-origin"}, 303),
    ],
)
def test_only_a_page_of_ours_stops_a_run(
    client: TestClient, training: RunFolder, headers: dict[str, str], status: int
) -> None:
    answer = client.post("/runs/going/stop", headers=headers, follow_redirects=False)
    assert answer.status_code == status
    assert training.stop_requested() == (status == 303)


def test_a_model_among_the_runs_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1, prompts=1, group=2, heldout=2)
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", {"model_type": "llama"})
    assert [shown.folder.path for shown in FolderLibrary([tmp_path]).runs()] == [run.path]


def test_prompts_of_a_file_that_has_changed_are_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1, prompts=1, group=2, heldout=2)
    assert heldout_prompts(run)
    path = run.path / "data" / "test.jsonl"
    path.write_text("\n" + path.read_text())
    assert heldout_prompts(run) == {}


def test_a_run_that_nobody_trains_cannot_be_stopped(client: TestClient, runs: Path) -> None:
    answer = client.post("/runs/done/stop", headers=HERE)
    assert answer.status_code == 409
    assert not (runs / "done" / "STOP").exists()


def events_of(text: str) -> list[tuple[str, dict]]:
    blocks = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    return [(name, json.loads(data)) for name, data in blocks]


def test_what_is_new_is_told_from_where_the_page_was_made(client: TestClient, runs: Path) -> None:
    run = RunFolder(runs / "going")
    before = run.lengths()["metrics.jsonl"], run.events.stat().st_size
    place = client.get("/runs/going.json").json()["place"]
    assert place == f"{before[0]}-{before[1]}"
    line = read_lines(run.metrics)[-1]
    append_lines(run.metrics, [{**line, "step": 5, "reward_mean": 0.5}])
    run.event("note", "new")
    try:
        told = events_of(client.get(f"/runs/going/live?from={place}").text)
        assert [name for name, _ in told] == ["note", "step", "over"]
        assert told[1][1]["points"]["reward"]["training"][:2] == [5, 0.5]
        assert told[2][1]["state"]["name"] == "unfinished"
        # A browser that reconnects sends the id of the last event; it hears nothing twice.
        text = client.get(f"/runs/going/live?from={place}").text
        last = re.findall(r"id: (\S+)", text)[-1]
        again = client.get(f"/runs/going/live?from={place}", headers={"last-event-id": last})
        assert [name for name, _ in events_of(again.text)] == ["over"]
    finally:
        run.cut_back({**run.lengths(), "metrics.jsonl": before[0]})
    # The log was cut behind what the page has: it has to begin anew.
    told = events_of(client.get("/runs/going/live", headers={"last-event-id": last}).text)
    assert [name for name, _ in told] == ["again", "over"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "localhost.x"])
def test_other_host_names_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/runs.json", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:81", "127.0.0.1", "[::1]:8001", "LOCALHOST", "mine"])
def test_known_host_names_are_answered(runs: Path, host: str) -> None:
    client = TestClient(build_view(FolderLibrary([runs]), ["mine"]), base_url="http://x")
    assert client.get("/runs.json", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/runs/nothing",
        "/runs/%2e%2e%2fdone",
        "/runs/done%2f..%2fgoing",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/render.py",
        "/runs/done/config.json",
    ],
)
def test_nothing_else_is_given_out(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write_run(tmp_path / "elsewhere", steps=1, prompts=1, group=2, report=False)
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "link").symlink_to(tmp_path / "elsewhere")
    assert FolderLibrary([tmp_path / "shown"]).runs() == []


def test_every_answer_carries_the_policy_and_no_inline_script(client: TestClient) -> None:
    for path in ("/runs", "/runs/done", "/runs/done/rollouts?step=3", "/nothing", "/runs.json"):
        answer = client.get(path)
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?![^>]* src=)|\son\w+=\"|<[^>]*\sstyle=", answer.text)


@pytest.mark.parametrize(
    "path",
    [
        "/runs/done",
        "/runs/done/rollouts?step=3",
        "/runs/done/rollouts?step=all&text=<script>window.planted",
        "/runs/done/prompt?id=train-0",
        "/runs/done/answers",
        "/runs/done/prompt?id=<script>window.planted",
    ],
)
def test_what_a_model_wrote_is_escaped(client: TestClient, path: str) -> None:
    page = client.get(path).text
    assert "<script>window" not in page
    assert "<img" not in page
    assert "&lt;" in page


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("step=x", "'step' is 'x', which is no number."),
        ("least_reward=nan", "'least_reward' is 'nan', which is no number."),
        ("sort=nice", "There is no order 'nice'."),
        ("outcome=good", "'outcome' is 'good'."),
    ],
)
def test_a_wrong_address_is_told_so(client: TestClient, query: str, message: str) -> None:
    answer = client.get(f"/runs/done/rollouts.json?{query}")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)
    assert client.get(f"/runs/done/rollouts?{query}").status_code == 400


def test_the_pages_can_stand_below_another_path(runs: Path) -> None:
    pages = build_pages(FolderLibrary([runs]))
    client = TestClient(Starlette(routes=[Mount("/ui", pages)]), base_url="http://localhost")
    page = client.get("/ui/").text
    links = re.findall(r"(?:href|src|action)=\"([^\"#]+)\"", page)
    assert len(links) > 5
    assert all(link.startswith("/ui/") for link in links)
    assert all(client.get(link).status_code == 200 for link in set(links))


def test_plotly_comes_out_of_the_installed_package(client: TestClient) -> None:
    answer = client.get("/static/plotly.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert len(answer.content) > 1_000_000


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a folder"):
        FolderLibrary([tmp_path / "nothing"])


def test_runs_of_one_name_get_names_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_run(tmp_path / folder / "run 1.x", steps=1, prompts=1, group=2, report=False)
    library = FolderLibrary([tmp_path / "a", tmp_path / "b"])
    assert {run.key for run in library.runs()} == {"run-1-x", "run-1-x-2"}


def test_a_run_that_has_just_begun_has_all_its_pages(runs: Path, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "new")
    run.write_config(RunFolder(runs / "done").config())
    client = TestClient(build_view(FolderLibrary([run.path]), []), base_url="http://localhost")
    for page in ("", "/rollouts", "/answers", "/vote", "/prompt?id=x", "/validation?id=x", "/live"):
        assert client.get(f"/runs/new{page}").status_code == 200, page
    assert client.get("/compare").status_code == 200
    assert client.get("/runs/new.json").json()["place"] == "0-0"
    assert "No step is done yet." in client.get("/runs/new").text


def test_a_report_of_an_earlier_version_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "old", steps=1, prompts=1, group=2, heldout=6)
    newer = ("prompts_needed", "cost", "drawn", "slices", "contamination", "regression_records")
    report = {k: v for k, v in read_json(run.path / "report.json").items() if k not in newer}
    write_json(run.path / "report.json", report)
    client = TestClient(build_view(FolderLibrary([run.path]), []), base_url="http://localhost")
    shown = client.get("/runs/old.json").json()["report"]
    assert (shown["tables"], shown["difference"]) == ([], report["difference"])
    assert shown["verdict"] in client.get("/runs/old").text
