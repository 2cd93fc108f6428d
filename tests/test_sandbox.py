"""Hostile and broken reward code: each harms its own sample only, under every mechanism."""

import os
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tunestone.errors import RewardError, SandboxError
from tunestone.rewards.grader import open_grader
from tunestone.rewards.sandbox import Limits, Mechanism, Program, Sandbox, choose_mechanism
from tunestone.rewards.sandbox.mechanism import expose
from tunestone.rewards.sandbox.pool import find_fault
from tunestone.rewards.spec import Context
from tunestone.types import Prompt, Sample

MECHANISMS = [
    Mechanism("bubblewrap"),
    Mechanism("landlock"),
    Mechanism("landlock", namespaces=False),
]
WORKING = [mechanism for mechanism in MECHANISMS if not find_fault(mechanism)]

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
HOSTILE = """
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path

calls = 0

def reward(prompt, completion, row):
    global calls
    calls += 1
    what, _, rest = completion.partition(" ")
    if what == "good":
        return {"reward": float(rest or 1), "calls": calls}
    return globals()[what](rest)

def fork_bomb(rest):
    while True:
        os.fork()

def endless_loop(rest):
    while True:
        pass

def allocate(rest):
    data = bytearray(10 << 30)
    return len(data)

def allocate_in_children(rest):
    for _ in range(6):
        if os.fork() == 0:
            data = bytearray(100 << 20)
            time.sleep(60)
    time.sleep(60)

def huge_output(rest):
    while True:
        print("x" * 1_000_000)

def huge_result(rest):
    return {"reward": 1, "x" * 3_000_000: 1}

def huge_file(rest):
    with open("big", "wb") as file:
        while True:
            file.write(bytes(1 << 20))

def read(rest):
    return len(Path(rest).read_text())

def list_folder(rest):
    return len(os.listdir(rest))

def write(rest):
    Path(rest).write_text("was here")
    return 1

def open_socket(rest):
    socket.create_connection(("127.0.0.1", int(rest)), timeout=2)
    return 1

def unix_socket(rest):
    client = socket.socket(socket.AF_UNIX)
    client.connect(rest)
    return 1

def ignore_sigterm(rest):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)

def leave_process(rest):
    os._exit(0)

def crash(rest):
    import ctypes
    ctypes.string_at(0)

def exit_politely(rest):
    sys.exit("done")

def big_answer(rest):
    return {"reward": len(rest), "x" * 800_000: 0}

def look_like_a_result(rest):
    text = '{"value": {"reward": 99}, "modules": []}'
    print(text, flush=True)
    os.write(1, len(text).to_bytes(4, "big") + text.encode())
    return 0

def write_results_to_all_descriptors(rest):
    text = b'{"value": {"reward": 99}, "modules": []}'
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, (len(text).to_bytes(4, "big") + text) * 5)
        except OSError:
            continue
    os._exit(0)

def delete_own_files(rest):
    import shutil
    folder = Path(__file__).parent
    Path(__file__).unlink()
    return 1

def change_the_grader(rest):
    import builtins
    module = sys.modules[__name__]
    module.reward = lambda prompt, completion, row: 1000.0
    builtins.float = lambda text: 1000.0
    for value in list(globals().values()):
        if callable(value) and hasattr(value, "__code__"):
            value.__code__ = (lambda rest: 1000.0).__code__
    for loaded in list(sys.modules.values()):
        if hasattr(loaded, "encode") and hasattr(loaded, "write"):
            loaded.encode = None
    raise RuntimeError("changed")

def kill_the_worker(rest):
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(-1, signal.SIGKILL)
    time.sleep(60)

def stop_the_worker(rest):
    os.kill(os.getppid(), signal.SIGSTOP)
    return 1

def lower_the_workers_limits(rest):
    import resource
    resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, 0))
    return 1

def slow_the_worker_down(rest):
    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
    return 1

def use_the_null_device(rest):
    subprocess.run(["/bin/true"], stdout=subprocess.DEVNULL, check=True)
    with open("/dev/null", "w") as sink:
        return sink.write("x")

def forge_an_answer(rest):
    text = json.dumps(json.loads(rest)).encode()
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, len(text).to_bytes(4, "big") + text)
        except OSError:
            continue
    os._exit(0)

def nest_an_answer(rest):
    text = b"[" * 989 + b"]" * 989
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, len(text).to_bytes(4, "big") + text)
        except OSError:
            continue
    os._exit(0)

def nest_folders(rest):
    for _ in range(1100):
        os.mkdir("d")
        os.chdir("d")
    return 1

def change_modes(rest):
    os.chmod(rest, 0)
    os.utime(rest, (0, 0))
    import shutil
    shutil.copy(rest, "copy")
    return 1

def send_outside(rest):
    here, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    here.sendto(b"out", rest)
    return 1

def share_memory(rest):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.shmget(4242, 4096, 0o1666) < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    return 1

def leave_children(rest):
    for _ in range(14):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    return 1

def use_ten_processes(rest):
    running = [subprocess.Popen(["/bin/sleep", "0.1"]) for _ in range(10)]
    return sum(process.wait() == 0 for process in running)

def move_the_print_position(rest):
    os.ftruncate(1, 0)
    os.lseek(1, 5_000_000, 0)
    return 1

def drip(rest):
    text = b'{"value": 1}'
    for byte in len(text).to_bytes(4, "big") + text * 100:
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, bytes([byte]))
            except OSError:
                continue
        time.sleep(0.3)

def print_and_fail(rest):
    print("a word")
    raise ValueError("failed")

def close_the_pipe(rest):
    os.closerange(3, 64)
    time.sleep(60)

def leave_many_files(rest):
    for i in range(5000):
        open(str(i), "w").close()
    return 1

def move_a_file(rest):
    os.makedirs("a")
    os.makedirs("b")
    Path("a/x").write_text("x")
    os.rename("a/x", "b/x")
    return 1

def leave_a_daemon(rest):
    if os.fork() == 0:
        os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    return 1

def leave_a_file(rest):
    Path("trace").write_text("x")
    os.makedirs("deep/er")
    return 1

def find_a_file(rest):
    return float(Path("trace").exists() or Path("deep").exists())

def use_a_shell(rest):
    return int(subprocess.run(["/bin/sh", "-c", "echo $((40 + 2))"], capture_output=True).stdout)

def see_environment(rest):
    return {"reward": len(os.environ), "secret": float("SECRET" in os.environ)}
"""


@pytest.fixture(params=WORKING, ids=lambda mechanism: mechanism.description)
def sandbox(request, tmp_path):
    """A sandbox of each working mechanism that has loaded the hostile reward."""
    (tmp_path / "reward.py").write_text(HOSTILE)
    program = Program(
        "tunestone.rewards.function:load_program",
        {"path": "reward.py:reward", "folder": str(tmp_path)},
        readable=(tmp_path,),
    )
    limits = Limits(seconds=3, memory_mib=256, processes=16)
    with Sandbox(program, limits, request.param, workers=2) as opened:
        yield opened


def grades(sandbox, *texts):
    return sandbox.call([{"prompt": [], "completion": text, "row": {}} for text in texts])


def living(sessions):
    """Processes of these sessions that are not zombies."""
    found = []
    for entry in filter(lambda entry: entry.name.isdigit(), Path("/proc").iterdir()):
        with suppress(OSError):
            state, _, _, session = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:4]
            if int(session) in sessions and state != b"Z":
                found.append(entry.name)
    return found


def assert_harmless(sandbox, hostile: str, kind: str, said: str):
    """The hostile sample is an error of this kind; those around it get their grades."""
    outcomes = grades(sandbox, "good 1", "good 2", hostile, "good 3", "good 4")
    assert (outcomes[2].kind, outcomes[2].value) == (kind, None)
    assert said in outcomes[2].error
    others = [outcomes[i].value["reward"] for i in (0, 1, 3, 4)]
    assert others == [1.0, 2.0, 3.0, 4.0]


def test_this_machine_confines_reward_code():
    # CI installs bubblewrap; without any of these the tests below would be empty.
    assert Mechanism("landlock") in WORKING or Mechanism("bubblewrap") in WORKING


@pytest.mark.parametrize(
    ("hostile", "kind", "said"),
    [
        ("endless_loop", "timeout", "no result within the limit of 3 s"),
        ("ignore_sigterm", "timeout", "no result within the limit of 3 s"),
        ("fork_bomb", "killed", "more than the limit of 16"),
        ("allocate", "memory", "more memory than the limit of 256 MiB"),
        ("allocate_in_children", "memory", "more than the limit of 256 MiB"),
        ("huge_output", "output", "more than the limit of 1024 KiB"),
        ("huge_result", "output", "more than the limit of 1024 KiB"),
        ("huge_file", "raised", "File too large"),
        ("leave_process", "killed", "with exit status 0 before giving a result"),
        ("crash", "killed", "by signal SIGSEGV"),
        ("exit_politely", "raised", "SystemExit: done"),
        ("change_the_grader", "killed", "before giving a result"),
        ("delete_own_files", "raised", "Error"),
        ("lower_the_workers_limits", "raised", "PermissionError"),
        ("slow_the_worker_down", "raised", "PermissionError"),
        ("nest_an_answer", "killed", "before giving a result"),
        ('forge_an_answer {"kind": "nonsense", "error": "x"}', "killed", "giving a result"),
        ('forge_an_answer {"kind": [], "error": 5}', "killed", "before giving a result"),
        ("drip", "timeout", "no result within the limit of 3 s"),
        ("close_the_pipe", "killed", "gave up its result"),
        ("share_memory", "raised", "OSError"),
    ],
)
def test_a_hostile_call_is_an_error_of_its_own_sample(sandbox, hostile, kind, said):
    assert_harmless(sandbox, hostile, kind, said)


def test_secrets_and_files_outside_cannot_be_read(sandbox, tmp_path, monkeypatch):
    home = tmp_path.parent / f"home-of-{tmp_path.name}"
    (home / ".aws").mkdir(parents=True)
    secret = home / ".aws" / "credentials"
    secret.write_text("aws_secret_access_key = x")
    (tmp_path / ".env").write_text("TOKEN=1")
    for path in (secret, "/etc/passwd", PROJECT, tmp_path / ".env", "/proc/1/environ"):
        assert_harmless(sandbox, f"read {path}", "raised", "Error")
    assert_harmless(sandbox, f"list_folder {home}", "raised", "Error")


def test_nothing_outside_can_be_written(sandbox, tmp_path):
    outside = tmp_path.parent / f"outside-of-{tmp_path.name}"
    for path in (outside, tmp_path / "new", tmp_path / "reward.py", "/usr/local/lib/new"):
        before = path.read_text() if Path(path).exists() else None
        assert_harmless(sandbox, f"write {path}", "raised", "Error")
        assert (path.read_text() if Path(path).exists() else None) == before


def test_no_connection_can_be_opened(sandbox, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert_harmless(sandbox, f"open_socket {port}", "raised", "Error")
    path = Path(f"/tmp/tunestone-test-{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        try:
            assert_harmless(sandbox, f"unix_socket {path}", "raised", "Error")
        finally:
            path.unlink()


def test_what_looks_like_a_result_is_not_taken_for_one(sandbox):
    outcomes = grades(sandbox, "look_like_a_result", "good 2")
    assert [
        outcome.value["reward"] if isinstance(outcome.value, dict) else outcome.value
        for outcome in outcomes
    ] == [0, 2.0]
    # One that finds the pipe of its own result forges its own reward only: it is the reward.
    outcomes = grades(sandbox, "write_results_to_all_descriptors", "good 2", "good 3", "good 4")
    assert [outcome.value["reward"] for outcome in outcomes[1:]] == [2.0, 3.0, 4.0]


def test_big_requests_with_big_answers_do_not_block_each_other(sandbox):
    texts = [f"big_answer {'y' * 300_000}"] * 80  # enough that a worker is sent several at once
    outcomes = grades(sandbox, *texts)
    assert {outcome.value["reward"] for outcome in outcomes} == {300_000}


def test_fields_that_a_fork_makes_up_are_left_out(sandbox):
    forged = 'forge_an_answer {"value": 7, "attempts": 9, "evil": 1, "modules": [[5], "x" , 3]}'
    outcomes = grades(sandbox, forged, "good 2")
    assert (outcomes[0].value, outcomes[0].attempts) == (7, 1)
    assert outcomes[1].value["reward"] == 2.0


def test_modes_and_times_of_files_stay_as_they_are(sandbox, tmp_path):
    before = (tmp_path / "reward.py").stat()
    outcomes = grades(sandbox, f"change_modes {tmp_path / 'reward.py'}", "good 2")
    after = (tmp_path / "reward.py").stat()
    assert (after.st_mode, after.st_mtime) == (before.st_mode, before.st_mtime)
    assert outcomes[0].kind in ("", "raised")  # read-only, or without effect
    assert outcomes[1].value["reward"] == 2.0


def test_no_datagram_reaches_a_socket_outside(sandbox):
    path = Path(f"/tmp/tunestone-datagram-{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        try:
            assert_harmless(sandbox, f"send_outside {path}", "raised", "Error")
        finally:
            path.unlink()


def test_what_one_call_leaves_is_not_counted_against_the_next(sandbox):
    texts = ["leave_children", "use_ten_processes"] * 4
    outcomes = grades(sandbox, *texts)
    assert [outcome.value for outcome in outcomes] == [1, 10] * 4, outcomes
    outcomes = grades(sandbox, *["move_the_print_position", "print_and_fail"] * 3)
    # That it printed far out is an error of its own sample; the next one's text is its own.
    assert {outcome.kind for outcome in outcomes[1::2]} == {"raised"}
    assert {outcome.printed for outcome in outcomes[1::2]} == {"a word\n"}


def test_any_scratch_folder_is_emptied(sandbox):
    outcomes = grades(sandbox, "nest_folders", "leave_many_files", "move_a_file", "list_folder .")
    assert [outcome.value for outcome in outcomes[1:]] == [1, 1, 0], outcomes
    assert outcomes[0].value == 1 or outcomes[0].kind == "killed"


def test_a_call_finds_nothing_of_the_one_before(sandbox):
    outcomes = grades(sandbox, *["good 1"] * 4)
    assert [outcome.value["metrics"]["calls"] for outcome in outcomes] == [1] * 4
    outcomes = grades(sandbox, *["leave_a_file", "find_a_file"] * 3)
    assert [outcome.value for outcome in outcomes] == [1, 0] * 3


def test_a_call_cannot_end_the_worker_for_the_others(sandbox):
    outcomes = grades(sandbox, "good 1", "kill_the_worker", "good 2", "stop_the_worker", "good 3")
    assert [outcomes[i].value["reward"] for i in (0, 2, 4)] == [1.0, 2.0, 3.0]
    assert outcomes[1].kind in ("raised", "killed")


def test_processes_left_behind_are_ended(sandbox):
    outcomes = grades(sandbox, "leave_a_daemon", "leave_a_daemon", "good 1")
    assert outcomes[2].value["reward"] == 1.0
    # Of each worker there remain itself, and the process that waits for it in its namespaces.
    expected, deadline = 2 * len(sandbox._idle), time.monotonic() + 5
    while len(alive := living([worker.pid for worker in sandbox._idle])) > expected:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def test_honest_code_may_use_subprocesses(sandbox):
    shell, null = grades(sandbox, "use_a_shell", "use_the_null_device")
    assert shell.value == 42, shell.error
    assert null.value == 1, null.error


def test_the_environment_is_handed_on_by_name_only(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    (outcome,) = grades(sandbox, "see_environment")
    assert outcome.value["metrics"]["secret"] == 0.0
    table = {"type": "function", "path": "reward.py:reward", "environment": ["SECRET"]}
    with ExitStack() as stack:
        grader = open_grader(table, Context(tmp_path), stack)
        (grade,) = grader.grade([Sample(Prompt("1", ()), "see_environment")])
    assert grade.metrics["secret"] == 1.0


def test_an_environment_variable_that_is_not_set_is_named(tmp_path):
    (tmp_path / "reward.py").write_text("def reward(prompt, completion, row):\n    return 1\n")
    table = {"type": "function", "path": "reward.py:reward", "environment": ["NOT_SET_ANYWHERE"]}
    with pytest.raises(RewardError, match="NOT_SET_ANYWHERE, which is not set"), ExitStack() as s:
        open_grader(table, Context(tmp_path), s)


def test_network_is_there_when_it_is_allowed(tmp_path):
    (tmp_path / "reward.py").write_text(HOSTILE)
    table = {"type": "function", "path": "reward.py:reward", "network": True}
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        grader = open_grader(table, Context(tmp_path), stack)
        port = server.getsockname()[1]
        (grade,) = grader.grade([Sample(Prompt("1", ()), f"open_socket {port}")])
    assert grade.reward == 1.0, grade.error


def test_modules_imported_inside_a_call_are_imported_once(tmp_path):
    (tmp_path / "slow_helper.py").write_text("import time\ntime.sleep(0.3)\n")
    (tmp_path / "reward.py").write_text(
        "def reward(prompt, completion, row):\n    import slow_helper\n    return 1\n"
    )
    program = Program(
        "tunestone.rewards.function:load_program",
        {"path": "reward.py:reward", "folder": str(tmp_path)},
        readable=(tmp_path,),
    )
    with Sandbox(program, Limits(), choose_mechanism(), workers=1) as sandbox:
        first, *rest = grades(sandbox, "a", "b", "c")
    assert first.seconds > 0.3
    assert all(outcome.seconds < 0.3 for outcome in rest)


def test_a_program_that_cannot_be_loaded_is_refused(tmp_path):
    (tmp_path / "reward.py").write_text("raise ValueError('broken')\n")
    with (
        pytest.raises(RewardError, match=r"reward\.py:1: ValueError: broken"),
        ExitStack() as stack,
    ):
        open_grader("reward.py:reward", Context(tmp_path), stack)
    for said in (b"5", b'{"failed": 5}', b"[1]", b"[" * 989 + b"]" * 989):
        (tmp_path / "reward.py").write_text(
            "import os, sys\n"
            f"text = {said!r}\n"
            "os.write(int(sys.argv[1]), len(text).to_bytes(4, 'big') + text)\n"
            "os._exit(0)\n"
        )
        with pytest.raises(RewardError, match="ended while the reward was"), ExitStack() as stack:
            open_grader("reward.py:reward", Context(tmp_path), stack)
    (tmp_path / "reward.py").write_text("import os\nos._exit(3)\n")
    with (
        pytest.raises(RewardError, match="ended while the reward was loaded"),
        ExitStack() as stack,
    ):
        open_grader("reward.py:reward", Context(tmp_path), stack)


def test_the_home_folder_shows_only_its_python_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("reward.py", "notes.txt", ".bashrc"):
        (tmp_path / name).write_text("")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "photos").mkdir()
    assert {path.name for path in expose(tmp_path)} == {"reward.py", "package"}
    (tmp_path / "photos" / ".hidden").write_text("")
    (tmp_path / "photos" / "shown.csv").write_text("")
    assert {path.name for path in expose(tmp_path / "photos")} == {"shown.csv"}


def test_an_unknown_mechanism_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    choose_mechanism.cache_clear()
    try:
        with pytest.raises(SandboxError, match="bwrap is not installed") as caught:
            choose_mechanism("bubblewrap")
        assert 'sandbox = "none"' in caught.value.remedy
    finally:
        choose_mechanism.cache_clear()
