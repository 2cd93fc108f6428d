"""`tunestone serve` and `tunestone keys`, as a person runs them: in a process of its own."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import openai
import pytest

from live_server import serving, write_certificate
from postgres import postgres_cluster, postgres_url  # noqa: F401 - fixtures
from tunestone.cli import main


@pytest.fixture
def tunestone(capsys, monkeypatch):
    """Runs a command that ends, in this process: (status, output, errors)."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["tunestone", *map(str, options)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    yield run
    root.handlers[:], root.level = before


def get(url, **headers):
    """(status, body)."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve") / "data") as running:
        yield running


def test_it_says_where_it_is_and_how_to_point_clients_at_it(server):
    url, log = server.url, server.log()
    assert f"Tunestone is ready at {url}  (data in " in log
    assert f"export AWS_ENDPOINT_URL_BEDROCK={url}\n" in log
    assert f"export OPENAI_BASE_URL={url}/v1\n" in log
    assert "No key is needed here" in log
    assert "the services' names stand for the embedded\n  smollm2-135m" in log


def test_unmodified_clients_reach_it(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", server.url)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    bedrock = boto3.client(
        "bedrock", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    assert bedrock.list_model_customization_jobs()["modelCustomizationJobSummaries"] == []
    assert list(openai.OpenAI(api_key="any").fine_tuning.jobs.list()) == []


def test_health_metrics_and_log(server):
    assert get(f"{server.url}/healthz") == (200, '{"status":"ok"}')
    get(f"{server.url}/v1/nothing")
    status, text = get(f"{server.url}/metrics")
    assert status == 200
    assert 'tunestone_jobs{state="running"} 0.0' in text
    assert 'status="404"} 1.0' in text and "process_resident_memory_bytes" in text
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    line = next(line for line in lines if line.get("path") == "/v1/nothing")
    assert (line["event"], line["status"], line["caller"]) == ("request", 404, "")
    assert re.fullmatch(r"[0-9a-f-]{36}", line["request_id"])


def test_the_server_does_not_say_what_it_is(server):
    with urllib.request.urlopen(f"{server.url}/healthz") as answer:
        assert answer.headers["server"] is None
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_serving_imports_nothing_heavy(tmp_path):
    program = (
        "import sys, tunestone.cli, tunestone.cli.serving\n"
        "from tunestone.jobs.settings import ServerSettings\n"
        "from tunestone.api import logs, server\n"
        f"settings = ServerSettings(data={str(tmp_path / 'data')!r}, port=0)\n"
        "with server.open_services(settings, 'http://127.0.0.1:1') as services:\n"
        "    server.build_server(services, server.Readiness())\n"
        "    heavy = 'torch transformers peft moto boto3 sacrebleu scipy numpy openai nltk'\n"
        "    print([name for name in heavy.split() if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(tmp_path, number):
    with serving(tmp_path / "data") as running:
        running.process.send_signal(number)
        assert running.process.wait(timeout=30) == 0
        assert "Traceback" not in running.log()
    assert not (tmp_path / "data" / "tunestone.db-wal").exists()  # the database was closed


def test_a_running_request_is_finished_before_the_end(tmp_path):
    with serving(tmp_path / "data") as running:
        port = int(running.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            body = b'{"name": "x"}'
            head = (
                f"POST /v1/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            )
            slow.sendall(head.encode() + b"\r\n")
            slow.settimeout(30)
            assert b" 404 " in slow.recv(4096)
            slow.sendall(body)
        with contextlib.closing(urllib.request.urlopen(f"{running.url}/openapi.json")) as answer:
            running.process.send_signal(signal.SIGTERM)
            assert json.load(answer)["openapi"].startswith("3.")
        assert running.process.wait(timeout=30) == 0


def test_two_servers_on_one_folder(server, tunestone):
    data = re.search(r"data in (.*)\)", server.log())[1]
    status, _, errors = tunestone("serve", "--data", data, "--port", "0")
    assert status == 2
    assert f"Another server (process {server.process.pid}) uses the data folder" in errors
    assert "Traceback" not in errors


def test_a_port_in_use(server, tmp_path, tunestone):
    port = server.url.rpartition(":")[2]
    status, _, errors = tunestone("serve", "--data", tmp_path / "data", "--port", port)
    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use." in errors


def test_a_folder_that_cannot_be(tmp_path, tunestone):
    (tmp_path / "file").write_text("x")
    status, _, errors = tunestone("serve", "--data", tmp_path / "file" / "data", "--port", "0")
    assert status == 3
    assert "cannot be written to: Not a directory." in errors and "--data" in errors


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read all")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tunestone.db", "database cannot be used: attempt to write a readonly database."),
        ("secret", "secret cannot be read: Permission denied."),
        ("server.lock", "server.lock cannot be written to: Permission denied."),
    ],
)
def test_a_folder_that_another_user_has_written_to(tmp_path, name, message, tunestone):
    """As after `sudo tunestone keys create`: said in words, before anything is served."""
    assert tunestone("keys", "create", "--data", tmp_path)[0] == 0
    (tmp_path / "server.lock").touch()
    (tmp_path / name).chmod(0o400 if name == "tunestone.db" else 0)
    powers = "-dac_override,-dac_read_search"
    less = ["setpriv", "--bounding-set", powers, "--inh-caps", powers] * (os.geteuid() == 0)
    command = [sys.executable, "-m", "tunestone.cli", "serve", "--data", tmp_path, "--port", "0"]
    ended = subprocess.run([*less, *command], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3 and message in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("prot = 1", "has no setting 'prot'.\nDid you mean 'port'?"),
        ("port = 99999", "setting 'port': Input should be less than or equal to 65535."),
        ('[base_models.x]\nsorce = "y"', "'base_models.x.sorce'.\nDid you mean 'source'?"),
        (
            '[base_models.x]\nsource = "y"\nsettings = { lora_rnk = 8 }',
            "Unknown setting 'lora_rnk' (base_models.'x'.settings).\nDid you mean 'lora_rank'?",
        ),
        ('[[webhooks]]\nurl = "http://x"', "'webhooks.0': a webhook needs a secret"),
        ('tls_key = "/no/such.pem"', "There is a tls_key, but no tls_certificate."),
        ('database = "mysql://x/y"', "no support for mysql"),
        ('tls_certificate = "/no/such.pem"', "/no/such.pem"),
    ],
)
def test_wrong_settings_are_named(tmp_path, settings, message, tunestone):
    (tmp_path / "server.toml").write_text(settings)
    status, _, errors = tunestone(
        "serve", "--config", tmp_path / "server.toml", "--data", tmp_path / "data"
    )
    assert status == 2 and message in errors and "Traceback" not in errors


def test_local_aws_without_its_extra(tmp_path):
    program = (
        "import importlib.util as util, sys\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'moto' else find(name, *rest)\n"
        f"sys.argv = ['tunestone', 'serve', '--local-aws', '--data', {str(tmp_path)!r}]\n"
        "from tunestone.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = "error: With local_aws the server needs moto.\nInstall the extra: pip install"
    assert ended.returncode == 2 and ended.stderr.startswith(said)


def test_it_refuses_to_be_reached_by_others_without_keys(tmp_path, tunestone):
    data = tmp_path / "data"
    status, _, errors = tunestone("serve", "--data", data, "--host", "0.0.0.0", "--port", "0")
    assert status == 2
    assert "0.0.0.0 can be reached from other machines, and there are no keys." in errors
    assert f"tunestone keys create --data {data}" in errors


def test_keys_from_making_to_revoking(tmp_path, tunestone):
    data = tmp_path / "data"
    assert "There are no keys" in tunestone("keys", "list", "--data", data)[1]
    status, made, _ = tunestone("keys", "create", "--data", data, "--name", "ci", "--scope", "read")
    assert status == 0
    given = dict(line.split("=", 1) for line in made.splitlines() if "=" in line)
    with serving(data, "--host", "0.0.0.0") as running:
        url = running.url
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=given["OPENAI_API_KEY"], max_retries=0)
        assert list(client.fine_tuning.jobs.list()) == []
        bedrock = boto3.client(
            "bedrock", endpoint_url=url, region_name="us-east-1",
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        bedrock.list_model_customization_jobs()
        assert get(f"{url}/v1/fine_tuning/jobs")[0] == 401
        _, listed, _ = tunestone("keys", "list", "--data", data)
        assert re.search(r"^AKTS\w{16}  read   ci  made .*, last used ", listed)
        for secret in (given["OPENAI_API_KEY"], given["AWS_SECRET_ACCESS_KEY"]):
            assert secret not in listed + running.log()
        assert tunestone("keys", "revoke", "ci", "--data", data)[0] == 0
        with pytest.raises(openai.AuthenticationError):
            while True:
                client.fine_tuning.jobs.list()
    status, _, errors = tunestone("keys", "revoke", "ci", "--data", data)
    assert status == 2 and "'ci' was revoked before" in errors


def test_what_was_made_is_there_after_a_kill(tmp_path):
    data = tmp_path / "data"
    with serving(data) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any")
        kept = client.files.create(file=("t.jsonl", b'{"a": 1}\n'), purpose="fine-tune")
        running.process.kill()
        running.process.wait()
    with serving(data) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any")
        assert client.files.retrieve(kept.id).bytes == 9
        assert client.files.content(kept.id).read() == b'{"a": 1}\n'


def test_on_postgresql(tmp_path, postgres_url):  # noqa: F811
    data = tmp_path / "data"
    with serving(data, "--database", postgres_url) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any")
        kept = client.files.create(file=("t.jsonl", b"{}\n"), purpose="fine-tune")
    assert not (data / "tunestone.db").exists()
    with serving(data, "--database", postgres_url) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any")
        assert [file.id for file in client.files.list()] == [kept.id]


def test_over_https_and_ipv6(tmp_path):
    certificate = write_certificate(tmp_path)
    (tmp_path / "server.toml").write_text(f'tls_certificate = "{certificate}"\nhost = "::1"\n')
    command = ["serve", "--config", tmp_path / "server.toml", "--data", tmp_path / "data"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tunestone.cli", *command, "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        found = re.search(r"https://\[::1\]:\d+", process.stdout.readline())
        trusting = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(f"{found[0]}/healthz", context=trusting) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def test_the_log_as_text(tmp_path):
    with serving(tmp_path / "data", "--log-format", "text") as running:
        get(f"{running.url}/v1/nothing")
        while "operation" not in running.log():
            time.sleep(0.01)
        assert re.search(r"\[info\s+\] request .*path=/v1/nothing", running.log())
    assert Path(running.log_path).exists()
