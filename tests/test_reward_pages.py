"""The pages about rewards, kept true: commands and their output, tables of examples, names.

The commands of write-a-reward.md run as they stand there, in one shell script. The two addresses in
them are replaced: the user's server gets a free port, and in place of a judge a scripted one
answers, by the rule that the page states. A line of shown output must be among the printed lines,
times and folders apart.
"""

import ast
import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scripted_server import Reply, Request, serve
from test_tutorial import blocks
from tunestone.rewards.grader import KINDS, open_grader, parse_spec
from tunestone.rewards.http import sign
from tunestone.rewards.judges.model_graders import GraderMessage
from tunestone.rewards.spec import Context
from tunestone.types import GradeFlag, Prompt, Sample

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "rewards"
INDEX = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
HOW_TO = (PAGES / "write-a-reward.md").read_text(encoding="utf-8")
SPEC = re.compile(r"^```(json|toml)\n(.*?)^```$", re.M | re.S)
OUTPUT = re.compile(r"^```text\n(.*?)^```$", re.M | re.S)
TIMES = re.compile(r'(?<= in )\d+\.\d+(?= s\.)|(?<="seconds": )[\d.e-]+')
EXAMPLE = re.compile(r'^\| `({"type".*?)` \| `(.*?)` \| `(".*?")` \| (\S+) \|$', re.M)
EXAMPLES = [found.groups() for found in EXAMPLE.finditer(HOW_TO)]


def stand_in(request: Request) -> Reply:
    """Chat completions of a judge: 5 where the reference answer occurs, 3 for any digit, else 1."""
    shown = request.json()["messages"][-1]["content"]
    pieces = dict(re.findall(r"<<< ([a-z ]+) \w+\n(.*?)\n>>> ", shown, re.S))
    answer = pieces["answer"]
    score = 5 if pieces["reference answer"] in answer else 3 if re.search(r"\d", answer) else 1
    content = json.dumps({"reasoning": "by rule", "score": score})
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 400, "completion_tokens": 12, "total_tokens": 412}
    kind = {"id": "1", "object": "chat.completion", "created": 0, "model": "stand-in"}
    return Reply({**kind, "choices": [choice], "usage": usage})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def plain(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    lines = [TIMES.sub("...", line).rstrip() for line in text.splitlines()]
    return [line for line in lines if line.strip() and not set(line) <= set(" ~^")]


def test_the_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    found = blocks(HOW_TO)
    assert len(found) >= 12
    steps = "".join(f"echo '--- line {line}' >&2\n{commands}\n" for line, commands in found)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with serve(stand_in) as judge:
        script = steps.replace("8807", str(free_port()))
        script = script.replace("http://127.0.0.1:8000", judge.url)
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"trap 'jobs -p | xargs -r kill' EXIT\n{script}"],
            cwd=tmp_path, env={**os.environ, "PATH": path}, timeout=120, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip
    assert result.returncode == 0, result.stdout
    printed = set(plain(result.stdout.replace(str(tmp_path.resolve()), "/home/you")))
    shown = [line for block in OUTPUT.findall(HOW_TO) for line in plain(block)]
    assert len(shown) >= 40
    assert [line for line in shown if line not in printed] == [], result.stdout


@pytest.mark.parametrize(("spec", "row", "text", "reward"), EXAMPLES)
def test_the_tables_show_real_rewards(spec: str, row: str, text: str, reward: str) -> None:
    with ExitStack() as stack:
        grader = open_grader(json.loads(spec), Context(ROOT), stack)
        prompt = Prompt("row", ({"role": "user", "content": "?"},), json.loads(row))
        (grade,) = grader.grade([Sample(prompt, json.loads(text))])
    assert ("error" if grade.reward is None else f"{grade.reward:.4g}") == reward, grade


def test_the_specs_on_the_pages_are_read() -> None:
    texts = [path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")]
    found = [block for text in texts for block in SPEC.findall(text)]
    tables = [json.loads(text) if kind == "json" else tomllib.loads(text) for kind, text in found]
    specs = [table.get("reward", table) for table in tables]
    specs = [spec for spec in specs if "type" in spec]
    assert len(specs) >= 3
    assert [parse_spec(spec).type for spec in specs] == [spec["type"] for spec in specs]


def test_the_check_of_signatures_agrees_with_ours() -> None:
    (snippet,) = re.findall(r"^```python\n(import hashlib.*?)^```$", HOW_TO, re.M | re.S)
    names: dict[str, Any] = {}
    exec(snippet, names)
    now = str(int(time.time()))
    signature = sign("secret", b"body", timestamp=now)
    assert names["is_genuine"]("secret", b"body", now, signature)
    assert not names["is_genuine"]("secret", b"other", now, signature)
    old = sign("secret", b"body", timestamp="1700000000")
    assert not names["is_genuine"]("secret", b"body", "1700000000", old)


def test_every_kind_is_listed_shown_and_has_its_fields() -> None:
    reference = (PAGES / "reference.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"\n| `{kind}` | " not in INDEX] == []
    named = [kind for kind in KINDS if f"`{kind}`" in HOW_TO or f'"{kind}"' in HOW_TO]
    assert sorted({"lambda", "function", "http", *named}) == sorted(KINDS)  # three have a heading
    for kind, spec in KINDS.items():
        section = reference.partition(f"\n## `{kind}`\n")[2].partition("\n## ")[0]
        fields = [f.alias or n for n, f in spec.model_fields.items() if n not in ("type", "name")]
        assert [name for name in fields if f"\n| `{name}` | " not in section] == [], kind
    assert [n for n in GraderMessage.model_fields if f"| `{n}` | " not in reference] == []


def test_every_flag_is_explained() -> None:
    assert [flag for flag in GradeFlag.__args__ if f"`{flag}`" not in INDEX] == []


def codes(source: str) -> Iterator[str]:
    """Codes of the findings and probes that a module of the check makes."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            position = {"Finding": 1, "Probe": 0}.get(node.func.id)
            if position is not None:
                yield from texts(node.args[position], tree)


def texts(value: ast.expr, tree: ast.Module) -> Iterator[str]:
    """The strings an expression may have: a constant, either branch, a loop's values."""
    if isinstance(value, ast.Constant):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from (*texts(value.body, tree), *texts(value.orelse, tree))
    elif isinstance(value, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in value.values]
        yield from ("".join(parts).format(name) for name in ("validation", "test"))
    elif isinstance(value, ast.Name):
        loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
        names = [loop for loop in loops if value.id in ast.unparse(loop.target)]
        constants = [node for loop in names for node in ast.walk(loop.iter)]
        yield from (
            node.value
            for node in constants
            if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]+(_[a-z]+)+", str(node.value))
        )


def test_codes_are_found() -> None:
    source = "for code in (('a_b', 'x y'),):\n    Finding('ok', code, '')\nProbe('c', '')\n"
    source += "Finding('ok', 'd' if x else 'e', '')\nFinding('ok', f'no_{name}_leak', '')\n"
    assert sorted(codes(source)) == ["a_b", "c", "d", "e", "no_test_leak", "no_validation_leak"]


def test_every_finding_is_explained() -> None:
    rules = (PAGES / "quality-rules.md").read_text(encoding="utf-8")
    modules = (ROOT / "src" / "tunestone" / "check").glob("*.py")
    found = {code for path in modules for code in codes(path.read_text(encoding="utf-8"))}
    assert len(found) >= 70
    assert sorted(code for code in found if f"`{code}`" not in rules) == []
