"""The form for a new job, asked as its page asks: what it offers, and what it says of rows.

What is clicked and typed is in test_create_form_browser.py.
"""

import json

import pytest

from dashboard_server import HERE, serving
from tunestone.api.dashboard import rows
from tunestone.api.dashboard.grader_templates import grader_templates
from tunestone.api.openai.graders import read_reward
from tunestone.api.openai.hyperparameters import NOT_OF_A_JOB
from tunestone.config import TrainConfig
from tunestone.jobs.names import EMBEDDED

EXACT = {
    "type": "string_check",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference_answer }}",
    "operation": "eq",
}


def line(number, **more):
    turns = [{"role": "user", "content": f"What is {number} + {number * number}?"}]
    return {"messages": turns, "reference_answer": str(number + number * number), **more}


def jsonl(lines):
    return "".join(json.dumps(row) + "\n" for row in lines).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny_folder):
    table = {"tiny": {"source": str(tiny_folder), "settings": {"lora_rank": 4}}}
    with serving(tmp_path_factory.mktemp("create"), base_models=table) as both:
        yield both


@pytest.fixture
def services(served):
    return served[0]


@pytest.fixture
def client(served):
    return served[1]


def upload(client, content, name="rows.jsonl"):
    given = {"file": (name, content)}
    answer = client.post("/v1/files", files=given, data={"purpose": "fine-tune"})
    return answer.json()["id"]


def preview(client, file_id):
    return client.get(f"/ui/jobs/new/files/{file_id}.json")


def check(client, training_file, **more):
    wanted = {"model": "tiny", "training_file": training_file, **more}
    return client.post("/ui/jobs/check", json=wanted, headers=HERE)


def refusal(answer):
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["message"]


# --- what is offered


def test_every_setting_of_a_job_stands_there_with_its_meaning(client):
    data = client.get("/ui/jobs/new.json").json()
    groups = [data["first_settings"], *(group["settings"] for group in data["more_settings"])]
    shown = {setting["name"]: setting for group in groups for setting in group}
    assert shown.keys() == TrainConfig.model_fields.keys() - NOT_OF_A_JOB
    for name, setting in shown.items():
        meaning = TrainConfig.model_fields[name].description
        assert setting["meaning"] == " ".join(meaning.split())
    assert shown["epochs"] | {"meaning": ""} == {
        "name": "epochs",
        "label": "epochs",
        "kind": "number",
        "choices": [],
        "range": "at least 1, at most 50",
        "default": "1",
        "meaning": "",
    }
    assert shown["algorithm"]["choices"][0] == shown["algorithm"]["default"] == "dapo"
    assert shown["mask_truncated"]["kind"] == "flag"
    assert (shown["max_steps"]["kind"], shown["max_steps"]["default"]) == ("number", "")
    assert shown["response_format"]["kind"] == "json"
    page = client.get("/ui/jobs/new").text
    assert all(f'data-setting="{name}"' in page for name in shown)


def test_base_models_are_those_that_the_api_takes(client, tmp_path):
    data = client.get("/ui/jobs/new.json").json()
    assert [model["name"] for model in data["models"]] == [EMBEDDED, "tiny"]
    assert not data["takes_hub_ids"]  # there is a table, and only what is in it is trained
    note = data["models"][1]["note"]
    assert note.startswith("tiny stands for /")
    assert "by its hub id" not in client.get("/ui/jobs/new").text
    with serving(tmp_path) as (_, other):
        assert "by its hub id" in other.get("/ui/jobs/new").text


@pytest.mark.parametrize("template", grader_templates(), ids=lambda template: template["type"])
def test_every_template_is_a_grader_that_a_job_takes(services, template):
    reward = read_reward(services, template["grader"], "http://127.0.0.1:1/v1")
    assert reward.spec["type"] == template["type"]
    for field in template["fields"]:
        *above, name = field["path"]
        place = template["grader"]
        for key in above:
            place = place[key]
        assert (name in place) != field["more"]
        assert field["meaning"]


# --- rows of a file


def test_the_first_rows_of_an_uploaded_file_are_shown(client):
    found = preview(client, upload(client, jsonl(line(i) for i in range(8)))).json()
    assert (found["filename"], found["rows"], found["unusable"]) == ("rows.jsonl", 8, 0)
    assert found["fault"] is None
    assert found["first"] == [line(i) for i in range(5)]


def test_what_is_wrong_with_a_file_names_its_line_and_no_path_of_the_server(client, services):
    broken = jsonl([line(0), line(1)]) + b"\n{'messages': 1}\n" + jsonl([line(3)])
    found = preview(client, upload(client, broken, "mine.jsonl")).json()
    assert (found["rows"], found["unusable"]) == (4, 1)
    assert found["fault"]["line"] == 4
    assert found["fault"]["message"].startswith("mine.jsonl:4: invalid JSON at column 2")
    assert str(services.folder) not in json.dumps(found)
    assert found["first"] == [line(0), line(1)]


def test_a_file_that_is_not_there_is_refused(client):
    answer = preview(client, "file-none")
    assert refusal(answer) == (404, "id", "No such File object: file-none")


# --- the check


def test_the_check_finds_repeats_and_recommends(client, services):
    lines = [line(i) for i in range(30)] + [line(7)]
    training, validation = (
        upload(client, jsonl(part), f"{name}.jsonl")
        for name, part in {"train": lines, "held": [line(i) for i in range(50, 60)]}.items()
    )
    answer = check(
        client, training, validation_file=validation, grader=EXACT, tunestone={"epochs": 2}
    )
    assert answer.status_code == 200, answer.text
    found = answer.json()
    levels = [finding["level"] for finding in found["findings"]]
    assert levels == sorted(levels, key=["fatal", "warning", "advice", "ok"].index)
    codes = {finding["code"]: finding for finding in found["findings"]}
    assert "1 of 31 training prompts" in codes["duplicate_prompts"]["message"]
    assert codes["plan"]["section"] == "plan"
    settings = {setting["name"]: setting for setting in found["settings"]}
    assert "epochs" not in settings  # it was given
    assert settings["batch_size"]["value"] == 31 // 8
    assert settings["batch_size"]["source"] == "Tunestone"
    # The tiny tokenizer has a token per byte; role, end and the assistant's mark are three more.
    longest = max(len(row["messages"][0]["content"]) for row in lines) + 3
    assert settings["max_prompt_tokens"]["value"] == 2 * longest
    assert all(setting["reason"] for setting in found["settings"])
    assert str(services.folder) not in answer.text


def test_a_prompt_in_both_files_is_fatal_and_nothing_is_recommended(client):
    training = upload(client, jsonl(line(i) for i in range(12)), "train.jsonl")
    validation = upload(client, jsonl([line(3)]), "held.jsonl")
    found = check(client, training, validation_file=validation).json()
    assert found["settings"] == []
    assert (found["findings"][0]["level"], found["findings"][0]["code"]) == (
        "fatal",
        "validation_leak",
    )


def test_a_fault_in_the_rows_is_told_at_its_file_and_line(client, services):
    training = upload(client, jsonl(line(i) for i in range(3)), "train.jsonl")
    validation = upload(client, jsonl([line(9), {"messages": []}]), "held.jsonl")
    status, param, message = refusal(check(client, training, validation_file=validation))
    assert (status, param) == (400, "validation_file")
    assert message.startswith("held.jsonl:2: `messages` is empty.")
    assert str(services.folder) not in message


@pytest.mark.parametrize(
    ("more", "param", "reason"),
    [
        ({"model": "nobody"}, "model", "There is no model 'nobody'"),
        ({"training_file": "file-none"}, "training_file", "there is no file file-none"),
        ({"tunestone": {"epochs": 99}}, "tunestone", "epochs = 99"),
        ({"tunestone": {"data": "/etc/passwd"}}, "tunestone.data", "a job does not set it"),
        ({"model_name": "tiny"}, "model_name", "Did you mean 'model'?"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_the_words_of_the_api(client, more, param, reason):
    training = upload(client, jsonl(line(i) for i in range(3)))
    status, named, message = refusal(check(client, **{"training_file": training, **more}))
    assert (status, named) == (404 if param == "model" else 400, param)
    assert reason in message


def test_a_malformed_grader_is_told_as_one(client):
    training = upload(client, jsonl(line(i) for i in range(3)))
    status, param, message = refusal(check(client, training, grader={"type": "numbre"}))
    assert (status, param) == (400, "method.reinforcement.grader")
    assert "Did you mean 'number'?" in message


def test_other_sites_cannot_have_anything_checked(client):
    wanted = {"model": "tiny", "training_file": "file-none"}
    headers = {"sec-fetch-site": "cross-site"}
    answer = client.post("/ui/jobs/check", json=wanted, headers=headers)
    assert answer.status_code == 403


def test_a_check_that_takes_too_long_is_ended(client, monkeypatch):
    training = upload(client, jsonl(line(i) for i in range(3)))
    monkeypatch.setattr(rows, "_SECONDS", 0.01)
    status, _, message = refusal(check(client, training))
    assert status == 503
    assert message.startswith("The check was ended after 0 seconds.")
