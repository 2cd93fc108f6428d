"""The unit tests of a row, in whichever shape its data set has them, as one suite.

- standard input: a list of `{"input", "output"}`, or `{"inputs": [...], "outputs": [...]}` (APPS,
  LiveCodeBench, CodeContests);
- calls: the same with a function's name (`fn_name`, or the reward's `entry_point`): inputs are
  lists of arguments, or texts with one JSON value a line, as in LiveCodeBench;
- code: a list of `assert` statements (MBPP's `test_list`, with `test_setup_code` and
  `test_imports`), or a text that defines `check(candidate)` (HumanEval's `test`, with `entry_point`
  and `prompt`).

Each may be given as JSON in a text. What cannot be read raises UnusableReferenceError: an error on
the samples of the row. So does code that could not fail, for it would reward everything.
"""

import ast
import builtins
import json
import sys
from collections.abc import Mapping, Set
from typing import Any

from tunestone.rewards.ready.extraction import UnusableReferenceError

_MODULES = {"np": "numpy", "pd": "pandas"}
_DEFINITIONS = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign),
)


def read_suite(tests: Any, *, entry_point: str = "", prefix: str = "") -> dict[str, Any]:
    """The suite that the worker's judge takes: `style`, `tests`, and what its style needs.

    `entry_point` and `prefix` are those the reward names; else those within the tests hold.
    """
    tests = _parse(tests)
    table = tests if isinstance(tests, Mapping) else {}
    entry_point = entry_point or table.get("entry_point") or table.get("fn_name") or ""
    prefix = prefix or ("test" in table and table.get("prompt")) or ""
    if not isinstance(entry_point, str) or not isinstance(prefix, str):
        raise UnusableReferenceError("the tests' entry point or prompt is no text.")
    common = {"entry_point": entry_point, "prefix": prefix}
    pairs = _pairs_of(tests)
    if pairs is None:
        return {**common, **_read_code(tests, entry_point, prefix)}
    if not pairs:
        raise UnusableReferenceError("the row has no tests.")
    usual = "functional" if entry_point else "stdin"  # LiveCodeBench says which it is
    if all(pair.get("testtype", usual) == "stdin" for pair in pairs):
        texts = [{name: _as_text(pair[name]) for name in ("input", "output")} for pair in pairs]
        return {**common, "style": "stdin", "tests": texts}
    if not entry_point:
        raise UnusableReferenceError("the tests call a function; entry_point must name it.")
    return {**common, "style": "calls", "tests": [_read_call(pair) for pair in pairs]}


def _parse(tests: Any) -> Any:
    if isinstance(tests, str) and tests.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(tests)
        except (ValueError, RecursionError) as error:
            raise UnusableReferenceError(f"the tests are no JSON: {error}.") from None
    return tests


def _pairs_of(tests: Any) -> list[Mapping[str, Any]] | None:
    """Inputs and outputs, or None when the tests are code."""
    if isinstance(tests, Mapping):
        for input_name, output_name in (("inputs", "outputs"), ("input", "output")):
            if input_name in tests and output_name in tests:
                inputs, outputs = tests[input_name], tests[output_name]
                if not isinstance(inputs, list) or not isinstance(outputs, list):
                    inputs, outputs = [inputs], [outputs]
                if len(inputs) != len(outputs):
                    counts = f"{len(inputs)} inputs and {len(outputs)} outputs"
                    raise UnusableReferenceError(f"the tests have {counts}.")
                pairs = zip(inputs, outputs, strict=True)
                return [{"input": given, "output": right} for given, right in pairs]
        return None
    if not isinstance(tests, list) or not all(isinstance(test, Mapping) for test in tests):
        return None
    for test in tests:
        if "input" not in test or "output" not in test:
            raise UnusableReferenceError("a test is an object without input or output.")
    return tests


def _as_text(value: Any) -> str:
    """What goes in or comes out; APPS has lists of lines, too."""
    if isinstance(value, list):
        return "\n".join(map(_as_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def _read_call(pair: Mapping[str, Any]) -> dict[str, Any]:
    args, output = pair["input"], pair["output"]
    try:
        if isinstance(args, str):
            args = [json.loads(line) for line in args.splitlines() if line.strip()]
            output = json.loads(output) if isinstance(output, str) else output
    except (ValueError, RecursionError) as error:
        raise UnusableReferenceError(f"a test's arguments are no JSON: {error}.") from None
    if not isinstance(args, list):
        raise UnusableReferenceError("a test's input is no list of arguments.")
    return {"args": args, "output": output}


def _read_code(tests: Any, entry_point: str, prefix: str) -> dict[str, Any]:
    codes = _codes_of(tests)
    if not codes:
        raise UnusableReferenceError("the row has no tests.")
    trees = [_parse_code(code) for code in codes]
    has_check = any(_leaves_check(tree) for tree in trees)
    if has_check and not entry_point:
        raise UnusableReferenceError(
            "the tests define check(candidate); entry_point must name the candidate."
        )
    trusted = _trusted_part(prefix)
    own = _bound_names(ast.parse(trusted)) - {entry_point}
    modules: dict[str, str] = {}
    pieces = []
    for code, tree in zip(codes, trees, strict=True):
        _refuse_idle(tree, has_check)
        free = _free_names(tree) - own
        modules |= (found := _modules_in(tree, free))
        asked = (free - set(found)) | ({entry_point} if entry_point else set())
        if not asked:
            raise UnusableReferenceError("a test calls nothing of the solution; give entry_point.")
        pieces.append({"code": code, "names": sorted(asked)})
    return {
        "style": "code",
        "tests": pieces,
        "has_check": has_check,
        "modules": modules,
        "trusted_prefix": trusted,
    }


def _codes_of(tests: Any) -> list[str]:
    """The pieces of code, each with what has to come before it."""
    setup: list[Any] = []
    if isinstance(tests, Mapping):
        setup = [*(tests.get("test_imports") or []), tests.get("test_setup_code") or ""]
        tests = tests.get("test_list") or tests.get("test")
    codes = [tests] if isinstance(tests, str) else tests
    if not isinstance(codes, list) or not all(isinstance(part, str) for part in [*setup, *codes]):
        raise UnusableReferenceError(
            "the tests are neither inputs and outputs nor code: give a list of input and output, "
            "a list of assert statements, or code that defines check(candidate)."
        )
    return ["\n".join([*filter(None, setup), code]) for code in codes if code.strip()]


def _parse_code(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableReferenceError(f"a test is no Python: {error}.") from None


def _leaves_check(tree: ast.Module) -> bool:
    """Whether it defines `check` and leaves the call of it to us."""
    defines = any(isinstance(n, ast.FunctionDef) and n.name == "check" for n in tree.body)
    calls = [node.value for node in tree.body if isinstance(node, ast.Expr)]
    return defines and not any(
        isinstance(call, ast.Call) and ast.unparse(call.func) == "check" for call in calls
    )


def _refuse_idle(tree: ast.Module, has_check: bool) -> None:
    """A test that checks nothing would be passed by everything."""
    checks = any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(tree))
    if not checks or (not has_check and all(isinstance(n, _DEFINITIONS) for n in tree.body)):
        raise UnusableReferenceError("a test asserts nothing, so every solution would pass it.")


def _trusted_part(prefix: str) -> str:
    """The prefix as Python of its own: its imports and helpers serve the tests as well."""
    whole = f"{prefix.rstrip()}\n    pass\n"  # its last function has no body yet
    for code in (prefix, whole):
        if _is_python(code):
            return code
    raise UnusableReferenceError("the code that completions go on from is no Python.")


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _bound_names(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def _free_names(tree: ast.AST) -> set[str]:
    """What it uses and does not define: the solution's, or modules."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return used - _bound_names(tree) - set(dir(builtins))


def _modules_in(tree: ast.AST, names: Set[str]) -> dict[str, str]:
    """Of these names those that are modules the test forgot to import, for solutions import them.

    The judge takes its own: a solution's `math` could say that all is well. A name counts when it
    is nowhere used but in `name.attribute`, for functions may be called `queue`, too.
    """
    nodes = list(ast.walk(tree))
    bases = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    alone = {node.id for node in nodes if isinstance(node, ast.Name) and node not in bases}
    return {
        name: _MODULES.get(name, name)
        for name in names - alone
        if name in _MODULES or name in sys.stdlib_module_names
    }
