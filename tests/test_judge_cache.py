"""Replies found again by content: across threads, processes and reopened files."""

import multiprocessing
import sqlite3
import threading

import pytest

from tunestone.errors import StorageError
from tunestone.rewards.judges.cache import FILE_NAME, ReplyCache, cache_key
from tunestone.rewards.judges.chat_models import Endpoint, SamplingParams


def key_of(**changes):
    parts = {
        "model": "judge",
        "endpoint": Endpoint(base_url="http://127.0.0.1:1/v1"),
        "messages": [{"role": "user", "content": "good?"}],
        "schema": {"type": "object"},
        "params": SamplingParams(temperature=0),
    }
    parts |= changes
    return cache_key(parts.pop("model"), parts.pop("endpoint"), **parts)


def test_whatever_decides_the_reply_is_in_the_key():
    others = [
        key_of(model="judge-2"),
        key_of(endpoint=Endpoint(base_url="http://127.0.0.1:2/v1")),
        key_of(endpoint=Endpoint(api="bedrock", base_url="http://127.0.0.1:1/v1")),
        key_of(messages=[{"role": "system", "content": "good?"}]),
        key_of(messages=[{"role": "user", "content": "good"}, {"role": "user", "content": "?"}]),
        key_of(schema=None),
        key_of(params=SamplingParams(temperature=0.5)),
        key_of(params=SamplingParams()),
    ]
    assert len({key_of(), *others}) == 9


def test_how_long_and_how_often_is_not_in_the_key(monkeypatch):
    url = "http://127.0.0.1:1/v1"
    patient = Endpoint(base_url=url, timeout_seconds=7, concurrency=1, api_key_env="KEY")
    assert key_of(endpoint=patient) == key_of()


def test_the_clients_own_address_variable_is_in_the_key(monkeypatch):
    keys = set()
    for url in ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        keys.add(key_of(endpoint=Endpoint()))
    assert len(keys) == 2


@pytest.mark.parametrize("in_folder", [True, False])
def test_the_first_reply_under_a_key_stays(tmp_path, in_folder):
    cache = ReplyCache(tmp_path if in_folder else None)
    assert cache.get("k") is None
    cache.put("k", "one")
    cache.put("k", "two")
    assert cache.get("k") == "one"
    cache.close()


def test_a_file_outlives_its_cache_and_memory_does_not(tmp_path):
    for folder, expected in [(tmp_path / "new" / "folder", "Größe"), (None, None)]:
        first = ReplyCache(folder)
        first.put("k", "Größe")
        first.close()
        assert ReplyCache(folder).get("k") == expected


def test_many_threads_share_one_cache(tmp_path):
    cache = ReplyCache(tmp_path)

    def work(thread):
        for i in range(10):
            cache.put(f"{thread}-{i}", str(i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cache.get(f"{n}-{i}") == str(i) for n in range(8) for i in range(10))


def put_some(folder, process):
    cache = ReplyCache(folder)
    for i in range(20):
        cache.put(f"{process}-{i}", str(i))


def test_several_processes_share_one_file(tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=put_some, args=(tmp_path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    cache = ReplyCache(tmp_path)
    assert all(cache.get(f"{n}-{i}") == str(i) for n in range(4) for i in range(20))


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(StorageError, match=f"{FILE_NAME} cannot be used.*delete the file"):
        ReplyCache(tmp_path)


def test_a_file_that_breaks_later_is_named_too(tmp_path):
    cache = ReplyCache(tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("DROP TABLE replies")
    for use in (lambda: cache.get("k"), lambda: cache.put("k", "v")):
        with pytest.raises(StorageError, match="no such table"):
            use()
