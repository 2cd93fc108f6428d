"""Notifications: signed as the openai client verifies, EventBridge-shaped, once, never lost.

The receiver is a real HTTP server whose answers a test decides.
"""

import contextlib
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from sqlalchemy import select, update

from postgres import postgres_cluster, postgres_url  # noqa: F401 - fixtures
from tunestone.api.notifications import describers
from tunestone.errors import ConfigError
from tunestone.jobs.job import move, note_change
from tunestone.jobs.notify import Notifier
from tunestone.jobs.settings import ServerSettings, Webhook, read_settings
from tunestone.jobs.store import Store, new_id, now, sqlite_url
from tunestone.jobs.tables import Change, Delivery, Job, Model

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@contextlib.contextmanager
def receiver(*statuses):
    """(url, what came): answers with `statuses` in turn, then with 200; 302 points to itself."""
    came, left = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append((self.path, dict(self.headers), body.decode()))
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *args):
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", came
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def store(tmp_path):
    opened = Store(sqlite_url(tmp_path))
    opened.migrate()
    yield opened
    opened.close()


def notifier(store, *receivers):
    return Notifier(store, receivers, describers(ServerSettings()), pace_seconds=0.01)


def add_job(store, dialect="openai", **changes):
    moment = now()
    job_id = new_id()
    request = {
        "jobName": "j", "customModelName": "tuned", "roleArn": "arn:aws:iam::1:role/r",
        "trainingDataConfig": {"s3Uri": "s3://b/train"},
        "customizationType": "REINFORCEMENT_FINE_TUNING",
        "validationDataConfig": {"validators": [{"s3Uri": "s3://b/one"}, {"s3Uri": "s3://b/two"}]},
        "outputDataConfig": {"s3Uri": "s3://b/out"},
        "customizationConfig": {"rftConfig": {"hyperParameters": {"batchSize": 16}}},
    }  # fmt: skip
    with store.session() as session:
        session.add(
            Job(
                id=job_id, dialect=dialect, name="j", state="validating", region="eu-west-1",
                model="amazon.nova-2-lite-v1:0:256k", base="b", created_at=moment,
                updated_at=moment, request=request, plan={}, phases={}, progress={},
                result_files=[], **changes,
            )
        )  # fmt: skip
    return job_id


def go(store, job_id, *states, **changes):
    for state in states:
        with store.session() as session:
            move(session, job_id, state, **(changes if state == states[-1] else {}))


def deliveries(store):
    with store.session() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.created_at)))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("queued", "running", "succeeded"), "fine_tuning.job.succeeded"),
        (("failed",), "fine_tuning.job.failed"),
        (("queued", "stopped"), "fine_tuning.job.cancelled"),
    ],
)
@pytest.mark.parametrize("secret", [SECRET, "a plain secret"])
def test_the_openai_client_unwraps_what_is_sent(store, states, expected, secret):
    job_id = add_job(store)
    go(store, job_id, *states)
    with receiver() as (url, came):
        telling = notifier(store, Webhook(url=url, secret=secret))
        telling.collect(), telling.send_due()
        telling.collect(), telling.send_due()
    assert len(came) == 1
    _, headers, body = came[0]
    client = openai.OpenAI(api_key="any")
    event = client.webhooks.unwrap(body, headers, secret=secret)
    assert (event.type, event.data.id, event.object) == (expected, f"ftjob-{job_id}", "event")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + " ", headers, secret=secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, headers, secret="whsec_AAAA")


def test_bedrocks_events_have_eventbridges_shape(store):
    job_id = add_job(store, "bedrock")
    go(store, job_id, "queued", "running")
    with store.session() as session:
        note_change(session, job_id, "stopping")
    with store.session() as session:
        session.add(
            Model(
                id="abcdefabcdef", alias="x", kind="tuned", name="tuned", job_id=job_id,
                dialect="bedrock", model="amazon.nova-2-lite-v1:0:256k", base="b", adapter="",
                status="active", region="eu-west-1", step=1, metrics={}, created_at=now(),
            )
        )  # fmt: skip
    go(store, job_id, "stopped")
    with receiver() as (url, came):
        telling = notifier(store, Webhook(url=url, kind="eventbridge"))
        telling.collect(), telling.send_due()
    events = [json.loads(body) for _, _, body in came]
    assert [event["detail"]["jobStatus"] for event in events] == [
        "InProgress", "Stopping", "Stopped",
    ]  # fmt: skip
    base = "amazon.nova-2-lite-v1:0:256k"
    account = "arn:aws:bedrock:eu-west-1:123456789012"
    arn = f"{account}:model-customization-job/{base}/{job_id}"
    last = events[-1]
    assert (last["source"], last["detail-type"], last["region"], last["resources"]) == (
        "aws.bedrock", "Model Customization Job State Change", "eu-west-1", [arn],
    )  # fmt: skip
    detail = last["detail"]
    times = {name: detail.pop(name) for name in ("creationTime", "lastModifiedTime", "endTime")}
    assert all(time.endswith("Z") and "T" in time for time in times.values())
    assert detail == {
        "version": "0.0",
        "jobName": "j",
        "jobArn": arn,
        "outputModelName": "tuned",
        "outputModelArn": f"{account}:custom-model/{base}/abcdefabcdef",
        "roleArn": "arn:aws:iam::1:role/r",
        "jobStatus": "Stopped",
        "baseModelArn": f"arn:aws:bedrock:eu-west-1::foundation-model/{base}",
        "hyperParameters": {"batchSize": "16"},
        "trainingDataConfig": {"s3Uri": "s3://b/train"},
        "validationDataConfig": {"s3Uri": "s3://b/one"},
        "outputDataConfig": {"s3Uri": "s3://b/out"},
    }
    assert "endTime" not in events[0]["detail"]


def test_a_failed_job_says_why(store):
    job_id = add_job(store, "bedrock")
    go(store, job_id, "failed", error={"code": "data_error", "message": "line 3 is no JSON"})
    with receiver() as (url, came):
        telling = notifier(store, Webhook(url=url, kind="eventbridge"))
        telling.collect(), telling.send_due()
    detail = json.loads(came[0][2])["detail"]
    assert (detail["jobStatus"], detail["failureMessage"]) == ("Failed", "line 3 is no JSON")


def test_each_receiver_hears_of_its_own_door_only_and_of_each_state_once(store):
    mine, theirs = add_job(store), add_job(store, "bedrock")
    with receiver() as (one, of_one), receiver() as (two, of_two):
        hooks = [Webhook(url=one, secret=SECRET), Webhook(url=two, secret="x")]
        telling = notifier(store, *hooks, Webhook(url=two, kind="eventbridge"))
        for job_id in (mine, theirs):
            go(store, job_id, "queued", "running", "paused", "queued", "running", "succeeded")
        telling.collect(), telling.send_due()
    assert [json.loads(body)["type"] for _, _, body in of_one] == ["fine_tuning.job.succeeded"]
    told = [json.loads(body) for _, _, body in of_two]
    assert [event.get("type") or event["detail"]["jobStatus"] for event in told] == [
        "fine_tuning.job.succeeded", "InProgress", "Completed",
    ]  # fmt: skip
    with store.session() as session:
        assert session.scalars(select(Change)).all() == []


def test_what_was_not_received_is_sent_again_later_with_the_same_id(store, caplog):
    go(store, add_job(store), "failed")
    with receiver(500, 302) as (url, came):
        telling = notifier(store, Webhook(url=url, secret=SECRET))
        telling.collect()
        with caplog.at_level(logging.WARNING):
            for wait in (5, 10):
                telling.send_due()
                [waiting] = deliveries(store)
                assert waiting.done_at is None
                assert wait - 1 < (waiting.next_at - now()).total_seconds() <= wait
                telling.send_due()  # not yet
                hasten(store)
        telling.send_due()
    assert [path for path, _, _ in came] == ["/hook"] * 3  # a redirect is not followed
    assert len({headers["webhook-id"] for _, headers, _ in came}) == 1
    assert len({body for _, _, body in came}) == 1
    [done] = deliveries(store)
    assert (done.attempts, done.error, done.done_at is not None) == (3, "", True)
    assert "is tried again in 5 s: The receiver answered 500." in caplog.text


def hasten(store):
    with store.session() as session:
        session.execute(update(Delivery).values(next_at=now()))


def test_a_receiver_that_is_away_holds_nobody_up_and_is_given_up_after_three_days(store):
    with receiver() as (gone, _):
        pass
    go(store, add_job(store), "failed")
    with receiver() as (url, came):
        telling = notifier(store, Webhook(url=gone, secret="x"), Webhook(url=url, secret="x"))
        telling.collect(), telling.send_due()
        assert len(came) == 1
    waiting = next(row for row in deliveries(store) if row.target == gone)
    assert "Connection refused" in waiting.error and waiting.done_at is None
    with store.session() as session:
        old = now().replace(year=now().year - 1)
        session.execute(update(Delivery).values(created_at=old, next_at=old))
    telling.send_due()
    assert next(row for row in deliveries(store) if row.target == gone).done_at is not None


def test_nothing_is_lost_when_the_server_ends_in_between(store, tmp_path):
    go(store, add_job(store), "failed")
    with receiver() as (url, came):
        hook = Webhook(url=url, secret=SECRET)
        go(store, add_job(store), "queued", "stopped")
        notifier(store, hook).collect()  # planned, not sent: then the process was killed
        go(store, add_job(store), "failed")  # and not even planned
        again = Store(sqlite_url(tmp_path))
        telling = notifier(again, hook)
        telling.start()
        while len(came) < 3 or any(row.done_at is None for row in deliveries(again)):
            threading.Event().wait(0.01)
        telling.shutdown()
        again.close()
    assert len(came) == 3


def test_what_cannot_be_described_holds_up_nothing_else(store, caplog):
    broken = add_job(store, "bedrock")
    with store.session() as session:
        session.get(Job, broken).request = {}
    fine = add_job(store, "bedrock")
    go(store, broken, "failed")
    go(store, fine, "failed")
    with receiver() as (url, came):
        telling = notifier(store, Webhook(url=url, kind="eventbridge"))
        telling.collect(), telling.send_due()
    assert json.loads(came[0][2])["detail"]["jobArn"].endswith(fine)
    assert "A change of a job cannot be described" in caplog.text


def test_a_receiver_taken_out_of_the_settings_is_not_told(store):
    go(store, add_job(store), "failed")
    with receiver() as (url, came):
        notifier(store, Webhook(url=url, secret="x")).collect()
        notifier(store).send_due()
    assert came == [] and "no longer name" in deliveries(store)[0].error


def test_on_postgresql_too(postgres_url):  # noqa: F811
    store = Store(postgres_url)
    store.migrate()
    go(store, add_job(store), "queued", "running", "succeeded")
    with receiver() as (url, came):
        telling = notifier(store, Webhook(url=url, secret=SECRET))
        telling.collect(), telling.send_due(), telling.collect(), telling.send_due()
    assert len(came) == 1
    openai.OpenAI(api_key="any").webhooks.unwrap(came[0][2], came[0][1], secret=SECRET)
    store.close()


@pytest.mark.parametrize("secret", ["", "whsec_no base64"])
def test_a_webhook_needs_a_secret_that_can_sign(secret, tmp_path):
    (tmp_path / "server.toml").write_text(
        f'[[webhooks]]\nurl = "http://127.0.0.1:1/x"\nsecret = "{secret}"\n'
    )
    with pytest.raises(ConfigError, match=r"setting 'webhooks.0'.*a webhook needs a secret"):
        read_settings(tmp_path / "server.toml", {})
