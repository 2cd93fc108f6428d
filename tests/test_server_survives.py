"""What was acknowledged survives: one server is killed twice and ended once in the middle of a job.

The job that goes through all this must end with the same bits as one that was left alone.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import time

import openai
import pytest

from live_server import serving
from local_aws_server import ROLE, client_of, zipped
from test_resume import assert_same_weights
from test_tutorial import environment  # noqa: F401 - fixture
from toy import without_times
from tunestone.jobs import trainer
from tunestone.runlog import read_lines

STEPS = 50
HANDLER = """
import time

def lambda_handler(event, context):
    time.sleep(SECONDS)
    return [
        {"id": one["id"], "aggregate_reward_score": one["messages"][-1]["content"].count("a")}
        for one in event
    ]
"""


def rows():
    lines = ({"messages": [{"role": "user", "content": f"Say {i}"}]} for i in range(12))
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def deploy(server, name, seconds):
    code = HANDLER.replace("SECONDS", str(seconds))
    return client_of(server.url, "lambda").create_function(
        FunctionName=name,
        Runtime="python3.11",
        Role=ROLE,
        Handler="m.lambda_handler",
        Code={"ZipFile": zipped(m=code)},
    )["FunctionArn"]


@contextlib.contextmanager
def connected(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def add_job(client, function, file_id):
    hyperparameters = {"n_epochs": 50, "batch_size": 4, "eval_interval": 20}
    job = client.fine_tuning.jobs.create(
        model="smollm2-135m",
        training_file=file_id,
        seed=7,
        method={
            "type": "reinforcement",
            "reinforcement": {
                "grader": {"type": "lambda", "lambda": {"function": function}},
                "hyperparameters": hyperparameters,
            },
        },
        extra_body={
            "tunestone": {
                "max_completion_tokens": 24,
                "group_size": 4,
                "lora_rank": 4,
                "validation_rows": 2,
                "max_steps": STEPS,
                "patience": 0,
            }
        },
    )
    return job.id.removeprefix("ftjob-")


def step_of(client, job_id):
    """The last step that clients were told of."""
    events = client.fine_tuning.jobs.list_events(f"ftjob-{job_id}", limit=100)
    return max((event.data["step"] for event in events if event.type == "metrics"), default=0)


def wait_for_message(client, job_id, beginning):
    while not any(
        event.message.startswith(beginning)
        for event in client.fine_tuning.jobs.list_events(f"ftjob-{job_id}", limit=1000)
    ):
        assert client.fine_tuning.jobs.retrieve(f"ftjob-{job_id}").finished_at is None
        time.sleep(0.05)


def wait_for_step(client, job_id, step):
    while step_of(client, job_id) < step:
        job = client.fine_tuning.jobs.retrieve(f"ftjob-{job_id}")
        assert job.status in ("validating_files", "queued", "running"), (job.error, job.status)
        time.sleep(0.05)


def wait_for_end(client, job_id):
    while (job := client.fine_tuning.jobs.retrieve(f"ftjob-{job_id}")).finished_at is None:
        time.sleep(0.1)
    return job


def begin_upload(server, folder):
    """The connection of an upload of which half has come."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(8 * 2**20))
    connection.endheaders()
    head = '--b\r\nContent-Disposition: form-data; name="file"; filename="half"\r\n\r\n'
    connection.send(head.encode() + b"x" * (4 * 2**20))
    while not any(path.stat().st_size > 2**20 for path in (folder / "files").glob("*.partial")):
        time.sleep(0.01)
    return connection


def kill(server):
    server.process.kill()
    server.process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_job_and_all_that_was_acknowledged_survive_kills_and_a_shutdown(
    tmp_path,
    environment,  # noqa: F811
):
    data = tmp_path / "data"
    config = tmp_path / "server.toml"
    config.write_text("trainer_threads = 1\nengine_threads = 1\n")
    options = ("--local-aws", "--config", str(config), "--port", free_port())
    with serving(data, *options, environment=environment) as server, connected(server) as client:
        slow, quick = (deploy(server, name, s) for name, s in (("slow", 0.4), ("quick", 0)))
        file_id = client.files.create(file=("train.jsonl", rows()), purpose="fine-tune").id
        job_id = add_job(client, slow, file_id)
        undisturbed = add_job(client, quick, file_id)  # waits for the first
        wait_for_step(client, job_id, 2)
        half = begin_upload(server, data)
        client_of(server.url, "s3").put_object(Bucket="bucket", Key="last", Body=b"words")
        deploy(server, "last", 0)
        kill(server)
        half.close()

    folder = data / "jobs" / job_id
    with serving(data, *options, environment=environment) as server, connected(server) as client:
        assert [file.id for file in client.files.list()] == [file_id]
        assert [path.name for path in (data / "files").iterdir()] == [file_id]
        last = client_of(server.url, "s3").get_object(Bucket="bucket", Key="last")
        assert last["Body"].read() == b"words"
        assert client_of(server.url, "lambda").get_function(FunctionName="last")
        wait_for_message(client, job_id, "The server is back; the training went on.")
        wait_for_step(client, job_id, step_of(client, job_id) + 2)
        mark = trainer.read_mark(folder)
        kill(server)
        os.killpg(mark["pid"], signal.SIGKILL)

    with serving(data, *options, environment=environment) as server, connected(server) as client:
        wait_for_message(client, job_id, "The trainer was gone after step")
        wait_for_step(client, job_id, step_of(client, job_id) + 1)
        stream = client.chat.completions.create(
            model="smollm2-135m",
            messages=[{"role": "user", "content": "Go on"}],
            max_completion_tokens=500,
            temperature=0,
            stream=True,
        )
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError):  # refused, or answered with 503 while it ends
            while True:
                client.models.retrieve("smollm2-135m")
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "length"
        assert len(rest) > 10
        assert server.process.wait(timeout=120) == 0
        assert "Traceback" not in server.log()
        assert not trainer.is_alive(folder)

    with serving(data, *options, environment=environment) as server, connected(server) as client:
        wait_for_message(client, job_id, "The server was shut down")
        for job in (job_id, undisturbed):
            ended = wait_for_end(client, job)
            assert (ended.status, ended.error) == ("succeeded", None)
            told = client.fine_tuning.jobs.list_events(f"ftjob-{job}", limit=1000)
            steps = [event.data["step"] for event in told if event.type == "metrics"]
            assert steps == list(range(STEPS, 0, -1))
    ours, theirs = (data / "jobs" / job / "run" for job in (job_id, undisturbed))
    lines = [list(map(without_times, read_lines(p / "metrics.jsonl"))) for p in (ours, theirs)]
    assert lines[0] == lines[1]
    assert (ours / "samples.jsonl").read_bytes() == (theirs / "samples.jsonl").read_bytes()
    assert_same_weights(ours / "adapter", theirs / "adapter")
