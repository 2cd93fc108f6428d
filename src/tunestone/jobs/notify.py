"""Notifications of jobs' states: webhooks signed as OpenAI signs them, and EventBridge's events.

A change of state leaves a row in `changes`, in the same transaction. The notifier turns each into
`deliveries`, one per receiver and state, again in one transaction, and sends what is due until it
is received: so a restart loses none and a state is told once. A receiver that was reached but whose
answer was lost may see the same delivery again, with the same `webhook-id`.
"""

import base64
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, final

import urllib3
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from tunestone.jobs.settings import Webhook
from tunestone.jobs.store import Store, new_id, now
from tunestone.jobs.tables import Change, Delivery, Job

_log = logging.getLogger(__name__)

Json = dict[str, Any]
_FIRST_WAIT = timedelta(seconds=5)
_LONGEST_WAIT = timedelta(hours=1)
_GIVE_UP = timedelta(hours=72)
_KEEP_DONE = timedelta(days=30)
_TIMEOUT_SECONDS = 10.0
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Notice:
    """What a receiver is told of a state."""

    state: str
    """As the dialect calls it; a job has a notice of each once."""
    payload: Json


Describe = Callable[[Session, Job, Change], Notice | None]
"""A change in a dialect's words; None where the dialect says nothing of it."""
Kind = Literal["webhook", "eventbridge"]


@final
class Notifier:
    """A thread that tells receivers what became of jobs."""

    def __init__(
        self,
        store: Store,
        receivers: Sequence[Webhook],
        describe: Mapping[Kind, Describe],
        *,
        pace_seconds: float = 1.0,
    ) -> None:
        """It looks for changes every `pace_seconds`."""
        self._store = store
        self._receivers = receivers
        self._describe = describe
        self._pace_seconds = pace_seconds
        self._http = urllib3.PoolManager(
            retries=False, timeout=urllib3.Timeout(_TIMEOUT_SECONDS), cert_reqs="CERT_REQUIRED"
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier server left."""
        self._thread.start()

    def shutdown(self) -> None:
        """End after the delivery that is being sent; the rest waits for the next start."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def collect(self) -> None:
        """Turn changes into deliveries."""
        with self._store.session() as session:
            changes = session.scalars(select(Change.sequence).order_by(Change.sequence)).all()
        for sequence in changes:
            try:
                self._collect_one(sequence)
            except (LookupError, TypeError, ValueError):
                _log.exception("A change of a job cannot be described; nobody is told of it.")
                with self._store.session() as session:
                    session.execute(delete(Change).where(Change.sequence == sequence))

    def send_due(self) -> None:
        """Try each delivery whose time has come, in the order of the changes."""
        with self._store.session() as session:
            waiting = select(Delivery).where(Delivery.done_at.is_(None), Delivery.next_at <= now())
            due = session.scalars(waiting.order_by(Delivery.created_at).limit(_AT_ONCE)).all()
        for delivery in due:
            if self._ended.is_set():
                return
            self._note(delivery, self._send(delivery))

    def _work(self) -> None:
        while True:
            try:
                self.collect()
                self.send_due()
                self._forget()
            except Exception:  # noqa: BLE001 - the next round tries again
                _log.exception("Notifications wait.")
            if self._ended.wait(self._pace_seconds):
                return

    def _collect_one(self, sequence: int) -> None:
        with self._store.session() as session:
            change = session.get(Change, sequence)
            if change is None:
                return  # its job was deleted meanwhile
            job = session.get_one(Job, change.job_id)
            for receiver in self._receivers:
                self._plan(session, receiver, job, change)
            session.delete(change)

    def _plan(self, session: Session, receiver: Webhook, job: Job, change: Change) -> None:
        notice = self._describe[receiver.kind](session, job, change)
        if notice is None:
            return
        key = f"{job.id}:{notice.state}:{_fingerprint(receiver)}"
        if session.scalar(select(Delivery.id).where(Delivery.key == key)) is None:
            session.add(
                Delivery(
                    id=f"wh_{new_id()}{new_id()}",
                    key=key,
                    target=receiver.url,
                    kind=receiver.kind,
                    payload=notice.payload,
                    next_at=change.created_at,
                    created_at=change.created_at,
                )
            )
            session.flush()

    def _send(self, delivery: Delivery) -> str:
        """Why it was not received, or empty."""
        receivers = [
            r for r in self._receivers if (r.url, r.kind) == (delivery.target, delivery.kind)
        ]
        if not receivers:
            return "The settings no longer name this receiver."
        body = json.dumps(delivery.payload).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "tunestone"}
        if delivery.kind == "webhook":
            headers |= sign(receivers[0].secret, delivery.id, body, at=now())
        try:
            answer = self._http.request(
                "POST", delivery.target, body=body, headers=headers, redirect=False
            )
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"[:500]
        return "" if 200 <= answer.status < 300 else f"The receiver answered {answer.status}."

    def _note(self, delivery: Delivery, reason: str) -> None:
        moment = now()
        attempts = delivery.attempts + 1
        is_over = not reason or moment - delivery.created_at > _GIVE_UP
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(attempts - 1, 20))
        if reason:
            what = "was given up" if is_over else f"is tried again in {wait.total_seconds():.0f} s"
            _log.warning("Notification %s %s: %s", delivery.id, what, reason)
        with self._store.session() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.id == delivery.id)
                .values(
                    attempts=attempts,
                    error=reason,
                    next_at=moment + wait,
                    done_at=moment if is_over else None,
                )
            )

    def _forget(self) -> None:
        with self._store.session() as session:
            session.execute(delete(Delivery).where(Delivery.done_at < now() - _KEEP_DONE))


def sign(secret: str, delivery_id: str, body: bytes, *, at: datetime) -> dict[str, str]:
    """Headers by which the openai client's `webhooks.unwrap` knows that a body is ours.

    `secret` is `whsec_` and base64, or any text; the scheme is that of standardwebhooks.com.
    """
    timestamp = str(int(at.timestamp()))
    key = secret.encode()
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{delivery_id}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def _fingerprint(receiver: Webhook) -> str:
    return hashlib.sha256(f"{receiver.kind} {receiver.url}".encode()).hexdigest()[:12]
