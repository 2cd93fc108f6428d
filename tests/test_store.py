"""The database: one store on SQLite and on a real PostgreSQL, its steps, and what can be wrong.

Each test of `store` runs on both.
"""

import contextlib
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from postgres import postgres_cluster, postgres_url  # noqa: F401 - fixtures
from tunestone.errors import ConfigError, RunError, StorageError, WorldError
from tunestone.jobs.data_folder import holding_database
from tunestone.jobs.job import ENDED, MOVES, StateError, move
from tunestone.jobs.migrations import differences
from tunestone.jobs.store import Store, new_id, now, sqlite_url
from tunestone.jobs.tables import Base, Change, Event, Job, Key


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def store(url):
    opened = Store(url)
    opened.migrate()
    yield opened
    opened.close()


def add_job(store, state="queued", **changes):
    moment = now()
    values = {
        "id": new_id(), "dialect": "openai", "name": "", "state": state, "model": "m", "base": "b",
        "region": "us-east-1", "created_at": moment, "updated_at": moment, "request": {"a": [1]},
        "plan": {}, "phases": {}, "progress": {}, "result_files": [],
    }  # fmt: skip
    with store.session() as session:
        session.add(Job(**{**values, **changes}))
    return {**values, **changes}["id"]


def state_of(store, job_id):
    with store.session() as session:
        return session.get(Job, job_id).state


def in_threads(count, work):
    """Run work(i) in as many threads at once; gives results, exceptions among them."""
    together = threading.Barrier(count)
    results = [None] * count

    def run(i):
        together.wait()
        try:
            results[i] = work(i)
        except Exception as error:  # noqa: BLE001 - a test looks at it
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_the_steps_lead_to_the_tables(store):
    assert differences(store.engine) == []
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs ADD COLUMN surplus INTEGER"))
    assert "surplus" in str(differences(store.engine))  # so the comparison sees


def test_migrating_again_keeps_what_is_there(store):
    job_id = add_job(store)
    store.migrate()
    assert state_of(store, job_id) == "queued"


def test_servers_that_start_at_once_migrate_in_turn(url):
    stores = [Store(url) for _ in range(4)]
    assert in_threads(4, lambda i: stores[i].migrate()) == [None] * 4
    assert differences(stores[0].engine) == []
    for opened in stores:
        opened.close()


def test_one_server_at_a_time_has_a_postgresql_database(postgres_url):  # noqa: F811
    with (
        contextlib.closing(Store(postgres_url)) as one,
        contextlib.closing(Store(postgres_url)) as two,
    ):
        with (
            holding_database(one),
            pytest.raises(RunError, match="Another server uses this database"),
            holding_database(two),
        ):
            pass
        with holding_database(two):
            pass


def test_a_database_of_a_newer_version_is_refused_and_left_alone(store):
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError) as refused:
        store.migrate()
    assert "written by a newer version of Tunestone (step 9999;" in str(refused.value)
    with store.engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_what_only_some_databases_can_keep_is_kept_by_all(store):
    """PostgreSQL keeps no NUL, no number beyond its column, and answers in its own time zone."""
    if store.engine.dialect.name == "postgresql":
        with store.engine.begin() as connection:
            name = connection.scalar(text("SELECT current_database()"))
            connection.execute(text(f"ALTER DATABASE {name} SET timezone TO 'Asia/Kathmandu'"))
        store.engine.dispose()
    job_id = add_job(store, name="a\0b\ud800", trained_tokens=2**40, plan={"a": "\0"})
    with store.session() as session:
        job = session.get(Job, job_id)
        assert (job.name, job.trained_tokens, job.plan) == ("a\ufffdb\ufffd", 2**40, {"a": "\0"})
        assert job.created_at.utcoffset() == timedelta(0)
        assert session.get(Job, "no\0job") is None


def test_a_database_that_fails_is_a_failing_world(store):
    with pytest.raises(StorageError) as failed, store.session() as session:
        if store.engine.dialect.name == "sqlite":
            session.execute(text("PRAGMA max_page_count=1"))
            session.execute(text("CREATE TABLE big AS SELECT randomblob(100000)"))
        else:
            session.execute(text("SET temp_file_limit = 0; SET work_mem = 64"))
            session.execute(text("SELECT random() FROM generate_series(1, 100000) ORDER BY 1"))
    assert "database cannot be used: " in str(failed.value)


def test_a_row_comes_back_as_it_went_in(store):
    elsewhere = timezone(timedelta(hours=5))
    job_id = add_job(
        store,
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=elsewhere),
        request={"ü": None, "b": [1.5, {"c": True}], "a": "\u2028 \x1f"},
    )
    with store.session() as session:
        job = session.get(Job, job_id)
    assert job.created_at == datetime(2026, 1, 1, 22, 4, 5, 678901, tzinfo=UTC)
    assert job.created_at.utcoffset() == timedelta(0)
    assert list(job.request.items()) == [
        ("ü", None), ("b", [1.5, {"c": True}]), ("a", "\u2028 \x1f"),
    ]  # fmt: skip
    assert job.error is None and job.trained_tokens == 0


def test_a_time_without_a_zone_is_refused(store):
    with pytest.raises(Exception, match="a time without a zone"):
        add_job(store, created_at=datetime(2026, 1, 1))


def test_a_session_that_fails_changes_nothing(store):
    job_id = add_job(store)
    with pytest.raises(StateError), store.session() as session:
        move(session, job_id, "running")
        move(session, job_id, "queued")
        move(session, job_id, "succeeded")
    assert state_of(store, job_id) == "queued"
    with store.session() as session:
        assert session.scalars(select(Change)).all() == []


@pytest.mark.parametrize("state", sorted(MOVES))
def test_only_the_moves_of_the_table_are_made(store, state):
    for to in MOVES:
        job_id = add_job(store, state)
        if to in MOVES[state]:
            with store.session() as session:
                move(session, job_id, to)
            with store.session() as session:
                job = session.get(Job, job_id)
                assert (job.state, job.ended_at is not None) == (to, to in ENDED)
                assert session.scalar(select(Change.state).where(Change.job_id == job_id)) == to
        else:
            with (
                pytest.raises(StateError, match=f"The job is {state}; it cannot become {to}."),
                store.session() as session,
            ):
                move(session, job_id, to)


def test_of_many_that_move_a_job_at_once_one_does(store):
    for _ in range(5):
        job_id = add_job(store, "running")

        def end(i, job_id=job_id):
            with store.session() as session:
                session.get(Job, job_id)  # as handlers do: look, then act
                move(session, job_id, ("succeeded", "stopped", "failed")[i % 3])

        results = in_threads(8, end)
        assert sorted(map(str, results)).count("None") == 1
        assert sum(isinstance(result, StateError) for result in results) == 7
        with store.session() as session:
            assert len(session.scalars(select(Change).where(Change.job_id == job_id)).all()) == 1


def test_readers_and_writers_do_not_lock_each_other_out(store):
    job_id = add_job(store)

    def work(i):
        for number in range(20):
            with store.session() as session:
                session.get(Job, job_id)
                session.add(
                    Event(
                        id=new_id(), job_id=job_id, key=f"{i}:{number}", created_at=now(),
                        level="info", type="message", message="x",
                    )
                )  # fmt: skip

    assert in_threads(8, work) == [None] * 8
    with store.session() as session:
        assert len(session.scalars(select(Event)).all()) == 160


def test_an_event_is_kept_once_and_goes_with_its_job(store):
    job_id = add_job(store)
    event = {"job_id": job_id, "key": "metrics:1", "created_at": now(), "level": "info"}
    event |= {"type": "metrics", "message": "x", "data": {"step": 1}}
    with store.session() as session:
        session.add(Event(id="a", **event))
    with pytest.raises(IntegrityError), store.session() as session:
        session.add(Event(id="b", **event))
    with store.session() as session:
        session.delete(session.get(Job, job_id))
    with store.session() as session:
        assert session.scalars(select(Event)).all() == []


def test_hashes_of_keys_are_unique(store):
    same = {"name": "x", "bearer_sha256": "0" * 64, "scopes": ["read"], "created_at": now()}
    with pytest.raises(IntegrityError), store.session() as session:
        session.add_all([Key(id="a", **same), Key(id="b", **same)])


def test_names_of_constraints_fit_postgresql():
    names = [
        constraint.name
        for table in Base.metadata.tables.values()
        for constraint in (*table.constraints, *table.indexes)
    ]
    assert all(name and len(name) <= 63 for name in names)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("nonsense", ConfigError, "'database' is no URL of a database"),
        ("mysql://a@b/c", ConfigError, "no support for mysql"),
        ("postgresql://u:geheim@127.0.0.1:1/x", WorldError, "u:***@127.0.0.1:1/x cannot be used"),
        ("sqlite:////no/such/folder/x.db", WorldError, "unable to open database file"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(url, error, message):
    with pytest.raises(error) as refused:
        Store(url).migrate()
    assert message in str(refused.value) and "geheim" not in str(refused.value)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "tunestone.db").write_text("hello" * 1000)
    with pytest.raises(WorldError, match="file is not a database"):
        Store(sqlite_url(tmp_path)).migrate()


def test_sqlite_keeps_what_it_acknowledged(tmp_path):
    store = Store(sqlite_url(tmp_path))
    with store.engine.connect() as connection:
        pragmas = [
            connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
