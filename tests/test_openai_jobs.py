"""Fine-tuning jobs through the real openai client: what is made of a request, and what is refused.

The supervisor is a stand-in: a job stays where a test puts it.
"""

import itertools
from datetime import UTC, datetime, timedelta

import openai
import pytest

from openai_server import EXACT, method, serving, upload
from tunestone.config import TrainConfig
from tunestone.jobs.job import Plan, move
from tunestone.jobs.journal import tell
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Job, Model

EMBEDDED = "smollm2-135m"
ARN = "arn:aws:lambda:us-west-2:123456789012:function:reward"
LAMBDA = {"type": "lambda", "lambda": {"function": ARN}}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("jobs")) as both:
        yield both


@pytest.fixture
def client(served):
    return served[1]


@pytest.fixture
def store(served):
    return served[0].store


def create(client, model=EMBEDDED, *, grader=EXACT, reinforcement=None, **options):
    """A job over a new file; `method` goes into the body as AWS's notebooks send it."""
    options.setdefault("training_file", upload(client))
    body = {"method": method(grader, **(reinforcement or {}))} | options.pop("extra_body", {})
    return client.fine_tuning.jobs.create(model=model, extra_body=body, **options)


def refusal(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def row_of(store, job):
    with store.session() as session:
        return session.get_one(Job, job.id.removeprefix("ftjob-"))


def plan_of(store, job):
    return Plan.from_json(row_of(store, job).plan)


def change(store, job, **columns):
    with store.session() as session:
        row = session.get_one(Job, job.id.removeprefix("ftjob-"))
        for name, value in columns.items():
            setattr(row, name, value)


def add_model(store, job, *, step, kind="checkpoint", **columns):
    key = job.id.removeprefix("ftjob-")
    tail = f":ckpt-step-{step}" if kind == "checkpoint" else ""
    values = {
        "id": new_id(),
        "alias": f"ft:{job.model}:tunestone::{key}{tail}",
        "kind": kind,
        "name": "",
        "job_id": key,
        "dialect": "openai",
        "model": job.model,
        "base": EMBEDDED,
        "adapter": f"jobs/{key}/run/adapter{step}",
        "status": "active",
        "region": "us-east-1",
        "step": step,
        "metrics": {"train_mean_reward": 0.25, "valid_reward_mean": step / 100},
        "created_at": now(),
    }
    with store.session() as session:
        session.add(Model(**(values | columns)))
    return (values | columns)["alias"]


# --- create ---------------------------------------------------------------------------------


def test_a_job_as_the_notebooks_create_it(served, client, store):
    """AWS's notebook: method in extra_body, a Lambda grader, three hyperparameters."""
    woken = served[0].jobs.woken
    training_file = upload(client)
    job = client.fine_tuning.jobs.create(
        model="qwen.qwen3-32b",
        training_file=training_file,
        extra_body={
            "method": {
                "type": "reinforcement",
                "reinforcement": {
                    "grader": LAMBDA,
                    "hyperparameters": {
                        "n_epochs": 1,
                        "batch_size": 4,
                        "learning_rate_multiplier": 0.5,
                    },
                },
            }
        },
    )
    assert job.id.startswith("ftjob-")
    assert (job.object, job.status, job.model) == (
        "fine_tuning.job",
        "validating_files",
        "qwen.qwen3-32b",
    )
    assert (job.training_file, job.validation_file, job.result_files) == (training_file, None, [])
    assert (job.finished_at, job.fine_tuned_model, job.error) == (None, None, None)
    assert (job.trained_tokens, job.estimated_finish) == (None, None)
    shown = job.model_dump(warnings=False)["method"]["reinforcement"]
    assert shown["grader"]["lambda"] == {"function": ARN}
    assert shown["hyperparameters"]["learning_rate_multiplier"] == 0.5
    plan = plan_of(store, job)
    assert plan.reward == {"type": "lambda", "function": ARN, "wrap_reference_answer": True}
    settings = {k: plan.settings[k] for k in ("epochs", "batch_size", "learning_rate")}
    assert settings == {"epochs": 1, "batch_size": 4, "learning_rate": 0.5e-4}
    assert (plan.least_rows, plan.most_rows) == (100, 20_000)
    assert served[0].jobs.woken == woken + 1
    assert client.fine_tuning.jobs.retrieve(job.id) == job


def test_all_seven_hyperparameters_become_settings(client, store):
    given = {
        "n_epochs": 3,
        "batch_size": 8,
        "learning_rate_multiplier": 2,
        "eval_interval": 5,
        "eval_samples": 40,
        "compute_multiplier": 0.5,
        "reasoning_effort": "low",
    }
    job = create(client, reinforcement={"hyperparameters": given}, seed=7)
    settings = plan_of(store, job).settings
    assert settings == {
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 2e-4,
        "eval_every": 5,
        "validation_rows": 40,
        "group_size": 4,
        "reasoning_effort": "low",
        "seed": 7,
    }
    TrainConfig.model_validate(settings)
    assert job.seed == 7
    assert job.method.reinforcement.hyperparameters.model_dump() == given


def test_auto_shows_what_it_comes_to(client, store):
    auto = dict.fromkeys(
        ("n_epochs", "batch_size", "eval_interval", "eval_samples", "compute_multiplier"), "auto"
    )
    job = create(client, reinforcement={"hyperparameters": {**auto, "reasoning_effort": "default"}})
    assert job.method.reinforcement.hyperparameters.model_dump() == {
        "n_epochs": 1,
        "batch_size": 16,
        "learning_rate_multiplier": 1.0,
        "eval_interval": "auto",  # the data decides it
        "eval_samples": "auto",
        "compute_multiplier": 1.0,
        "reasoning_effort": "default",
    }
    planned = {"eval_every": 2, "validation_prompts": 12, "settings": {"batch_size": 6}}
    change(store, job, progress=planned)
    shown = client.fine_tuning.jobs.retrieve(job.id).method.reinforcement.hyperparameters
    assert (shown.eval_interval, shown.eval_samples, shown.batch_size) == (2, 12, 6)


def test_legacy_hyperparameters_count_where_the_method_has_none(client, store):
    job = create(client, hyperparameters={"n_epochs": 2, "batch_size": "auto"})
    assert plan_of(store, job).settings["epochs"] == 2
    assert job.hyperparameters.model_dump() == {
        "n_epochs": 2,
        "batch_size": 16,
        "learning_rate_multiplier": 1.0,
    }


def test_own_settings_go_under_their_own_name(client, store):
    own = {"max_completion_tokens": 40, "lora_rank": 8, "seed": 5}
    job = create(client, extra_body={"tunestone": own})
    assert plan_of(store, job).settings.items() >= own.items()
    assert job.seed == 5


@pytest.mark.parametrize(
    ("settings", "param", "message"),
    [
        ({"max_completion": 4}, "tunestone", "Did you mean 'max_completion_tokens'?"),
        ({"lora_rank": -1}, "tunestone", "lora_rank = -1 (request): Input should be"),
        ({"data": "/etc/passwd"}, "tunestone.data", "a job does not set it"),
        ({"reward": "x.py:f"}, "tunestone.reward", "a job does not set it"),
        ({"sandbox": "none"}, "tunestone.sandbox", "a job does not set it"),
        ({"start_adapter": "/etc"}, "tunestone.start_adapter", "a job does not set it"),
    ],
)
def test_own_settings_are_checked(client, settings, param, message):
    error = refusal(
        openai.BadRequestError, lambda: create(client, extra_body={"tunestone": settings})
    )
    assert error.param == param
    assert message in error.message


def test_a_seed_is_chosen_and_shown_when_none_is_given(client, store):
    job = create(client)
    assert plan_of(store, job).settings["seed"] == job.seed
    assert create(client).seed != job.seed


def test_what_else_a_request_holds_is_kept_and_shown(client, store):
    wandb = {"type": "wandb", "wandb": {"project": "p", "entity": "e", "name": "n", "tags": ["t"]}}
    schema = {"type": "object", "properties": {"a": {"type": "number"}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    job = create(
        client,
        suffix="My model 1",
        metadata={"team": "a"},
        integrations=[wandb],
        reinforcement={"response_format": form},
        validation_file=upload(client),
    )
    assert (job.metadata, job.integrations[0].wandb.project) == ({"team": "a"}, "p")
    assert job.organization_id == "org-tunestone"
    assert job.method.reinforcement.model_dump()["response_format"] == form
    extras = job.model_extra
    assert extras["eval_id"] == f"eval_{job.id.removeprefix('ftjob-')}"
    assert extras["user_provided_suffix"] == "My model 1"
    plan = plan_of(store, job)
    assert (plan.suffix, plan.response_format) == ("My model 1", form)
    assert plan.validation[0].location == job.validation_file
    events = client.fine_tuning.jobs.list_events(job.id)
    said = [event.message for event in events]
    assert any("nothing is sent to Weights & Biases" in message for message in said)
    assert any(f"Validating validation file: {job.validation_file}" in m for m in said)
    assert said[-1] == f"Created fine-tuning job: {job.id}"


def test_an_alias_is_told_plainly(client, store):
    job = create(client, "openai.gpt-oss-20b", grader=LAMBDA)
    row = row_of(store, job)
    assert (row.model, row.base) == ("openai.gpt-oss-20b", EMBEDDED)
    note = "openai.gpt-oss-20b stands for the embedded model"
    assert any(note in text for text in job.model_extra["notes"])
    events = client.fine_tuning.jobs.list_events(job.id)
    assert any(note in event.message and event.level == "warn" for event in events)
    assert "notes" not in create(client).model_extra


def test_a_job_goes_on_from_a_checkpoint(client, store):
    first = create(client)
    alias = add_model(store, first, step=20)
    second = create(client, alias)
    row = row_of(store, second)
    assert second.model == alias
    assert (row.model, row.base) == (EMBEDDED, EMBEDDED)
    with store.session() as session:
        assert session.get_one(Model, row.start_adapter).alias == alias


# --- refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (
            {"method": None},
            "method",
            "the method 'supervised' (which a job without 'method' means)",
        ),
        ({"method": {"type": "dpo"}}, "method.type", "the method 'dpo' is not offered here"),
        (
            {"method": {"type": "reinforcement"}},
            "method.reinforcement",
            "Missing required parameter: 'method.reinforcement'.",
        ),
        (
            {"method": {"type": "reinforcement", "reinforcement": {}}},
            "method.reinforcement.grader",
            "Missing required parameter: 'method.reinforcement.grader'.",
        ),
        ({"method": {"type": "rl"}}, "method.type", "Invalid 'method.type': input should be"),
        ({"suffx": "a"}, "suffx", "Unknown parameter: 'suffx'. Did you mean 'suffix'?"),
        ({"suffix": "a:b"}, "suffix", "use letters, digits, blanks"),
        ({"suffix": "a" * 65}, "suffix", "at most 64 characters"),
        ({"seed": -1}, "seed", "Invalid 'seed': input should be greater than or equal to 0."),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "must have 1 to 64 characters"),
        ({"metadata": {"k": "v" * 513}}, "metadata", "has 513 characters, at most 512"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata", "there are 17 pairs"),
        ({"training_file": 3}, "training_file", "Invalid 'training_file': input should be a valid"),
        ({"integrations": [{"type": "mlflow"}]}, "integrations.0.type", "input should be 'wandb'"),
    ],
)
def test_a_bad_request_is_refused(client, body, param, message):
    training_file = upload(client)
    given = {"method": method()} | body
    error = refusal(
        openai.BadRequestError,
        lambda: client.fine_tuning.jobs.create(
            model=EMBEDDED, training_file=training_file, extra_body=given
        ),
    )
    assert message in error.message
    assert (error.param, error.type) == (param, "invalid_request_error")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_epochs", 0),
        ("n_epochs", 51),
        ("n_epochs", "all"),
        ("n_epochs", True),
        ("batch_size", 513),
        ("learning_rate_multiplier", 0),
        ("learning_rate_multiplier", 101),
        ("eval_interval", 0),
        ("eval_samples", 0),
        ("compute_multiplier", 0.2),
        ("compute_multiplier", 9),
        ("reasoning_effort", "none"),
        ("epochs", 1),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused(client, name, value):
    error = refusal(
        openai.BadRequestError,
        lambda: create(client, reinforcement={"hyperparameters": {name: value}}),
    )
    assert error.param == f"method.reinforcement.hyperparameters.{name}"
    assert f"'{error.param}'" in error.message


def test_a_refused_hyperparameter_is_told_its_range(client):
    error = refusal(
        openai.BadRequestError,
        lambda: create(client, reinforcement={"hyperparameters": {"n_epochs": 0}}),
    )
    assert error.message.endswith(
        "n_epochs': input should be 'auto' or greater than or equal to 1."
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"model": "\\ud800"}', "holds half of a surrogate pair"),
        (b'{"method": ' + b"[" * 300 + b"]" * 300 + b"}", "nested more than 200 levels deep"),
        (b"[" * 100_000, "could not parse the JSON body"),
        (b"[]", "must be a JSON object"),
        (b'{"seed": NaN}', "NaN is not in the standard"),
        (b'{"metadata": {"a": -1e999}}', "-1e999 is too large for a number"),
        (b'{"model": "m", "training_file": "f", "' + b"ab" * 10**6 + b'": 1}', "Unknown parameter"),
        (b"\xff", "could not parse the JSON body"),
        (b"", "Missing required parameter: 'model'."),
    ],
)
def test_a_body_that_is_no_request_is_refused(client, body, message):
    error = refusal(
        openai.BadRequestError,
        lambda: client.post("/fine_tuning/jobs", content=body, cast_to=object),
    )
    assert message in error.message


def test_files_are_checked(client):
    error = refusal(openai.BadRequestError, lambda: create(client, training_file="file-none"))
    assert (error.param, error.code) == ("training_file", "invalid_training_file")
    assert "there is no file file-none" in error.message
    batch = upload(client, purpose="batch")
    error = refusal(openai.BadRequestError, lambda: create(client, validation_file=batch))
    assert (error.param, error.code) == ("validation_file", "invalid_validation_file")
    assert "was uploaded with the purpose 'batch', not 'fine-tune'" in error.message
    same = upload(client)
    error = refusal(
        openai.BadRequestError,
        lambda: create(client, training_file=same, validation_file=same),
    )
    assert "are the same file" in error.message


def test_each_service_has_its_own_rules(client, store):
    error = refusal(
        openai.BadRequestError,
        lambda: create(client, "openai.gpt-oss-20b", grader=LAMBDA, suffix="a"),
    )
    assert (error.param, error.code) == ("suffix", "unsupported_parameter")
    assert "'suffix' is not supported for openai.gpt-oss-20b" in error.message
    error = refusal(openai.BadRequestError, lambda: create(client, "o4-mini-2025-04-16"))
    assert (error.param, error.code) == ("validation_file", "missing_required_parameter")
    both = create(client, "o4-mini-2025-04-16", validation_file=upload(client), suffix="a")
    plan = plan_of(store, both)
    assert (plan.least_rows, plan.most_rows, plan.most_validation_rows) == (1, 50_000, 1_000)
    lenient = plan_of(store, create(client, "someone/some-model"))
    assert (lenient.least_rows, lenient.most_rows) == (1, 10_000_000)


def test_a_model_that_is_not_there_is_not_found(client):
    error = refusal(openai.NotFoundError, lambda: create(client, "ft:a:b::abcdefabcdef"))
    assert (error.param, error.code) == ("model", "model_not_found")
    refusal(openai.NotFoundError, lambda: create(client, "../../etc"))


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ({"type": "function", "path": "/etc/passwd:grade"}, "no grader of type 'function' over"),
        ({"type": "http", "url": "http://169.254.169.254/"}, "no grader of type 'http' over"),
        ({"type": "lambda", "path": "/srv/handler.py"}, "lambda: `path` cannot be set over"),
        (
            {**LAMBDA, "endpoint_url": "http://127.0.0.1:1"},
            "lambda: `endpoint_url` cannot be set over the API",
        ),
        ({"type": "lambda", "lambda": {"function": "f"}}, "'f' is not the ARN of a Lambda"),
        ({"type": "sql", "database": "/srv/data.db"}, "sql: `database` cannot be set over"),
        (
            {
                "type": "multi",
                "calculate_output": "a",
                "graders": {"a": {"type": "lambda", "path": "x.py"}},
            },
            "lambda: `path` cannot be set over",
        ),
        (
            {
                "type": "score_model",
                "model": "m",
                "input": [{"role": "user", "content": "?"}],
                "endpoint": {"base_url": "http://evil", "api_key_env": "OPENAI_API_KEY"},
            },
            "score_model: `endpoint` cannot be set over",
        ),
        (
            {
                "type": "label_model",
                "model": "m",
                "input": [{"role": "user", "content": "?"}],
                "labels": ["a"],
                "passing_labels": ["a"],
            },
            "a label_model grader stands only inside a multi grader",
        ),
        ({**EXACT, "operation": "equals"}, "operation"),
        ({**EXACT, "input": "{{ item }}"}, "names no variable of item"),
        ({}, "no grader of type None"),
        ({"type": "python", "source": "def grade(:"}, "invalid syntax"),
        (
            {**EXACT, "type": "text_similarity", "evaluation_metric": "cosine"},
            "not allowed for reinforcement fine-tuning",
        ),
    ],
)
def test_a_grader_that_cannot_be_taken_is_refused(client, grader, message):
    error = refusal(openai.BadRequestError, lambda: create(client, grader=grader))
    assert (error.param, error.code) == ("method.reinforcement.grader", "invalid_grader")
    assert message in error.message


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "xml"}, ""),
        ({"type": "json_schema"}, ".json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, ".json_schema.name"),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "thing"}}},
            ".json_schema.schema",
        ),
    ],
)
def test_a_response_format_that_is_none_is_refused(client, form, param):
    error = refusal(
        openai.BadRequestError, lambda: create(client, reinforcement={"response_format": form})
    )
    assert error.code == "invalid_response_format"
    assert error.param == f"method.reinforcement.response_format{param}"


# --- lifecycle ------------------------------------------------------------------------------


def test_the_states_of_a_job(client, store):
    job = create(client)
    key = job.id.removeprefix("ftjob-")

    def go(state, **columns):
        with store.session() as session:
            move(session, key, state, **columns)
        return client.fine_tuning.jobs.retrieve(job.id)

    assert go("queued").status == "queued"
    end = datetime(2027, 1, 1, tzinfo=UTC)
    running = go("running", started_at=now(), estimated_end=end)
    assert (running.status, running.estimated_finish) == ("running", int(end.timestamp()))
    alias = add_model(store, job, step=0, kind="tuned")
    assert running.fine_tuned_model is None
    done = go("succeeded", trained_tokens=77, result_files=["file-r"])
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", alias, 77)
    assert (done.result_files, done.estimated_finish) == (["file-r"], None)
    assert done.created_at <= done.finished_at


def test_a_failed_job_says_why(client, store):
    job = create(client)
    error = {"code": "data_error", "message": "line 3: no JSON", "param": "training_file"}
    with store.session() as session:
        move(session, job.id.removeprefix("ftjob-"), "failed", error=error)
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed"
    assert failed.error.model_dump() == error


def test_cancel_is_for_good(client):
    job = create(client)
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert (cancelled.status, cancelled.fine_tuned_model) == ("cancelled", None)
    assert cancelled.finished_at is not None
    error = refusal(openai.BadRequestError, lambda: client.fine_tuning.jobs.resume(job.id))
    assert (error.code, error.type) == ("state_error", "invalid_request_error")
    assert "The job is stopped; only a paused job can be resumed." in error.message
    refusal(openai.BadRequestError, lambda: client.fine_tuning.jobs.cancel(job.id))


def test_pause_and_resume(client, store):
    job = create(client)
    with store.session() as session:
        move(session, job.id.removeprefix("ftjob-"), "queued")
    paused = client.fine_tuning.jobs.pause(job.id)
    assert (paused.status, paused.finished_at) == ("paused", None)
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"


def test_a_job_that_is_not_there(client, store):
    calls = client.fine_tuning.jobs
    bedrocks = create(client)
    change(store, bedrocks, dialect="bedrock")
    for name in ("ftjob-abcdefabcdef", "abc", bedrocks.id):
        for call in (calls.retrieve, calls.cancel, calls.pause, calls.resume, calls.list_events):
            error = refusal(openai.NotFoundError, lambda call=call, name=name: call(name))
            assert (error.code, error.param) == ("fine_tune_not_found", "fine_tune_id")
            assert f"Could not find fine tune: {name}" in error.message


# --- lists ----------------------------------------------------------------------------------


def test_lists_are_walked_newest_first_and_filtered(tmp_path):
    with serving(tmp_path) as (services, client):
        file = upload(client)
        colours = itertools.cycle(["red", "blue", None])
        jobs = [
            create(client, training_file=file, metadata={"colour": c, "n": str(i)} if c else None)
            for i, c in zip(range(12), colours, strict=False)
        ]
        moment = now()
        for i, job in enumerate(jobs):  # pairs were made at the same time
            change(services.store, job, created_at=moment + timedelta(seconds=i // 2))
        order = sorted(range(12), key=lambda i: (i // 2, jobs[i].id), reverse=True)
        newest = [jobs[i].id for i in order]
        calls = client.fine_tuning.jobs
        assert [job.id for job in calls.list(limit=5)] == newest
        assert [job.id for job in calls.list(limit=200)] == newest
        assert calls.list(limit=12).has_more is False
        red = [jobs[i].id for i in order if i % 3 == 0]
        assert [job.id for job in calls.list(limit=1, metadata={"colour": "red"})] == red
        both = calls.list(metadata={"colour": "red", "n": "3"})
        assert [job.id for job in both] == [jobs[3].id]
        none = [jobs[i].id for i in order if i % 3 == 2]
        assert [job.id for job in calls.list(extra_query={"metadata": "null"})] == none


def test_events_hold_still_while_more_come(client, store):
    job = create(client)
    key = job.id.removeprefix("ftjob-")

    def say(number):
        with store.session() as session:
            tell(session, key, f"n:{number}", f"Event {number}", data={"step": number})

    for number in range(5):
        say(number)
    pages = client.fine_tuning.jobs.list_events(job.id, limit=2)
    assert [event.message for event in pages.data] == ["Event 4", "Event 3"]
    assert pages.data[0].data == {"step": 4}
    assert (pages.data[0].type, pages.data[0].level) == ("message", "info")
    say(5)  # in front of what was seen: the next pages are as they would have been
    rest = [event.message for event in pages]
    assert rest[:5] == [f"Event {number}" for number in (4, 3, 2, 1, 0)]
    assert rest[-1] == f"Created fine-tuning job: {job.id}"
    error = refusal(
        openai.NotFoundError,
        lambda: client.fine_tuning.jobs.list_events(job.id, after="ftevent-none"),
    )
    assert error.param == "after"


def test_checkpoints_are_listed_with_their_rewards(client, store):
    job = create(client)
    aliases = [add_model(store, job, step=step) for step in (10, 20, 30)]
    add_model(store, job, step=0, kind="tuned")
    calls = client.fine_tuning.jobs.checkpoints
    found = list(calls.list(job.id, limit=2))
    assert [c.fine_tuned_model_checkpoint for c in found] == aliases[::-1]
    assert [c.step_number for c in found] == [30, 20, 10]
    assert found[0].fine_tuning_job_id == job.id
    assert found[0].object == "fine_tuning.job.checkpoint"
    assert found[0].metrics.step == 30
    assert found[0].metrics.model_extra["valid_reward_mean"] == 0.3
    assert list(calls.list(create(client).id)) == []


# --- permissions ----------------------------------------------------------------------------


def test_permissions_go_round(client, store):
    alias = add_model(store, create(client), step=10)
    calls = client.fine_tuning.checkpoints.permissions
    made = list(calls.create(alias, project_ids=["proj_a", "proj_b", "proj_c"]))
    assert [p.project_id for p in made] == ["proj_a", "proj_b", "proj_c"]
    assert made[0].object == "checkpoint.permission"
    assert list(calls.create(alias, project_ids=["proj_b"])) == [made[1]]
    listed = list(calls.list(alias, limit=1, order="ascending"))
    assert {p.id for p in listed} == {p.id for p in made}
    assert {p.id for p in calls.list(alias, limit=2)} == {p.id for p in made}
    assert [p.id for p in calls.list(alias, project_id="proj_c")] == [made[2].id]
    with pytest.warns(DeprecationWarning):
        assert len(calls.retrieve(alias).data) == 3
    gone = calls.delete(made[0].id, fine_tuned_model_checkpoint=alias)
    assert (gone.id, gone.deleted) == (made[0].id, True)
    refusal(
        openai.NotFoundError,
        lambda: calls.delete(made[0].id, fine_tuned_model_checkpoint=alias),
    )
    error = refusal(openai.NotFoundError, lambda: calls.list("ft:none"))
    assert error.code == "model_not_found"
